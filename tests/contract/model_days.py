"""Failures of a language model's endpoint, byte by byte."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.misbehaving import MisbehavingServer, Request

KEY = "sk-days-4711"
#: Statuses after which nothing was charged.
FREE = frozenset({*range(300, 600)} - {408, 504, 524})


@dataclass(frozen=True)
class Day:
    """The response to each request of a day.

    Attributes:
        content: Makes the model's words of the right answer.
        body: Makes an undocumented body of the right answer.
        then: The body is sent completely, cut, without a header, or followed by comments.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: Callable[[str], Any] = str
    body: Callable[[str], bytes] | None = None
    then: str = "end"
    finish: str = "stop"

    @property
    def is_chargeable(self) -> bool:
        """True if a request may have been charged."""
        return self.status not in FREE


def says(content: Any, **more: Any) -> Day:
    made = content if callable(content) else lambda _: content
    return Day(content=made, **more)


def sends(body: Any, **more: Any) -> Day:
    if callable(body):
        return Day(body=body, **more)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Day(body=lambda _: raw, **more)


def whole(message: Any, **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": message, **more}]}).encode()


def events(*chunks: Any, end: str = "\n", done: bool = True) -> bytes:
    lines = [chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}" for chunk in chunks]
    lines += ["data: [DONE]"] if done else []
    return "".join(f"{line}{end}{end}" for line in lines).encode()


def deltas(text: str, size: int = 9, **more: Any) -> list[dict[str, Any]]:
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    return [{"choices": [{"index": 0, "delta": {"content": part}, **more}]} for part in parts]


TOOL = {"function": {"name": "search", "arguments": "{}"}}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def refuses(status: int, result: Any = b"", **headers: str) -> Day:
    return sends(result, status=status, headers=headers)


def half(good: str) -> str:
    return good[: len(good) // 2]


def streamed(make: Callable[[list[Any]], bytes]) -> Day:
    return sends(lambda good: make([*deltas(good), STOP]))


def called(name: str) -> Callable[[str], bytes]:
    def body(good: str) -> bytes:
        call = {"function": {"name": "answer", "arguments": good}}
        given = {"tool_calls": [call]} if name == "tool_calls" else {name: call["function"]}
        return whole({"content": None, **given}, finish_reason=name)

    return body


STREAMS = {
    "a NUL": says(lambda good: good.replace("Bak", "\\u0000")),
    "half of a pair in a text": says(lambda good: good.replace("Bak", "\\ud800")),
    "cut off, and whole": Day(finish="length"),
    "lines end in CR LF": streamed(lambda c: events(*c, end="\r\n")),
    "the last event is open": streamed(lambda c: events(*c, done=False).rstrip()),
    "ids and retries": streamed(lambda c: events("id: 1\nretry: 9", *c)),
    "usage is a list": streamed(lambda c: events(*c, {"choices": [], "usage": [7]})),
    "a role first": streamed(lambda c: events({"choices": [{"delta": {"role": "a"}}]}, *c)),
    "thoughts beside": streamed(
        lambda c: events({"choices": [{"delta": {"reasoning_content": "Hm {"}}]}, *c)
    ),
    "declared as text": replace(
        streamed(lambda c: events(*c)), headers={"Content-Type": "text/plain"}
    ),
    "a tool's arguments": sends(called("tool_calls")),
    "error is null": sends(
        lambda good: json.dumps(
            {"error": None, "choices": [{"message": {"content": good}}]}
        ).encode()
    ),
}
USELESS: dict[str, Day] = {
    "YAML": says("title: Bakery\nsteps:\n  - title: Open it\nreply: Hello\ntier: standard\n"),
    "line breaks": says("\n\n\r\n"),
    "null": says("null"),
    "wrong types": says('{"title": 7, "reply": ["x"], "steps": "none", "tier": 0}'),
    "the schema": says('{"type": "object", "properties": {"reply": {"type": "string"}}}'),
    "a name alone": says('{"title"'),
    "many lists": says('{"reply": ' + "[" * 9_999 + "]" * 9_999 + "}"),
    "half of a pair": sends(whole({"content": '{"title": "\ud83d'})),
    "choices are a text": sends({"choices": "none"}),
    "words are an object": sends(whole({"content": {"text": "hi"}})),
    "OK": sends(b"OK"),
    "broken zip": sends(b"\x1f\x8b no zip", headers={"Content-Encoding": "gzip"}),
    "accepted": sends({"id": "job-1", "status": "queued"}, status=202),
    "filtered": says(half, finish="content_filter"),
    "too much": says("x" * 2_100_000),
    "only thought": sends(whole({"content": ""}, finish_reason="length")),
    "another tool": sends(whole({"content": None, "tool_calls": [TOOL]}, finish_reason="stop")),
    "a refusal": sends(whole({"content": None, "refusal": "I will not."})),
    "no message": sends(whole(None)),
    "nothing": sends(b""),
}
BROKEN = {
    "too little": Day(then="short"),
    "half a header": Day(body=lambda _: b"HTTP/1.1 200 OK\r\ncontent-ty", then="raw"),
    "comments for ever": sends(b": wait\n\n", then="comments"),
}
WORDS = {"error": {"message": f"The key {KEY} has no rights for model m-9", "type": "x"}}
REFUSED = {
    **{
        str(status): refuses(status, WORDS)
        for status in (303, 401, 406, 413, 500, 501, 502, 504, 511, 529)
    },
    "522": refuses(522, b"<html>Ray</html>"),
    "400, context": refuses(400, {"error": {"message": "maximum context length is 8192 tokens"}}),
    "400, a page": refuses(400, b"<html>Bad</html>"),
    "422, a list": refuses(422, {"detail": [{"loc": ["body", "messages"], "msg": "bad"}]}),
    "429, no credit": refuses(429, {"error": {"code": "insufficient_quota"}}),
    "429, tokens": refuses(
        429, WORDS, **{"X-RateLimit-Reset-Tokens": "6m0s", "X-RateLimit-Remaining-Tokens": "0"}
    ),
    "503, soon": refuses(503, WORDS, **{"Retry-After": "70"}),
}
DAYS: dict[str, Day] = {**STREAMS, **USELESS, **BROKEN, **REFUSED}


class DaysServer(MisbehavingServer):
    """Responds to a prompt with `[day name]` as on that day, and counts requests that may cost."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__()
        self._answers = answers
        #: Requests that may have been charged, by day and question.
        self.chargeable: Counter[tuple[str, str]] = Counter()

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        body = json.loads(request.body)
        asked = json.dumps(body["messages"])
        named = re.search(r"\[day ([^]]+)\]", asked)
        assert named is not None
        name = "decide" if "assistant of a chat" in asked else "procedure"
        day = DAYS[named[1]]
        self.chargeable[named[1], name] += day.is_chargeable
        await self._send(day, json.dumps(self._answers[name]), writer)

    async def _send(self, day: Day, good: str, writer: asyncio.StreamWriter) -> None:
        raw = day.body(good) if day.body is not None else self._documented(day, good)
        size = {"end": len(raw), "short": len(raw) + 99}.get(day.then)
        headers = {"Content-Type": "text/event-stream", **day.headers}
        headers |= {} if size is None else {"Content-Length": str(size)}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if day.then != "raw":
            writer.write(f"HTTP/1.1 {day.status} X\r\n{head}connection: close\r\n\r\n".encode())
        writer.write(raw)
        while day.then == "comments" and not writer.is_closing():
            writer.write(b": wait\n\n")
            await writer.drain()
            await asyncio.sleep(0.1)

    def _documented(self, day: Day, good: str) -> bytes:
        stop = {"choices": [{"index": 0, "delta": {}, "finish_reason": day.finish}]}
        return events(*deltas(day.content(good)), stop)
