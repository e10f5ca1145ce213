"""A local speech-to-text server in OpenAI's documented format, with faults on request."""

import asyncio
from typing import Any

from minutehand.config import Settings
from tests.support.misbehaving import Fault, MisbehavingServer, Request, write

KEY = "sk-speech-0001"
SAID = {
    "task": "transcribe",
    "language": "english",
    "duration": 1.0,
    "text": " Turn it off. Wait.",
    "segments": [
        {"id": 0, "start": 0.4, "end": 0.1, "text": " Turn it off."},
        {"id": 1, "start": 0.5, "end": 7.0, "text": " Wait."},
        {"id": 2, "start": 0.9, "end": 1.0, "text": " "},
    ],
}


class SpeechServer(MisbehavingServer):
    """A speech-to-text server.

    It responds with the errors in `faults` first, then with the text `said`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        self.said: Any = SAID
        self.seen: list[bytes] = []

    @property
    def url(self) -> str:
        """The value of SPEECH_URL."""
        return f"{self.origin}/v1"

    def known_to(self, settings: Settings) -> Settings:
        """Return settings that use this server as the speech-to-text service."""
        return settings.model_copy(
            update={"speech_url": self.url, "speech_key": KEY, "speech_model": "whisper-1"}
        )

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Respond to a transcription request with the next fault, or with the recognized text."""
        self.seen.append(request.body)
        fault = self.faults.pop(0) if self.faults else Fault()
        if request.headers.get("authorization") != f"Bearer {KEY}":
            fault = Fault(401, {"error": {"message": "Incorrect API key provided"}})
        said = fault.body if fault.body is not None else self.said
        write(writer, fault.status, said, fault.headers, cut=fault.cut)
