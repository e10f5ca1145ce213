"""What every session and channel of the server shares: the database, the rooms, the streams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from minutehand.local.realtime.authorization import Authorizer
from minutehand.local.realtime.broadcast import Rooms
from minutehand.local.realtime.changes import PostgresChanges
from minutehand.local.realtime.database import UNREACHABLE, Database
from minutehand.local.realtime.flow import Flow
from minutehand.local.realtime.join import JoinRefused
from minutehand.local.realtime.limits import Limits, RateCounter
from minutehand.local.realtime.member import Socket
from minutehand.local.realtime.pgoutput import Change
from minutehand.local.realtime.pgwire import Endpoint
from minutehand.local.realtime.recovery import deliver_missed
from minutehand.local.realtime.replication import ReplicationStream
from minutehand.local.realtime.tokens import Verifier
from minutehand.local.realtime.visibility import Visibility
from minutehand.tasks import end_tasks

logger = logging.getLogger(__name__)

#: Changes delivered between two checks of the sockets.
_BATCH = 100


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
        #: The latest transactions that were streamed while no one listened to what they sent.
        self._unheard: deque[int] = deque(maxlen=64)
        self.sessions: set[Socket] = set()
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
        await end_tasks(self._tasks)

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

    async def deliver_pending(self) -> None:
        """Wait until undelivered changes can be read, for a channel that has just joined."""
        await self.visibility.wait(self._unheard)

    async def _deliver_missed(self) -> None:
        if self.messages.lost_at is not None:
            seconds = time.monotonic() - self.messages.lost_at
            await deliver_missed(self.database, self.rooms, seconds)
