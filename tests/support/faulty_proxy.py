"""A proxy in front of the Data API that loses, delays and doubles calls on purpose.

Each fault is one that a network or a dying server really produces; which is drawn by chance.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

HOP_SECONDS = 20.0
#: Until when a late repeat of a call comes.
LATE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Odds:
    """How likely each fault is, per call; the rest goes through."""

    lose_request: float = 0.0
    lose_answer: float = 0.0
    cut_answer: float = 0.0
    double: float = 0.0
    late: float = 0.0
    delay: float = 0.0
    delay_seconds: float = 1.0

    def draw(self, rng: random.Random) -> str:
        """The fault of the next call, or `pass`."""
        chances = {
            "lose_request": self.lose_request,
            "lose_answer": self.lose_answer,
            "cut_answer": self.cut_answer,
            "double": self.double,
            "late": self.late,
            "delay": self.delay,
        }
        left = rng.random()
        for name, chance in chances.items():
            left -= chance
            if left < 0:
                return name
        return "pass"


@dataclass
class FaultyProxy:
    """Listens on `port`, passes HTTP/1.1 calls on to `upstream_port`, as reliably as `odds` say."""

    port: int
    upstream_port: int
    rng: random.Random
    odds: Odds = field(default_factory=Odds)
    counts: Counter[str] = field(default_factory=Counter)
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a task of its own: asyncio's own one would report its cancellation as an error
        self._keep(self._serve(reader, writer))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (call := await _read_message(reader)) is not None:
                if not await self._pass_on(call, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            self.counts["broken"] += 1
        finally:
            writer.close()

    async def _pass_on(self, call: bytes, writer: asyncio.StreamWriter) -> bool:
        """One call and its fault; False when the connection is to be cut."""
        fault = self.odds.draw(self.rng)
        self.counts[fault] += 1
        if fault == "lose_request":
            return False
        if fault == "delay":
            await asyncio.sleep(self.rng.random() * self.odds.delay_seconds)
        if fault == "double":
            await self._ask(call)
        if fault == "late":
            self._keep(self._repeat(call))
        answer = await self._ask(call)
        if answer is None or fault == "lose_answer":
            return False
        if fault == "cut_answer":
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return True

    async def _repeat(self, call: bytes) -> None:
        """Send a call once more, seconds after it was answered."""
        await asyncio.sleep(self.rng.random() * LATE_SECONDS)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            await self._ask(call)

    async def _ask(self, call: bytes) -> bytes | None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            writer.write(call)
            await writer.drain()
            async with asyncio.timeout(HOP_SECONDS):
                return await _read_message(reader)
        finally:
            writer.close()


async def _read_message(reader: asyncio.StreamReader) -> bytes | None:
    """One HTTP message with a length or chunks; None at the end of the stream."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    fields = head.lower()
    if b"transfer-encoding: chunked" in fields:
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(line.split(b";")[0], 16) + 2)
            body += line + chunk
            if chunk == b"\r\n":
                return head + body
    length = 0
    for line in fields.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + await reader.readexactly(length)
