"""A wire that misbehaves on purpose: websocket messages are lost, late, doubled, swapped or cut.

It stands between a client and the stack's gateway (or the Realtime server). Ordinary HTTP passes
untouched; every decision comes from a seeded generator, so a failing run can be repeated.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from websockets.frames import OP_BINARY, OP_CONT, OP_TEXT, Frame
from websockets.protocol import CLIENT, OPEN, Protocol

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """What happens to one message towards the client; each is a probability from 0 to 1."""

    drop: float = 0
    duplicate: float = 0
    #: Swapped with the message after it, or late by `reorder_seconds` when none follows.
    reorder: float = 0
    reorder_seconds: float = 0.05
    #: Every message waits a time between these, in order.
    delay_seconds: tuple[float, float] = (0, 0)
    #: The connection is reset instead of delivering the message.
    cut: float = 0
    #: Messages that always pass.
    spare: Callable[[bytes], bool] = lambda _: False


NONE = Faults()


class HostileProxy:
    """A TCP proxy to one port of this machine.

    Args:
        port: Where the honest service listens.
        websockets_port: Where it takes websockets, if elsewhere.
        faults: What to do; may be replaced while it runs.
        seed: Of the generator that decides.
    """

    def __init__(
        self, port: int, *, websockets_port: int = 0, faults: Faults = NONE, seed: int = 0
    ) -> None:
        self.faults = faults
        #: What was done so far, by name: passed (down), dropped, duplicated, reordered, cut,
        #: swallowed; and how many of the passed were events of jobs.
        self.done: Counter[str] = Counter()
        self.websockets = 0
        #: Refuse new connections while true.
        self.closed = False
        self._targets = {False: port, True: websockets_port or port}
        self._random = random.Random(seed)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on a free port and return it."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    def half_open(self) -> None:
        """Let nothing pass on the present connections any more, and keep them open."""
        for link in self._links:
            link.silent = True

    async def has_done(self, count: int, *kinds: str, seconds: float = 1) -> bool:
        """Wait a moment for each of these faults to have struck so often.

        On a busy machine clients poll at times, and leave nothing to spoil: then send more.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while min(self.done[kind] for kind in kinds) < count:  # noqa: ASYNC110 - rare
                    await asyncio.sleep(0.05)
        return min(self.done[kind] for kind in kinds) >= count

    async def stop(self) -> None:
        """Close everything."""
        self.closed = True
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            port = self._targets[_is_upgrade(head)]
            upstream = await asyncio.open_connection("127.0.0.1", port)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
            return
        link = _Link(self, head, (reader, writer), upstream)
        self._links.add(link)
        task = asyncio.create_task(link.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._links.discard(link))

    def chance(self, probability: float) -> bool:
        """Decide by the seeded generator."""
        return probability > 0 and self._random.random() < probability

    def between(self, bounds: tuple[float, float]) -> float:
        """A number between two by the seeded generator."""
        return self._random.uniform(*bounds)


class _Link:
    """One client's connection."""

    def __init__(
        self,
        proxy: HostileProxy,
        head: bytes,
        client: Streams,
        upstream: Streams,
    ) -> None:
        self.proxy = proxy
        self.silent = False
        self._head = head
        self._client = client
        self._upstream = upstream

    def reset(self) -> None:
        """Hang up on both sides without a word."""
        for _, writer in (self._client, self._upstream):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def run(self) -> None:
        """Relay until either side is gone."""
        try:
            if await self._handshake():
                await self._both(self._up(), self._down())
            else:
                await self._both(
                    _pipe(self._client[0], self._upstream[1]),
                    _pipe(self._upstream[0], self._client[1]),
                )
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            self.reset() if self.silent else self._close()

    def _close(self) -> None:
        for _, writer in (self._client, self._upstream):
            writer.close()

    async def _both(self, one: object, other: object) -> None:
        tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]  # type: ignore[call-overload]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception) and not isinstance(result, ConnectionError):
                    raise result

    async def _handshake(self) -> bool:
        """Pass the first request on; true when it became a websocket."""
        head = self._head
        wants = _is_upgrade(head)
        if wants:
            # compressed frames could not be told apart
            lines = head.split(b"\r\n")
            head = b"\r\n".join(
                line for line in lines if not line.lower().startswith(b"sec-websocket-extensions:")
            )
        self._upstream[1].write(head)
        if not wants:
            return False
        answer = await self._upstream[0].readuntil(b"\r\n\r\n")
        self._client[1].write(answer)
        accepted = b" 101 " in answer.split(b"\r\n", 1)[0]
        self.proxy.websockets += accepted
        return accepted

    async def _up(self) -> None:
        while data := await self._client[0].read(65536):
            if self.silent:
                self.proxy.done["swallowed"] += 1
            else:
                self._upstream[1].write(data)

    async def _down(self) -> None:
        """Relay websocket messages to the client, as the faults say."""
        lane = _Lane(self, self._client[1])
        protocol = Protocol(CLIENT, state=OPEN, max_size=None)
        sender = asyncio.create_task(lane.run())
        try:
            while data := await self._upstream[0].read(65536):
                protocol.receive_data(data)
                for event in protocol.events_received():
                    assert isinstance(event, Frame)
                    lane.queue.put_nowait(event)
            await asyncio.sleep(0)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


class _Lane:
    """The way down of one websocket."""

    def __init__(self, link: _Link, writer: asyncio.StreamWriter) -> None:
        self.queue: asyncio.Queue[Frame] = asyncio.Queue()
        self._link = link
        self._writer = writer

    async def run(self) -> None:
        while True:
            frame = await self.queue.get()
            await self._relay(frame)

    async def _relay(self, frame: Frame) -> None:
        proxy = self._link.proxy
        faults = proxy.faults
        data = frame.opcode in (OP_TEXT, OP_BINARY, OP_CONT)
        if self._link.silent:
            proxy.done["swallowed"] += 1
            return
        if not data or faults.spare(bytes(frame.data)):
            self._write(frame)
            return
        if proxy.chance(faults.cut):
            proxy.done["cut"] += 1
            self._link.reset()
            return
        if proxy.chance(faults.drop):
            proxy.done["dropped"] += 1
            return
        if faults.delay_seconds[1] > 0:
            await asyncio.sleep(proxy.between(faults.delay_seconds))
        if proxy.chance(faults.reorder):
            proxy.done["reordered"] += 1
            try:
                async with asyncio.timeout(faults.reorder_seconds):
                    following = await self.queue.get()
            except TimeoutError:
                self._write(frame)
                return
            await self._relay(following)
        self._write(frame)
        if proxy.chance(faults.duplicate):
            proxy.done["duplicated"] += 1
            self._write(frame)

    def _write(self, frame: Frame) -> None:
        if not self._link.silent:
            self._link.proxy.done["passed"] += 1
            self._link.proxy.done["job_events"] += b'"job.' in frame.data
            self._writer.write(frame.serialize(mask=False))


def _is_upgrade(head: bytes) -> bool:
    return b"upgrade: websocket" in head.lower()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


__all__ = ["NONE", "Faults", "HostileProxy"]
