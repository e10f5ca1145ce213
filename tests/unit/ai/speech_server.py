"""Speech to text in OpenAI's documented format, with its ways to fail.

Speaks plain HTTP/1.1 over asyncio, because hanging and breaking off are part of the job.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self

KEY = "sk-speech-0001"
TOLD = {
    "task": "transcribe",
    "language": "english",
    "duration": 1.0,
    "text": " Turn it off. Wait.",
    "segments": [
        {"id": 0, "start": 0.0, "end": 0.4, "text": " Turn it off."},
        {"id": 1, "start": 0.5, "end": 7.0, "text": " Wait."},
        {"id": 2, "start": 0.9, "end": 1.0, "text": " "},
    ],
}


@dataclass(frozen=True)
class Fault:
    """What a request gets instead of an answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False


class SpeechServer:
    """`POST /v1/audio/transcriptions` as documented, with its ways to fail."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.told: Any = TOLD
        self.seen: list[bytes] = []
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
        """What SPEECH_URL holds."""
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
        body = await reader.readexactly(int(headers["content-length"]))
        self.seen.append(body)
        fault = self.faults.pop(0) if self.faults else Fault()
        if headers.get("authorization") != f"Bearer {KEY}":
            fault = Fault(401, {"error": {"message": "Incorrect API key provided"}})
        if fault.hang:
            self.reached.set()
            await self._stop.wait()
            return
        told = fault.body if fault.body is not None else self.told
        raw = told if isinstance(told, bytes) else json.dumps(told).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in fault.headers.items())
        writer.write(
            f"HTTP/1.1 {fault.status} X\r\ncontent-type: application/json\r\n{more}"
            f"content-length: {len(raw)}\r\nconnection: close\r\n\r\n".encode()
            + (raw[: len(raw) // 2] if fault.cut else raw)
        )
        await writer.drain()
