"""A uvicorn server for the open internet: bounded connections, and none that waits without end.

It ends event streams first when it stops: what has no end would hold its shutdown up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

#: From a connection's first byte, or its opening, until the head of its request is whole.
HEAD_SECONDS = 15.0


def guarded(*, connections: int, head_seconds: float = HEAD_SECONDS) -> type[asyncio.Protocol]:
    """Make a protocol of uvicorn's that closes half-open requests and what is beyond the bound.

    Args:
        connections: Most that are open at once; one more is closed unanswered.
        head_seconds: Time for the head of a request; uvicorn itself waits without end.
    """
    base: Any = AutoHTTPProtocol

    class Guarded(base):  # type: ignore[misc]
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > connections:
                transport.close()
            else:
                self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self._head is None:
                self._head = self.loop.call_later(head_seconds, self._close_half_open)

        def _stop_waiting(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _close_half_open(self) -> None:
            self._head = None
            if self.cycle is None or (
                self.cycle.response_complete and self.timeout_keep_alive_task is None
            ):
                self.transport.close()

    return Guarded


class Server(uvicorn.Server):
    """Calls `end_streams`, safe in a signal handler, before it waits for its connections."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown that a signal asks for."""
        self._end_streams()
        super().handle_exit(sig, frame)
