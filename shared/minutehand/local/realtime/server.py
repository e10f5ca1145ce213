"""Puts the parts together: what all sockets share, the listener, start and shutdown."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

import psycopg

from minutehand.local.realtime.authorization import Authorizer
from minutehand.local.realtime.broadcast import Rooms
from minutehand.local.realtime.changes import PostgresChanges
from minutehand.local.realtime.connection import Connection, Request, Response
from minutehand.local.realtime.database import UNREACHABLE, Database, DatabaseUnavailable
from minutehand.local.realtime.flow import Flow
from minutehand.local.realtime.join import JoinRefused
from minutehand.local.realtime.limits import Limits, RateCounter
from minutehand.local.realtime.pgoutput import Change
from minutehand.local.realtime.pgwire import Endpoint, describe
from minutehand.local.realtime.recovery import deliver_missed
from minutehand.local.realtime.replication import ReplicationStream
from minutehand.local.realtime.rest import CORS, Rest
from minutehand.local.realtime.serializer import dump, parse_version
from minutehand.local.realtime.session import Session
from minutehand.local.realtime.tokens import TokenError, Verifier
from minutehand.local.realtime.visibility import Visibility

logger = logging.getLogger(__name__)

_SOCKET_PATHS = ("/realtime/v1/websocket", "/socket/websocket")
_HEALTH_PATHS = ("/realtime/v1/health", "/health")
#: Changes delivered between two looks at the sockets.
_BATCH = 100
_PARTITION_SECONDS = 4 * 3600
_PRIVATE_HEADERS = frozenset({"authorization", "apikey", "x-api-key", "cookie"})


class Hub:
    """What every session and channel shares."""

    def __init__(self, url: str, verifier: Verifier, limits: Limits) -> None:
        endpoint = Endpoint.from_url(url)
        self.limits = limits
        self.verifier = verifier
        self.database = Database(
            url, size=limits.database_connections, timeout=limits.database_timeout_seconds
        )
        self.authorizer = Authorizer(self.database)
        self.rooms = Rooms(limits)
        self.flow = Flow()
        self.visibility = Visibility(url)
        window = limits.rate_window_seconds
        self.presence_rate = RateCounter(limits.presence_messages_per_second, window)
        self.join_rate = RateCounter(limits.joins_per_second, window)
        self.changes = PostgresChanges(
            url, endpoint, self.database, limits, rate=self.rooms.rate, flow=self.flow
        )
        self.messages = ReplicationStream(
            endpoint,
            publication="supabase_realtime_messages_publication",
            slot_prefix="supabase_realtime_messages_replication_slot",
            on_changes=self._deliver,
            on_start=self._deliver_missed,
        )
        #: The latest transactions that were streamed while nobody listened to what they sent.
        self._unheard: deque[int] = deque(maxlen=64)
        self.sessions: set[Session] = set()
        self.shutting_down = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run work in the background and keep it alive until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "background work failed",
                exc_info=task.exception(),
                extra={"event": "realtime.task_failed"},
            )

    async def cancel_tasks(self) -> None:
        """End all background work."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check_join(self, *, private: bool, channels: int) -> None:
        """The checks of a join that need no database.

        Raises:
            JoinRefused: The first that fails.
        """
        self.join_rate.add()
        if self.shutting_down:
            raise JoinRefused("RealtimeRestarting: Realtime is restarting, please standby")
        if self.limits.private_only and not private:
            raise JoinRefused("PrivateOnly: This project only allows private channels")
        if len(self.sessions) > self.limits.connections:
            raise JoinRefused("ConnectionRateLimitReached: Too many connected users")
        if self.join_rate.exceeded():
            raise JoinRefused(
                "ClientJoinRateLimitReached: Too many joins per second", close_code=1001
            )
        if channels >= self.limits.channels_per_connection:
            raise JoinRefused("ChannelRateLimitReached: Too many channels")

    def check_database(self) -> None:
        """Refuse while messages committed after a join would not be delivered.

        Raises:
            JoinRefused: Replication is not running.
        """
        if not self.messages.running.is_set():
            if not self.messages.last_error:
                raise JoinRefused(
                    "InitializingProjectConnection: Connecting to the project database"
                )
            raise JoinRefused(UNREACHABLE)

    async def _deliver(self, changes: list[Change]) -> None:
        heard = {c.transaction_id for c in changes if self.rooms.heard(c)}
        self._unheard.extend({c.transaction_id for c in changes} - heard)
        await self.visibility.wait(heard)
        for at in range(0, len(changes), _BATCH):
            self.rooms.deliver_changes(changes[at : at + _BATCH])
            await self.flow.brake()

    async def settle_unheard(self) -> None:
        """Wait until what nobody heard can be read, for who has just entered a room and reads."""
        await self.visibility.wait(self._unheard)

    async def _deliver_missed(self) -> None:
        if self.messages.lost_at is not None:
            seconds = time.monotonic() - self.messages.lost_at
            await deliver_missed(self.database, self.rooms, seconds)


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
