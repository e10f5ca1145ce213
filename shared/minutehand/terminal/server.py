"""A uvicorn server.

The server ends all event streams before it stops, because open streams would delay the stop.
"""

from collections.abc import Callable
from types import FrameType

import uvicorn


class Server(uvicorn.Server):
    """A uvicorn server that calls `end_streams` before it stops.

    `end_streams` must be safe in a signal handler.
    """

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the event streams, then shut the server down, when the process receives a signal."""
        self._end_streams()
        super().handle_exit(sig, frame)
