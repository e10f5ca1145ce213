"""A language model's worst days, 150 and more: what its endpoint sends, byte by byte."""

from __future__ import annotations

import asyncio
import base64
import gzip
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
    """What each request gets.

    Attributes:
        content: What is made of the right answer, as the model's words.
        body: The body in place of a documented one; gets the right answer too.
        then: What comes after the body: its end, silence, or a connection that breaks.
        step: Bytes that are sent at once.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: Callable[[str], Any] = str
    body: Callable[[str], bytes] | None = None
    then: str = "end"
    step: int = 1 << 30
    finish: str = "stop"

    @property
    def is_chargeable(self) -> bool:
        """Whether a request may have been charged."""
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


STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def refuses(status: int, said: Any = b"", **headers: str) -> Day:
    return sends(said, status=status, headers=headers)


def mangled(pattern: str, by: str) -> Callable[[str], str]:
    return lambda good: re.sub(pattern, by, good)


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
    "lines end in CR LF": streamed(lambda c: events(*c, end="\r\n")),
    "lines end in CR": streamed(lambda c: events(*c, end="\r")),
    "no done": streamed(lambda c: events(*c, done=False)),
    "done without a finish": streamed(lambda c: events(*c[:-1])),
    "the last event is open": streamed(lambda c: events(*c, done=False).rstrip()),
    "comments between": streamed(lambda c: events(": thinking", *c, ": bye")),
    "named events": streamed(lambda c: events(*c).replace(b"data: {", b"event: message\ndata: {")),
    "no space behind data": streamed(lambda c: events(*c).replace(b"data: ", b"data:")),
    "ids and retries": streamed(lambda c: events("id: 1\nretry: 9", *c)),
    "byte by byte": replace(streamed(lambda c: events(*c)), step=1),
    "a mark in front": streamed(lambda c: b"\xef\xbb\xbf" + events(*c)),
    "lines in front": streamed(lambda c: b"\r\n\n" + events(*c)),
    "a role first": streamed(lambda c: events({"choices": [{"delta": {"role": "a"}}]}, *c)),
    "no choices first": streamed(lambda c: events({"choices": [], "id": "x"}, *c)),
    "null words": streamed(lambda c: events({"choices": [{"delta": {"content": None}}]}, *c)),
    "a null delta": streamed(lambda c: events({"choices": [{"delta": None}]}, *c)),
    "thoughts beside": streamed(
        lambda c: events({"choices": [{"delta": {"reasoning_content": "Hm {"}}]}, *c)
    ),
    "figures in each": streamed(
        lambda c: events(*[each | {"usage": {"prompt_tokens": 1}} for each in c])
    ),
    "odd figures": streamed(lambda c: events(*c, {"choices": [], "usage": {"prompt_tokens": "7"}})),
    "a second choice": streamed(
        lambda c: events(*c, {"choices": [{"index": 1, "delta": {"content": "No"}}]})
    ),
    "declared as text": replace(
        streamed(lambda c: events(*c)), headers={"Content-Type": "text/plain"}
    ),
    "zipped": replace(
        streamed(lambda c: gzip.compress(events(*c))), headers={"Content-Encoding": "gzip"}
    ),
    "finish with words": sends(lambda good: events(*deltas(good, 10**6, finish_reason="stop"))),
    "parts of words": sends(
        lambda good: events({"choices": [{"delta": {"content": [{"type": "text", "text": good}]}}]})
    ),
    "a tool's arguments": sends(called("tool_calls")),
    "a function's arguments": sends(called("function_call")),
    "created": replace(says(str), status=201),
    "partial": replace(says(str), status=206),
    "error is null": sends(
        lambda good: json.dumps(
            {"error": None, "choices": [{"message": {"content": good}}]}
        ).encode()
    ),
}
WRAPPED = {
    "in a tag": says(lambda good: f"<answer>{good}</answer>"),
    "a result with a status": says(lambda good: f'{{"status": "ok", "result": {good}}}'),
    "in properties": says(lambda good: f'{{"type": "object", "properties": {good}}}'),
    "in a list": says(lambda good: f"[{good}]"),
    "twice": says(lambda good: f"{good}\n\n{good}"),
    "as a text": says(json.dumps),
    "as a text in an object": says(lambda good: json.dumps({"json": good})),
    "fence of tildes": says(lambda good: f"~~~\n{good}\n~~~"),
    "fence in one line": says(lambda good: f"```json {good} ```"),
    "fence of another tongue": says(lambda good: f"```javascript\n{good}\n```"),
    "two fences": says(lambda good: f"```\n{{}}\n```\nNow:\n```json\n{good}\n```"),
    "a line comment": says(lambda good: good.replace("{", "{ // it begins\n", 1)),
    "a block comment": says(lambda good: good.replace("{", "{ /* here */", 1)),
    "commas at the ends": says(lambda good: re.sub(r"([}\]])", r",\1", good)),
    "single quotes": says(mangled('"', "'")),
    "names without quotes": says(mangled(r'"(\w+)":', r"\1:")),
    "curly quotes": says(mangled(r'"([^"]*)"', "“\\1”")),
    "Python's words": says(lambda good: f"{good[:-1]}, 'more': None, 'is': True}}"),
    "a semicolon behind": says(lambda good: f"{good};"),
    "an assignment": says(lambda good: f"const answer = {good};"),
    "the word json": says(lambda good: f"json\n{good}"),
    "a title in front": says(lambda good: f"# Answer\n\n**Here:** {good}"),
    "braces behind": says(lambda good: f'{good}\nUse {{it}} well, {{"or" not}}.'),
    "signs without width": says(lambda good: f"\u200b{good}\u200b"),
    "hard spaces": says(lambda good: f"\u00a0\u00a0{good}"),
    "pretty": says(lambda good: json.dumps(json.loads(good), indent=4)),
    "raw line breaks": says(lambda good: good.replace("Bak", "Ba\n\tk")),
    "other members": says(lambda good: f'{good[:-1]}, "confidence": 0.9, "notes": [{{}}]}}'),
    "a thought left open": says(lambda good: f"<think>\nFirst this. Then:\n{good}"),
    "a thought with a draft": says(lambda good: f'<think>{{"title": "x"}}</think>{good}'),
    "an analysis": says(lambda good: f"analysis: it is easy.\nfinal: {good}"),
    "escaped letters": says(lambda good: good.replace("B", "\\u0042")),
    "members twice": says(lambda good: f"{{{good[1:-1]}, {good[1:-1]}}}"),
    "blank lines between": says(lambda good: good.replace(",", ",\n\n\n")),
}
USELESS: dict[str, Day] = {
    "YAML": says("title: Bakery\nsteps:\n  - title: Open it\nreply: Hello\ntier: standard\n"),
    "XML": says("<plan><title>Bakery</title></plan>"),
    "base64": says(lambda good: f'{{"data": "{base64.b64encode(good.encode()).decode()}"}}'),
    "spaces": says("     "),
    "line breaks": says("\n\n\r\n"),
    "signs that no one sees": says("\u200b\u2060\u3164"),
    "hard spaces alone": says("\u00a0" * 9),
    "blank members": says('{"title": " ", "reply": " ", "steps": [{"title": "\u200b"}]}'),
    "null": says("null"),
    "nothing": says("{}"),
    "an empty list": says("[]"),
    "yes": says("true"),
    "wrong types": says('{"title": 7, "reply": ["x"], "steps": "none", "tier": 0}'),
    "too large a number": says('{"reply": 1e999, "title": "x", "steps": [{"at_seconds": 1e999}]}'),
    "not a number": says('{"reply": NaN, "title": NaN, "steps": NaN}'),
    "a list of nulls": says('{"reply": null, "title": "x", "steps": [null, null]}'),
    "the schema": says('{"type": "object", "properties": {"reply": {"type": "string"}}}'),
    "half": says(half),
    "half, too long": says(half, finish="length"),
    "half of an escape": says('{"reply": "\\u00'),
    "a name alone": says('{"title"'),
    "a brace": says("{"),
    "many braces": says("{" * 40_000),
    "many pairs": says("{}" * 40_000),
    "many lists": says('{"reply": ' + "[" * 9_999 + "]" * 9_999 + "}"),
    "commas": says('{"reply":' + "," * 50_000 + "}"),
    "quotes": says('{"' * 9_000),
    "control signs": says('{"reply": \x01\x02\x03}'),
    "half of a pair": sends(whole({"content": '{"title": "\ud83d'})),
    "an error as words": says('{"error": {"message": "overloaded"}}'),
    "no choices": sends({"choices": []}),
    "choices are null": sends({"choices": None}),
    "choices are a text": sends({"choices": "none"}),
    "choices are numbers": sends({"choices": [7]}),
    "a message is a text": sends({"choices": [{"message": "hi"}]}),
    "a delta is a text": sends(lambda _: events({"choices": [{"delta": "hi"}]})),
    "words are an object": sends(whole({"content": {"text": "hi"}})),
    "a list": sends([1, 2]),
    "a text": sends("hi"),
    "a number": sends(b"7"),
    "OK": sends(b"OK"),
    "a page": sends(b"<!doctype html><title>Welcome</title>"),
    "nothing at all": sends(b""),
    "two bytes a letter": sends(lambda good: whole({"content": good}).decode().encode("utf-16")),
    "broken zip": sends(b"\x1f\x8b no zip", headers={"Content-Encoding": "gzip"}),
    "a broken event": sends(lambda good: events(*deltas(good)[:2], 'data: {"choices": [')),
    "an error on the way": sends(
        lambda good: events(*deltas(good)[:2], {"error": {"message": "worker died"}})
    ),
    "an event of error": sends(
        lambda good: events(*deltas(good)[:2], 'event: error\ndata: {"message": "died"}')
    ),
    "accepted": sends({"id": "job-1", "status": "queued"}, status=202),
    "no content": refuses(204),
    "reset content": refuses(205),
    "error is a list": sends({"error": ["bad"]}),
    "filtered": says(half, finish="content_filter"),
}
BROKEN = {
    "too little": Day(then="short"),
    "reset in the body": Day(then="reset"),
    "reset at once": Day(body=lambda _: b"", then="reset at once"),
    "no HTTP": Day(body=lambda _: b"SSH-2.0-server\r\n", then="raw"),
    "half a header": Day(body=lambda _: b"HTTP/1.1 200 OK\r\ncontent-ty", then="raw"),
    "a broken chunk": Day(
        body=lambda _: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}", then="raw"
    ),
    "a stream that ends early": sends(lambda good: events(*deltas(good)[:3], done=False)),
    "a stream that falls silent": sends(
        lambda good: events(*deltas(good)[:3], done=False), then="silent"
    ),
    "comments for ever": sends(b": wait\n\n", then="comments"),
    "no header": Day(body=lambda _: b"", then="silent at once"),
}
WORDS = {"error": {"message": f"The key {KEY} has no rights for model m-9", "type": "x"}}
REFUSED = {
    **{
        str(status): refuses(status, WORDS)
        for status in (303, 304, 307, 405, 406, 407, 409, 410, 411, 412, 415, 418, 421, 426, 431)
    },
    **{str(status): refuses(status, WORDS) for status in (451, 501, 505, 507, 508, 511, 520, 525)},
    **{str(status): refuses(status, b"<html>Ray</html>") for status in (521, 522, 523, 524, 599)},
    "400, a page": refuses(400, b"<html>Bad</html>"),
    "400, no message": refuses(400, {"error": {"code": "x"}}),
    "400, stream": refuses(400, {"error": {"message": "stream is not supported"}}),
    "400, options": refuses(400, {"error": {"message": "stream_options, response_format"}}),
    "422, a list": refuses(422, {"detail": [{"loc": ["body", "messages"], "msg": "bad"}]}),
    "401, a page": refuses(401, b"<html>Sign in</html>"),
    "context": refuses(400, {"error": {"code": "context_length_exceeded", "message": "8192"}}),
    "429, ms": refuses(429, WORDS, **{"Retry-After-Ms": "70000"}),
    "429, tokens": refuses(
        429, WORDS, **{"X-RateLimit-Reset-Tokens": "6m0s", "X-RateLimit-Remaining-Tokens": "0"}
    ),
    "429, a day": refuses(429, WORDS, **{"Retry-After": "86400"}),
    "429, a date": refuses(429, WORDS, **{"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}),
    "429, nonsense": refuses(429, b"<html>", **{"Retry-After": "a while"}),
    "503, soon": refuses(503, WORDS, **{"Retry-After": "70"}),
}
DAYS: dict[str, Day] = {**STREAMS, **WRAPPED, **USELESS, **BROKEN, **REFUSED}


class DaysServer(MisbehavingServer):
    """Answers a prompt that has `[day name]` in it as on that day, and counts what may cost."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__()
        self._answers = answers
        #: Requests that may have been charged, and all, by day and what was asked for.
        self.chargeable: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.keys: set[str | None] = set()

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
        self.requests[named[1], name] += 1
        self.chargeable[named[1], name] += day.is_chargeable
        await self._send(day, json.dumps(self._answers[name]), writer)

    async def _send(self, day: Day, good: str, writer: asyncio.StreamWriter) -> None:
        raw = day.body(good) if day.body is not None else self._documented(day, good)
        if day.then == "silent at once":
            await self.hang()
        if day.then == "reset at once":
            writer.transport.abort()
            return
        size = {"end": str(len(raw)), "short": str(len(raw) + 99)}.get(day.then)
        headers = {"Content-Type": "text/event-stream", **day.headers}
        headers |= {} if size is None else {"Content-Length": size}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if day.then != "raw":
            writer.write(f"HTTP/1.1 {day.status} X\r\n{head}connection: close\r\n\r\n".encode())
        raw = raw[: len(raw) // 2] if day.then == "reset" else raw
        for at in range(0, len(raw), day.step):
            writer.write(raw[at : at + day.step])
            await writer.drain()
        if day.then == "reset":
            writer.transport.abort()
        elif day.then == "silent":
            await self.hang()
        while day.then == "comments" and not writer.is_closing():
            writer.write(b": wait\n\n")
            await writer.drain()
            await asyncio.sleep(0.1)

    def _documented(self, day: Day, good: str) -> bytes:
        stop = {"choices": [{"index": 0, "delta": {}, "finish_reason": day.finish}]}
        return events(*deltas(day.content(good)), stop)
