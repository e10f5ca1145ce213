"""Back-pressure: a burst waits a little for sockets that cannot keep up, but never for long.

A socket with much unsent data is congested. While any is, producers pause in small steps, so that
a healthy client survives a burst larger than its buffer. A client that does not read at all uses
up its patience once and then slows no one; its own buffer limit ends it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

#: How long one congested socket may hold producers up before it is ignored.
PATIENCE_SECONDS = 1.0
_STEP_SECONDS = 0.02


class Congestible(Protocol):
    """What a socket reports about itself."""

    patience: float


class Flow:
    """Which sockets are congested."""

    def __init__(self) -> None:
        self._congested: set[Congestible] = set()
        self._eased = asyncio.Event()

    def congested(self, socket: Congestible) -> None:
        """Record that a socket has much unsent data."""
        if socket.patience > 0:
            self._congested.add(socket)

    def eased(self, socket: Congestible) -> None:
        """Record that a socket has caught up or is closed."""
        self._congested.discard(socket)
        socket.patience = PATIENCE_SECONDS
        if not self._congested:
            self._eased.set()

    async def brake(self) -> None:
        """Let sockets write, and wait while one that has patience left is congested."""
        await asyncio.sleep(0)
        while self._congested:
            self._eased.clear()
            try:
                async with asyncio.timeout(_STEP_SECONDS):
                    await self._eased.wait()
            except TimeoutError:
                for socket in list(self._congested):
                    # not by the clock: while the machine is busy elsewhere no socket can catch up
                    socket.patience -= _STEP_SECONDS
                    if socket.patience <= 0:
                        self._congested.discard(socket)
