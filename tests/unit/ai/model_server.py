"""A local server with the documented format of chat completions, with faults on request."""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from minutehand.config import Settings
from tests.support import misbehaving
from tests.support.misbehaving import MisbehavingServer, Request, write

Json = dict[str, Any]

KEY = "sk-live-0001"


@dataclass(frozen=True)
class Fault(misbehaving.Fault):
    """A faulty response to a request.

    Attributes:
        until: Respond only after this event.
        said: Content of the message, in place of the prepared answer.
        answer: Top-level fields of the response to replace.
    """

    until: asyncio.Event | None = None
    said: str | None = None
    answer: Json = field(default_factory=dict)
    finish: str | None = "stop"


@dataclass(frozen=True)
class Seen:
    """A request that the server received."""

    name: str
    body: Json


class ModelServer(MisbehavingServer):
    """Responds to each prompt with the answer for its schema's name."""

    def __init__(self) -> None:
        super().__init__()
        #: Answers by schema name. An answer may be a function of the request's body.
        self.answers: Json = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.seen: list[Seen] = []

    @property
    def url(self) -> str:
        """The value of LANGUAGE_MODEL_URL."""
        return f"{self.origin}/v1"

    def known_to(self, settings: Settings) -> Settings:
        """Return settings that use this server as the language model."""
        return settings.model_copy(
            update={
                "language_model_url": self.url,
                "language_model_key": KEY,
                "language_model": "test-model",
                "language_model_prices": (1.0, 2.0),
            }
        )

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Respond to a prompt."""
        body = json.loads(request.body)
        spec = (body.get("response_format") or {}).get("json_schema") or {"name": "text"}
        key = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        name = spec["name"]
        self.seen.append(Seen(name, body))
        queue = self.faults.get(name) or self.faults.get("*") or []
        fault = queue.pop(0) if queue else Fault()
        if key != KEY:
            fault = Fault(401, {"error": {"message": f"Incorrect API key provided: {key}"}})
        if fault.hang:
            await self.hang()
        if fault.until is not None:
            await fault.until.wait()
        if fault.status != 200 or fault.body is not None:
            given = fault.body if fault.body is not None else b"no JSON"
            write(writer, fault.status, given, fault.headers)
            return
        text = self._text(body, name) if fault.said is None else fault.said
        said = {"role": "assistant", "content": text}
        if body.get("stream") and not fault.answer:
            self._stream(writer, text, fault)
            return
        answer = {
            "choices": [{"index": 0, "message": said, "finish_reason": fault.finish}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 50},
        } | fault.answer
        write(writer, 200, answer, cut=fault.cut)

    def _stream(self, writer: asyncio.StreamWriter, text: str, fault: Fault) -> None:
        """Stream an answer in pieces of a few letters, as vendors do.

        The fault `cut` ends the answer inside a piece. A text of megabytes is streamed in larger
        pieces, because the parser's work per piece is not tested here.
        """
        size = max(7, len(text) // 1_000)
        chunks: list[Json] = [
            {"choices": [{"index": 0, "delta": {"content": text[at : at + size]}}]}
            for at in range(0, len(text), size)
        ]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": fault.finish}]})
        chunks.append({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 50}})
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        raw = f"{events}data: [DONE]\n\n".encode()
        headers = {"content-type": "text/event-stream"}
        write(writer, 200, raw, headers, cut=fault.cut)

    def _text(self, body: Json, name: str) -> str:
        answer = self.answers.get(name, "")
        answer = answer(body) if callable(answer) else answer
        return answer if isinstance(answer, str) else json.dumps(answer)
