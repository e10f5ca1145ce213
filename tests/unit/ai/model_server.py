"""A local server in the documented format of chat completions, with its ways to fail.

How it listens, hangs and breaks off is the matter of `tests/support/misbehaving.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from minutehand.config import Settings
from tests.support.misbehaving import MisbehavingServer, Request, write

KEY = "sk-live-0001"


@dataclass(frozen=True)
class Fault:
    """What a request gets instead of an answer.

    Attributes:
        cut: Break off in the middle of the answer.
        drip: Send a byte now and then, without end.
        said: Content in place of the answer's.
        message: More of the message, such as a refusal.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    drip: bool = False
    hang: bool = False
    said: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    finish: str | None = "stop"


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    name: str
    key: str | None
    body: dict[str, Any]


class ModelServer(MisbehavingServer):
    """Answers each prompt by its schema's name: `answers`."""

    def __init__(self) -> None:
        super().__init__()
        #: An answer, or what makes one of a request's body.
        self.answers: dict[str, Any] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.seen: list[Seen] = []

    @property
    def url(self) -> str:
        """What LANGUAGE_MODEL_URL holds."""
        return f"{self.origin}/v1"

    def known_to(self, settings: Settings) -> Settings:
        """Settings with this server as their language model."""
        return settings.model_copy(
            update={
                "language_model_url": self.url,
                "language_model_key": KEY,
                "language_model": "test-model",
                "language_model_prices": (1.0, 2.0),
            }
        )

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Answer a prompt."""
        body = json.loads(request.body)
        spec = (body.get("response_format") or {}).get("json_schema") or {"name": "text"}
        key = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        name = spec["name"]
        self.seen.append(Seen(name, key, body))
        queue = self.faults.get(name) or self.faults.get("*") or []
        fault = queue.pop(0) if queue else Fault()
        if key != KEY:
            fault = Fault(401, {"error": {"message": f"Incorrect API key provided: {key}"}})
        if fault.hang:
            await self.hang()
        if fault.status != 200:
            told = fault.body if fault.body is not None else b"no JSON"
            write(writer, fault.status, told, fault.headers)
            return
        text = fault.said if fault.said is not None else self._text(body, name)
        said = {"role": "assistant", "content": text} | fault.message
        answer = {
            "choices": [{"index": 0, "message": said, "finish_reason": fault.finish}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 50},
        }
        if fault.drip:
            writer.write(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
            return
        write(writer, 200, answer, cut=fault.cut)

    def _text(self, body: dict[str, Any], name: str) -> str:
        answer = self.answers.get(name, "")
        answer = answer(body) if callable(answer) else answer
        return answer if isinstance(answer, str) else json.dumps(answer)
