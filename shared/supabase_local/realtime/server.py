"""The listener of the server, which checks handshakes and opens sockets."""

from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from supabase_local.realtime.hub import Hub
from supabase_local.realtime.serializer import Version, dump
from supabase_local.realtime.session import Session
from supabase_local.realtime.tokens import TokenError, Verifier

#: Maximum bytes of a message from a client. A larger message closes the socket with code 1009.
_FRAME_BYTES = 5_000_000
_VERSIONS: dict[str, Version] = {"1.0.0": 1, "2.0.0": 2}


class RealtimeServer:
    """The listener of the server on one port."""

    def __init__(self, url: str, verifier: Verifier) -> None:
        self._hub = Hub(url, verifier)
        self._listener: Server

    async def start(self, port: int) -> int:
        """Listen for clients, start replication in the background, and return the port."""
        self._listener = await serve(
            self._serve_socket,
            "127.0.0.1",
            port,
            process_request=self._answer,
            compression=None,
            max_size=_FRAME_BYTES,
            ping_timeout=60,
            server_header=None,
        )
        self._hub.spawn(self._hub.messages.run())
        return int(next(iter(self._listener.sockets)).getsockname()[1])

    async def stop(self) -> None:
        """Close the listener, all sockets and all connections. Clients reconnect by themselves."""
        self._listener.close()
        await self._hub.close()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Accept the handshake of a socket, or respond to another request."""
        if urlsplit(request.path).path.endswith("/health"):
            running = self._hub.messages.running.is_set()
            return connection.respond(HTTPStatus.OK if running else HTTPStatus(503), "")
        version, key = _parse_handshake(request)
        if version is None:
            return connection.respond(HTTPStatus.FORBIDDEN, "")
        try:
            self._hub.verifier.verify(key)
        except TokenError as error:
            message = error.handshake if key else "API key is missing"
            return connection.respond(HTTPStatus.UNAUTHORIZED, dump({"error": message}))
        return None

    async def _serve_socket(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        version, key = _parse_handshake(connection.request)
        await Session(self._hub, connection, version or 1, self._hub.verifier.verify(key)).run()


def _parse_handshake(request: Request) -> tuple[Version | None, str]:
    """Return a handshake's version and key. Unsupported version: None. Missing key: empty."""
    parameters = parse_qs(urlsplit(request.path).query)
    key = request.headers.get("x-api-key") or parameters.get("apikey", [""])[-1]
    return _VERSIONS.get(parameters.get("vsn", ["1.0.0"])[-1]), key
