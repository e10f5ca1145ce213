"""Waits until a streamed transaction can be seen by every session.

Postgres hands a commit to its replicas when the log is flushed, a moment before new snapshots see
it. On a busy machine a client could learn of a row and not find it, and a client that joins and
then reads could miss what was sent just before the join. Here delivery waits for visibility, so
what is received can be read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

import psycopg

from supabase_local.realtime.database import Connection, DatabaseUnavailable, connect, describe

logger = logging.getLogger(__name__)

#: Longest wait; a commit that waits for a synchronous standby may take longer than that.
_PATIENCE_SECONDS = 5.0
_STEPS = (0.0, 0.0005, 0.001, 0.002, 0.005)

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
        self._connecting = asyncio.Lock()

    async def wait(self, transaction_ids: Iterable[int]) -> None:
        """Return once all of them are visible; at worst after a few seconds, or without an answer.

        When Postgres does not answer, the stream is about to end as well: better late than never.
        """
        ids = list(set(transaction_ids))
        if not ids:
            return
        give_up = time.monotonic() + _PATIENCE_SECONDS
        step = 0
        try:
            while await self._any_invisible(ids):
                if time.monotonic() > give_up:
                    logger.warning(
                        "a committed transaction stays invisible; its messages are sent anyway",
                        extra={"event": "realtime.invisible_commit"},
                    )
                    return
                await asyncio.sleep(_STEPS[min(step, len(_STEPS) - 1)])
                step += 1
        except (DatabaseUnavailable, psycopg.Error) as error:
            logger.warning(
                "visibility could not be checked",
                extra={"event": "realtime.visibility_unknown", "reason": describe(error)},
            )

    async def close(self) -> None:
        """Close the connection."""
        async with self._connecting:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def _connected(self) -> Connection:
        # one at a time: of two first callers, both would connect and one connection be forgotten
        async with self._connecting:
            if self._connection is None or self._connection.closed:
                self._connection = await connect(self._url, "realtime_visibility")
            return self._connection

    async def _any_invisible(self, ids: list[int]) -> bool:
        connection = await self._connected()
        cursor = await connection.execute(_ANY_INVISIBLE, [ids], prepare=True)
        row = await cursor.fetchone()
        return bool(row and row[0])
