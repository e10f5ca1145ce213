"""What every session and channel of the server shares: the database, the rooms, the streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from minutehand.tasks import end_tasks
from supabase_local.realtime.authorization import Authorizer
from supabase_local.realtime.broadcast import Rooms
from supabase_local.realtime.changes import PostgresChanges
from supabase_local.realtime.database import BUSY, UNREACHABLE, Database
from supabase_local.realtime.flow import Flow
from supabase_local.realtime.join import JoinRefused
from supabase_local.realtime.limits import Limits
from supabase_local.realtime.member import Socket
from supabase_local.realtime.pgoutput import Change
from supabase_local.realtime.replication import ReplicationStream
from supabase_local.realtime.tokens import Verifier
from supabase_local.realtime.visibility import Visibility

logger = logging.getLogger(__name__)

#: Changes delivered between two checks of the sockets.
_BATCH = 100


class Hub:
    """What every session and channel shares."""

    def __init__(self, url: str, verifier: Verifier, limits: Limits) -> None:
        self.limits = limits
        self.verifier = verifier
        self.database = Database(
            url, size=limits.database_connections, timeout=limits.database_timeout_seconds
        )
        self.authorizer = Authorizer(self.database)
        self.rooms = Rooms(drop_every=limits.drop_every)
        self.flow = Flow()
        self.visibility = Visibility(url)
        self.changes = PostgresChanges(url, self.database, limits, flow=self.flow)
        self.messages = ReplicationStream(
            url,
            publication="supabase_realtime_messages_publication",
            slot_prefix="supabase_realtime_messages_replication_slot",
            on_changes=self._deliver,
            delay=limits.replication_ready_seconds,
        )
        self._replicating: asyncio.Task[None] | None = None
        self._exhausted_joins = limits.exhausted_joins
        self.sessions: set[Socket] = set()
        self.shutting_down = False
        #: Background work, kept alive until it is done.
        self.tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work in the background and keep it alive until it is done."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "background work failed",
                exc_info=task.exception(),
                extra={"event": "realtime.task_failed"},
            )

    async def cancel_tasks(self) -> None:
        """End all background work."""
        await end_tasks(self.tasks)

    def check_join(self) -> None:
        """Refuse joins while the server stops.

        Raises:
            JoinRefused: It does.
        """
        if self.shutting_down:
            raise JoinRefused("RealtimeRestarting: Realtime is restarting, please standby")

    def check_database(self, *, private: bool) -> None:
        """Refuse while the database is unavailable; a join need not wait for replication.

        Raises:
            JoinRefused: The database is unavailable, or has no connection left for a private topic.
        """
        self.replicate()
        if self.messages.last_error:
            raise JoinRefused(UNREACHABLE)
        if private and self._exhausted_joins > 0:
            self._exhausted_joins -= 1
            raise JoinRefused(BUSY)

    def replicate(self) -> None:
        """Begin to stream messages, unless that runs already."""
        running = self._replicating
        # one that was cancelled and has not ended yet streams no more
        if running is None or running.done() or running.cancelling():
            self._replicating = self.spawn(self.messages.run())

    def session_ended(self, session: Socket) -> None:
        """A socket is gone; a project without any goes cold, if the limits say so."""
        self.sessions.discard(session)
        if self.limits.tenant_idle_seconds and not self.sessions:
            asyncio.get_running_loop().call_later(self.limits.tenant_idle_seconds, self._go_cold)

    def _go_cold(self) -> None:
        if not self.sessions and self._replicating is not None:
            self._replicating.cancel()
            logger.info("the tenant is idle", extra={"event": "realtime.tenant_idle"})

    async def _deliver(self, changes: list[Change]) -> None:
        await self.visibility.wait(c.transaction_id for c in changes if self.rooms.heard(c))
        for at in range(0, len(changes), _BATCH):
            self.rooms.deliver_changes(changes[at : at + _BATCH])
            await self.flow.brake()
