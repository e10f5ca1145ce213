"""A websocket reader that does nothing but count: it must not be what a benchmark measures."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from typing import cast

from websockets.frames import OP_TEXT, Frame


class BareSocket(asyncio.Protocol):
    """Joins one private topic, then counts the frames that follow."""

    def __init__(self, path: str, topic: str) -> None:
        self._path = path
        self._topic = topic
        self._buffer = b""
        self._open = False
        self._transport: asyncio.Transport
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.frames = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a websocket."""
        # uvloop's transports do not derive from asyncio's
        self._transport = transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Count complete frames."""
        self._buffer += data
        if not self._open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            assert b" 101 " in head, head
            self._open, self._buffer = True, rest
            self._join()
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            size, head_size = buffer[at + 1], 2
            if size == 126:
                size, head_size = int.from_bytes(buffer[at + 2 : at + 4], "big"), 4
            elif size == 127:
                size, head_size = int.from_bytes(buffer[at + 2 : at + 10], "big"), 10
            if len(buffer) - at < head_size + size:
                break
            at += head_size + size
            if self.joined.done():
                self.frames += 1
            else:
                self.joined.set_result(None)
        self._buffer = buffer[at:]

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _join(self) -> None:
        self._send(["1", "1", f"realtime:{self._topic}", "phx_join", {"config": {"private": True}}])

    def _send(self, message: list[object]) -> None:
        self._transport.write(Frame(OP_TEXT, json.dumps(message).encode()).serialize(mask=True))


async def join_many(port: int, key: str, topic: str, count: int) -> list[BareSocket]:
    """Open `count` sockets and wait until all are members of the topic."""
    loop = asyncio.get_running_loop()
    path = f"/realtime/v1/websocket?apikey={key}&vsn=2.0.0"
    sockets: list[BareSocket] = []
    for _ in range(count):
        _, socket = await loop.create_connection(lambda: BareSocket(path, topic), "127.0.0.1", port)
        sockets.append(socket)
    async with asyncio.timeout(30):
        await asyncio.gather(*(socket.joined for socket in sockets))
    return sockets


async def all_received(sockets: list[BareSocket], count: int, seconds: float = 120) -> None:
    """Wait until each socket counted `count` frames."""
    async with asyncio.timeout(seconds):
        for socket in sockets:
            while socket.frames < count:  # noqa: ASYNC110 - an event per frame would be the load
                await asyncio.sleep(0.002)
