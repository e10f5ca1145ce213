"""A local server in the documented format of streamed chat completions, with its ways to fail.

Speaks plain HTTP/1.1 over asyncio, because hanging and breaking off are part of the job.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

from shared.ai.language_model import Material, Prompt
from shared.ai.offline import OfflineLanguageModel

KEY = "sk-live-0001"


@dataclass(frozen=True)
class Fault:
    """What a request gets instead of an answer.

    Attributes:
        cut_after: Break off after so many pieces of the answer.
        hang_after: Fall silent after so many pieces; 0 before the first byte.
        said: Content in place of the answer's.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hang_after: int | None = None
    said: str | None = None
    finish: str | None = "stop"
    drop: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    name: str
    key: str | None
    body: dict[str, Any]


class ModelServer:
    """Answers each prompt by its schema's name: `answers` where given, else by extraction."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.seen: list[Seen] = []
        #: Requests answered to the end, by name: what would be paid for.
        self.paid: Counter[str] = Counter()
        self.reached = asyncio.Event()
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._open)

    @property
    def url(self) -> str:
        """What LANGUAGE_MODEL_URL holds."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went away, which is its right
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:] if line)
        }
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        spec = (body.get("response_format") or {}).get("json_schema") or {"name": "text"}
        key = headers.get("authorization", "").removeprefix("Bearer ") or None
        name = spec["name"]
        self.seen.append(Seen(name, key, body))
        queue = self.faults.get(name) or self.faults.get("*") or []
        fault = queue.pop(0) if queue else Fault()
        if fault.drop:
            return
        if key != KEY:
            fault = Fault(401, {"error": {"message": f"Incorrect API key provided: {key}"}})
        if fault.hang_after == 0:
            await self._hang()
        if fault.status != 200:
            raw = json.dumps(fault.body).encode() if fault.body is not None else b"no JSON"
            told = "".join(f"{k}: {v}\r\n" for k, v in fault.headers.items())
            writer.write(
                f"HTTP/1.1 {fault.status} X\r\ncontent-type: application/json\r\n{told}"
                f"content-length: {len(raw)}\r\nconnection: close\r\n\r\n".encode()
                + raw
            )
            await writer.drain()
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
                await self._hang()
            delta = {"content": text[start : start + 20]}
            _event(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": fault.finish}]})
        if "stream_options" in body:
            usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
            _event(writer, {"choices": [], "usage": usage})
        self.paid[name] += 1
        _event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _hang(self) -> None:
        self.reached.set()
        await self._stop.wait()
        raise ConnectionAbortedError("the server is gone")

    async def _text(self, body: dict[str, Any], spec: dict[str, Any]) -> str:
        if spec["name"] in self.answers:
            return json.dumps(self.answers[spec["name"]])
        given = Material("given", body["messages"][-1]["content"])
        prompt = Prompt(spec["name"], "", [given], schema=spec.get("schema"))
        return (await OfflineLanguageModel().complete(prompt)).text


def _event(writer: asyncio.StreamWriter, told: Any) -> None:
    data = told if isinstance(told, str) else json.dumps(told)
    raw = f"data: {data}\n\n".encode()
    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
