"""Objects that all sockets and channels share: the database, the members, and the streams."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from supabase_local.realtime.broadcast import Members
from supabase_local.realtime.changes import PostgresChanges
from supabase_local.realtime.database import Database, wait_until_visible
from supabase_local.realtime.pgoutput import Change
from supabase_local.realtime.replication import ReplicationStream
from supabase_local.realtime.tokens import Verifier


class Hub:
    """Objects that all sockets and channels of the server share."""

    def __init__(self, url: str, verifier: Verifier) -> None:
        self.verifier = verifier
        self.database = Database(url)
        self.members = Members()
        # messages have their own connection pool, so that they do not wait for joins
        self._deciding = Database(url)
        self.changes = PostgresChanges(url, self._deciding, self.spawn)
        self.messages = ReplicationStream(
            url, publication="supabase_realtime_messages_publication", on_changes=self._deliver
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task in the background, and keep a reference to the task until the task ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End all background tasks, and close all connections."""
        ending = list(self._tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._deciding.close()
        await self.database.close()

    async def _deliver(self, changes: list[Change]) -> None:
        deliverable = [change for change in changes if self.members.is_wanted(change)]
        await wait_until_visible(self._deciding, (change.transaction_id for change in deliverable))
        for change in deliverable:
            self.members.deliver_row(change)
