"""The listener: start and shutdown, which request is a socket, and what a handshake needs."""

from __future__ import annotations

import asyncio
import logging

import psycopg

from minutehand.local.realtime.connection import Connection, Request, Response
from minutehand.local.realtime.database import DatabaseUnavailable
from minutehand.local.realtime.hub import Hub
from minutehand.local.realtime.limits import Limits
from minutehand.local.realtime.pgwire import describe
from minutehand.local.realtime.rest import CORS, Rest
from minutehand.local.realtime.serializer import dump, parse_version
from minutehand.local.realtime.session import Session
from minutehand.local.realtime.tokens import TokenError, Verifier

logger = logging.getLogger(__name__)

_SOCKET_PATHS = ("/realtime/v1/websocket", "/socket/websocket")
_HEALTH_PATHS = ("/realtime/v1/health", "/health")
_PARTITION_SECONDS = 4 * 3600
_PRIVATE_HEADERS = frozenset({"authorization", "apikey", "x-api-key", "cookie"})


class RealtimeServer:
    """The listener on one port."""

    def __init__(self, url: str, verifier: Verifier, limits: Limits) -> None:
        self.limits = limits
        self.hub = Hub(url, verifier, limits)
        self.connections: set[Connection] = set()
        self._rest = Rest(self.hub)
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port in use."""
        assert self._listener is not None
        return int(self._listener.sockets[0].getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Listen, and begin to replicate; returns before replication runs."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self), host, port, backlog=1024
        )
        self.hub.spawn(self.hub.messages.run())
        self.hub.spawn(self._prepare())

    async def _prepare(self) -> None:
        """Empty the subscriptions once, then keep the partitions ready."""
        while True:
            try:
                await self.hub.changes.start()
                break
            except (DatabaseUnavailable, psycopg.Error) as error:
                logger.warning(
                    "start delayed",
                    extra={"event": "realtime.start_delayed", "reason": describe(error)},
                )
                await asyncio.sleep(0.5)
        while True:
            try:
                async with self.hub.database.transaction() as connection:
                    await connection.execute("select realtime.maintain_partitions()")
                    await connection.execute("commit")
            except (DatabaseUnavailable, psycopg.Error) as error:
                logger.warning(
                    "partitions not maintained",
                    extra={"event": "realtime.partitions_failed", "reason": describe(error)},
                )
                await asyncio.sleep(10)
            else:
                await asyncio.sleep(_PARTITION_SECONDS)

    async def stop(self) -> None:
        """Tell every client, close everything."""
        self.hub.shutting_down = True
        if self._listener is not None:
            self._listener.close()
        for session in list(self.hub.sessions):
            session.request_disconnect()
        await asyncio.sleep(0.1)
        await self.hub.changes.stop()
        await self.hub.cancel_tasks()
        await self.hub.visibility.close()
        await self.hub.database.close()

    # ------------------------------------------------------------------------------ HTTP

    async def respond(self, request: Request) -> Response:
        """Answer an ordinary request."""
        if request.path in _HEALTH_PATHS:
            running = self.hub.messages.running.is_set()
            body = {
                "status": "ok" if running else "unavailable",
                "sockets": len(self.hub.sessions),
                "rooms": len(self.hub.rooms),
            }
            return Response(200 if running else 503, dump(body).encode(), CORS)
        if request.path in _SOCKET_PATHS:
            return Response(426, b"", (("upgrade", "websocket"),))
        return await self._rest.respond(request)

    async def open_socket(self, connection: Connection, request: Request) -> Response | None:
        """Upgrade, or say why not."""
        if request.path not in _SOCKET_PATHS:
            return Response(404, b"")
        version = parse_version(request.query.get("vsn"))
        if version is None:
            return await self._refuse(403, None)
        key = request.headers.get("x-api-key") or request.query.get("apikey")
        if not key:
            return await self._refuse(401, "API key is missing")
        try:
            token = self.hub.verifier.verify(key)
        except TokenError as error:
            return await self._refuse(401, error.handshake)
        if len(self.hub.sessions) >= self.limits.connections:
            return await self._refuse(429, "Too many connected users")
        if "sec-websocket-key" not in request.headers:
            return Response(400, b"")
        if request.headers.get("sec-websocket-version") != "13":
            return Response(426, b"", (("sec-websocket-version", "13"),))
        headers = {k: v for k, v in request.headers.items() if k not in _PRIVATE_HEADERS}
        session = Session(
            self.hub,
            version=version,
            token=token,
            headers=headers,
            send=connection.send,
            close=connection.close,
        )
        self.hub.sessions.add(session)
        connection.upgrade(request, session)
        return None

    async def _refuse(self, status: int, message: str | None) -> Response:
        logger.info(
            "handshake refused",
            extra={"event": "realtime.handshake_refused", "status": status, "reason": message},
        )
        await asyncio.sleep(self.limits.connect_error_delay_seconds)
        return Response(status, b"" if message is None else dump({"error": message}).encode())

    def session_ended(self, session: Session) -> None:
        """A socket is gone."""
        self.hub.sessions.discard(session)
