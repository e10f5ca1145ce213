"""A TCP proxy that closes connections, falls silent, or becomes a black hole.

The proxy runs between a client and the stack's gateway or the Realtime server. Ordinary HTTP
passes. The unit tests of follow have lost, repeated and swapped messages.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

UPGRADE = b"upgrade: websocket"


class Wire:
    """A proxy to one port of this machine.

    Attributes:
        closed: Whether new connections are refused.
        is_hole: Whether new connections are accepted but pass nothing.
    """

    def __init__(self, port: int) -> None:
        self.closed = self.is_hole = False
        self._port = port
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._silent: set[asyncio.Task[None]] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self._sockets: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> int:
        """Abort every connection, and return how many there were."""
        for writers in self._links.values():
            for writer in writers:
                writer.transport.abort()
        return len(self._links)

    def fall_silent(self) -> None:
        """Stop all data on the current connections, but keep the connections open."""
        self._silent |= set(self._links)

    def hold(self) -> None:
        """Delay messages to clients until `let_go` is called."""
        self._passes.clear()

    def let_go(self) -> None:
        """Deliver the delayed messages in order, and pass on new ones."""
        self._passes.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._links[task] = [writer]
        try:
            if self.is_hole:
                while await reader.read(65536):
                    pass
            elif not self.closed:
                server, up = await asyncio.open_connection("127.0.0.1", self._port)
                writers.append(up)
                await self._relay(task, (reader, writer), (server, up))
        except (OSError, asyncio.IncompleteReadError):
            pass  # a side has disconnected
        finally:
            del self._links[task]
            self._silent.discard(task)
            self._sockets.discard(task)
            for each in writers:
                each.transport.abort() if self.closed else each.close()

    async def _relay(
        self,
        task: asyncio.Task[None],
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass data on until one side disconnects."""

        async def send() -> None:
            while data := await client[0].read(65536):
                if UPGRADE in data.lower():
                    self._sockets.add(task)
                if task not in self._silent:
                    server[1].write(data)
                    await server[1].drain()

        async def receive() -> None:
            while data := await server[0].read(65536):
                if task in self._sockets:
                    await self._passes.wait()
                if task not in self._silent:
                    client[1].write(data)
                    await client[1].drain()

        ways = [asyncio.create_task(send()), asyncio.create_task(receive())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*ways, return_exceptions=True)
