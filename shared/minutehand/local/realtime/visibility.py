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

from minutehand.local.realtime.database import Database, DatabaseUnavailable

#: Longest wait; a commit that waits for a synchronous standby may take longer than that.
_PATIENCE_SECONDS = 5.0
#: A session gives its transaction's id up in the instant in which others begin to see the rows.
_ANY_INVISIBLE = (
    "select from pg_catalog.pg_stat_activity where backend_xid::text::bigint = any (%s) limit 1"
)


async def wait_until_visible(database: Database, transaction_ids: Iterable[int]) -> None:
    """Return once all of them are visible, at worst after a few seconds."""
    ids = list(set(transaction_ids))
    if not ids:
        return
    give_up = time.monotonic() + _PATIENCE_SECONDS
    try:
        while time.monotonic() < give_up:
            async with database.transaction() as connection:
                found = await connection.execute(_ANY_INVISIBLE, [ids])
                if await found.fetchone() is None:
                    return
            await asyncio.sleep(0.001)
    except (DatabaseUnavailable, psycopg.Error):
        return  # the stream is about to end as well
