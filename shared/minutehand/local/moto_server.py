"""AWS by moto, as a server in a thread of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any

Start = Callable[..., Any]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]


class MotoServer:
    """A moto server on this machine.

    Args:
        port: 0 takes a free one.
        around: A middleware before moto, if any.
    """

    def __init__(
        self, host: str, port: int, around: Callable[[App], App] = lambda app: app
    ) -> None:
        # slow, as boto3, and needed by this process alone
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.moto_server.werkzeug_app import MotoRequestHandler as Handler
        from werkzeug.serving import make_server

        app = around(DomainDispatcherApplication(create_backend_app))
        self._server = make_server(host, port, app, True, request_handler=Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{self._server.host}:{self._server.port}"

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
