"""A uvicorn server that ends event streams first when it stops: they would hold that up."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType

import uvicorn


class Server(uvicorn.Server):
    """Calls `end_streams`, safe in a signal handler, before it waits for its connections."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown that a signal asks for."""
        self._end_streams()
        super().handle_exit(sig, frame)
