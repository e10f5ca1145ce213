"""A provider endpoint on this machine that answers as scripted: well, badly, late, or half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

OK = "200 OK"
HANG = "hang"
CUT = "cut"
BIG = "big"


@dataclass
class Provider:
    """Answers each request by the next of `answers`, then by `usual`.

    An answer is a status line with headers, `HANG` for none at all, `CUT` for half a body, `BIG`
    for one beyond what is read.
    """

    answers: list[str] = field(default_factory=list)
    usual: str = OK
    requests: int = 0
    port: int = 0
    #: Requests after so many wait for `gate`; `reached` is set when `held` of them wait.
    gate_after: int | None = None
    held: int = 1
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Provider]:
        """Serve until the test is over."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.gate.set()
            server.close()

    @property
    def url(self) -> str:
        """What to measure."""
        return f"http://127.0.0.1:{self.port}/v1/models"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client went
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readexactly(1)
        if first == b"\x16":  # a TLS handshake, which nobody here speaks
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode().lower()
        for line in head.split("\r\n"):
            if line.startswith("content-length:"):
                await reader.readexactly(int(line.partition(":")[2]))
        self.requests += 1
        if self.gate_after is not None and self.requests > self.gate_after:
            if self.requests >= self.gate_after + self.held:
                self.reached.set()
            await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else self.usual
        if answer == HANG:
            await reader.read()  # until the other side gives up
            return False
        if answer == CUT:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await writer.drain()
            return False
        if answer == BIG:
            size = 2 * 1024 * 1024
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            writer.write(bytes(size))
            await writer.drain()
            return True
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        await writer.drain()
        return True
