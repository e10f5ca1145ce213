"""A TCP proxy between a client and the stack's gateway that can drop all data.

The unit tests of follow have lost, repeated and swapped messages.
"""

import asyncio
from typing import Self


class Wire:
    """A proxy to one port of this machine.

    Attributes:
        is_hole: Whether data is dropped. A connection that has lost data stays silent.
    """

    def __init__(self, port: int) -> None:
        self.is_hole = False
        self._port = port
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writers in self._links.values():
            for writer in writers:
                writer.transport.abort()
        await asyncio.gather(*self._links, return_exceptions=True)

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._links[task] = [writer]
        try:
            server, up = await asyncio.open_connection("127.0.0.1", self._port)
            writers.append(up)
            await self._relay((reader, up), (server, writer))
        except OSError:
            pass  # a side has disconnected
        finally:
            del self._links[task]
            for each in writers:
                each.close()

    async def _relay(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Pass data on until one side disconnects."""

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            is_silent = False
            while data := await reader.read(65536):
                is_silent = is_silent or self.is_hole
                if not is_silent:
                    writer.write(data)
                    await writer.drain()

        tasks = [asyncio.create_task(pass_on(*way)) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
