"""A TCP proxy between a client and the stack's gateway that can drop all data.

The unit tests of follow have lost, repeated and swapped messages.
"""

import asyncio
from contextlib import closing, suppress
from typing import Self

from minutehand.tasks import end_tasks, first_of


class Wire:
    """A proxy to one port of this machine.

    Attributes:
        is_hole: Whether data is dropped. A connection that has lost data stays silent.
    """

    def __init__(self, port: int) -> None:
        self.is_hole = False
        self._port = port
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await end_tasks(self._links)

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass data on until one side disconnects."""
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        task.add_done_callback(self._links.discard)
        with closing(writer), suppress(OSError):
            server, up = await asyncio.open_connection("127.0.0.1", self._port)
            with closing(up):
                await first_of(self._relay(reader, up), self._relay(server, writer))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_silent = False
        while data := await reader.read(65536):
            is_silent = is_silent or self.is_hole
            if not is_silent:
                writer.write(data)
                await writer.drain()
