"""Waits until a streamed transaction can be seen by every session.

Postgres hands a commit to its replicas when the log is flushed, a moment before new snapshots see
it. On a busy machine a client could learn of a row and not find it. Here delivery waits, so what
is received can be read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import psycopg

from minutehand.local.realtime.database import Connection, DatabaseUnavailable, connect

#: Longest wait; a commit that waits for a synchronous standby may take longer than that.
_PATIENCE_SECONDS = 5.0
# A streamed id has 32 bits; the full one is the nearest to the end of the present snapshot. An id
# beyond that end belongs to a transaction of which no one has seen the end yet.
_ANY_INVISIBLE = """
  with present as (
    select snapshot, pg_snapshot_xmax(snapshot)::text::bigint as xmax
    from pg_current_snapshot() as snapshot
  )
  select exists (
    select
    from present,
      unnest(%s::bigint[]) as ids (id),
      lateral (
        select (id - xmax %% 4294967296 + 6442450944) %% 4294967296 - 2147483648
      ) as distance (ahead)
    where xmax + ahead > 2 and not pg_visible_in_snapshot((xmax + ahead)::text::xid8, snapshot)
  )
"""


class Visibility:
    """One connection that asks Postgres which transactions have really ended."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def wait(self, transaction_ids: Iterable[int]) -> None:
        """Return once all of them are visible, at worst after a few seconds."""
        ids = list(set(transaction_ids))
        if not ids:
            return
        give_up = time.monotonic() + _PATIENCE_SECONDS
        try:
            while await self._any_invisible(ids) and time.monotonic() < give_up:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        except (DatabaseUnavailable, psycopg.Error):
            return  # the stream is about to end as well

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def _any_invisible(self, ids: list[int]) -> bool:
        async with self._one_at_a_time:
            if self._connection is None or self._connection.closed:
                self._connection = await connect(self._url, "realtime_visibility")
            cursor = await self._connection.execute(_ANY_INVISIBLE, [ids], prepare=True)
            row = await cursor.fetchone()
        return bool(row and row[0])
