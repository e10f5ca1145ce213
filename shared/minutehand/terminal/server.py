"""The uvicorn server of the API and the console.

The server ends all event streams before it stops, because open streams would delay the stop.
"""

from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn


class Server(uvicorn.Server):
    """A uvicorn server with further options, which calls `end_streams` before it stops.

    `end_streams` must be safe in a signal handler.
    """

    def __init__(self, app: Any, end_streams: Callable[[], None], **options: Any) -> None:
        config = uvicorn.Config(
            app,
            # disable websockets, because otherwise an HTTP upgrade request with a body would never
            # end
            ws="none",
            log_config=None,
            access_log=False,
            # keep idle connections open as long as API Gateway, so that clients close them first
            timeout_keep_alive=75,
            server_header=False,
            **options,
        )
        super().__init__(config)
        self._end_streams = end_streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the event streams, then shut the server down, when the process receives a signal."""
        self._end_streams()
        super().handle_exit(sig, frame)
