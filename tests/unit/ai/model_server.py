"""A local server in the documented format of streamed chat completions, with its ways to fail.

How it listens, hangs and breaks off is the matter of `tests/support/misbehaving.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from minutehand.ai.language_model import Material, Prompt
from minutehand.ai.offline import OfflineLanguageModel
from minutehand.config import Settings
from tests.support.misbehaving import MisbehavingServer, Request, write

KEY = "sk-live-0001"


@dataclass(frozen=True)
class Fault:
    """What a request gets instead of an answer.

    Attributes:
        cut_after: Break off after so many pieces of the answer.
        hang_after: Fall silent after so many pieces; 0 before the first byte.
        said: Content in place of the answer's.
        usage: What it says the answer took.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hang_after: int | None = None
    said: str | None = None
    finish: str | None = "stop"
    drop: bool = False
    usage: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    name: str
    key: str | None
    body: dict[str, Any]


class ModelServer(MisbehavingServer):
    """Answers each prompt by its schema's name: `answers` where given, else by extraction."""

    def __init__(self) -> None:
        super().__init__()
        #: An answer, or what makes one of a request's body.
        self.answers: dict[str, Any] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.seen: list[Seen] = []
        #: Requests answered to the end, by name: what would be paid for.
        self.paid: Counter[str] = Counter()

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
        """Stream the answer to a prompt."""
        body = json.loads(request.body)
        spec = (body.get("response_format") or {}).get("json_schema") or {"name": "text"}
        key = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        name = spec["name"]
        self.seen.append(Seen(name, key, body))
        queue = self.faults.get(name) or self.faults.get("*") or []
        fault = queue.pop(0) if queue else Fault()
        if fault.drop:
            return
        if key != KEY:
            fault = Fault(401, {"error": {"message": f"Incorrect API key provided: {key}"}})
        if fault.hang_after == 0:
            await self.hang()
        if fault.status != 200:
            told = fault.body if fault.body is not None else b"no JSON"
            write(writer, fault.status, told, fault.headers)
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        text = fault.said if fault.said is not None else await self._text(body, spec)
        for number, start in enumerate(range(0, len(text), 20)):
            if fault.cut_after == number:
                return
            if fault.hang_after == number:
                await self.hang()
            delta = {"content": text[start : start + 20]}
            _event(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": fault.finish}]})
        if "stream_options" in body:
            usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
            _event(writer, {"choices": [], "usage": usage | fault.usage})
        self.paid[name] += 1
        _event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")

    async def _text(self, body: dict[str, Any], spec: dict[str, Any]) -> str:
        if spec["name"] in self.answers:
            answer = self.answers[spec["name"]]
            answer = answer(body) if callable(answer) else answer
            return answer if isinstance(answer, str) else json.dumps(answer)
        given = Material("given", body["messages"][-1]["content"])
        prompt = Prompt(spec["name"], "", [given], schema=spec.get("schema"))
        return (await OfflineLanguageModel().complete(prompt)).text


def _event(writer: asyncio.StreamWriter, told: Any) -> None:
    data = told if isinstance(told, str) else json.dumps(told)
    raw = f"data: {data}\n\n".encode()
    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
