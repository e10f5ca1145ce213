"""The listener: start and shutdown, which request is a socket, and what a handshake needs."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import psycopg

from supabase_local.http import Request, Response
from supabase_local.realtime.connection import Connection
from supabase_local.realtime.database import DatabaseUnavailable, describe
from supabase_local.realtime.hub import Hub
from supabase_local.realtime.limits import Limits
from supabase_local.realtime.serializer import dump, parse_version
from supabase_local.realtime.session import Session
from supabase_local.realtime.tokens import TokenError, Verifier

logger = logging.getLogger(__name__)

_SOCKET_PATHS = ("/realtime/v1/websocket", "/socket/websocket")
_HEALTH_PATHS = ("/realtime/v1/health", "/health")
_PARTITION_SECONDS = 4 * 3600
_PRIVATE_HEADERS = frozenset({"authorization", "apikey", "x-api-key", "cookie"})


CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "authorization, apikey, x-api-key, content-type, *"),
)


def json_response(status: int, body: Any, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """JSON as hosted writes it."""
    kind = ("content-type", "application/json; charset=utf-8")
    return Response(status, dump(body).encode(), (kind, *headers))


class RealtimeServer:
    """The listener on one port."""

    def __init__(self, url: str, verifier: Verifier, limits: Limits) -> None:
        self.limits = limits
        self.hub = Hub(url, verifier, limits)
        self._refused_handshakes = limits.refused_handshakes
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
        self.hub.replicate()
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
                    await connection.execute(self._partitions().encode())
                    await connection.execute("commit")
            except (DatabaseUnavailable, psycopg.Error) as error:
                logger.warning(
                    "partitions not maintained",
                    extra={"event": "realtime.partitions_failed", "reason": describe(error)},
                )
                await asyncio.sleep(10)
            else:
                await asyncio.sleep(_PARTITION_SECONDS)

    def _partitions(self) -> str:
        if self.limits.missing_partition:
            return f"drop table if exists realtime.messages_{datetime.now(UTC):%Y_%m_%d}"
        return "select realtime.maintain_partitions()"

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
            return json_response(200 if running else 503, body, CORS)
        if request.path in _SOCKET_PATHS:
            return Response(426, b"", (("upgrade", "websocket"),))
        return Response(404, b"", CORS)

    async def open_socket(self, connection: Connection, request: Request) -> Response | None:
        """Upgrade, or say why not."""
        if request.path not in _SOCKET_PATHS:
            return Response(404, b"")
        parameters = request.parameters
        version = parse_version(parameters.get("vsn"))
        if version is None:
            return await self._refuse(403, None)
        key = request.header("x-api-key") or parameters.get("apikey")
        if not key:
            return await self._refuse(401, "API key is missing")
        try:
            token = self.hub.verifier.verify(key)
        except TokenError as error:
            return await self._refuse(401, error.handshake)
        if self._refused_handshakes > 0:
            self._refused_handshakes -= 1
            return await self._refuse(500, "Error connecting to Realtime")
        if not request.header("sec-websocket-key"):
            return Response(400, b"")
        if request.header("sec-websocket-version") != "13":
            return Response(426, b"", (("sec-websocket-version", "13"),))
        headers = {k: v for k, v in request.headers if k not in _PRIVATE_HEADERS}
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
        return Response(status) if message is None else json_response(status, {"error": message})
