"""After a gap in replication, delivers the messages that were committed meanwhile.

Hosted Realtime loses them; the rows are still in the table, so a restart of Postgres need not.
Messages already delivered are known by id and not sent again.
"""

from __future__ import annotations

import psycopg

from minutehand.local.realtime.broadcast import Rooms
from minutehand.local.realtime.database import Database, DatabaseUnavailable
from minutehand.local.realtime.pgwire import ReplicationError, describe

#: A transaction's rows carry its start time, so look back further than the gap.
_LOOK_BACK_SECONDS = 60
_MOST = 10_000

_MISSED = """
  select * from (
    select topic, event, case when private then 't' else 'f' end, id::text, payload::text,
      '\\x' || encode(binary_payload, 'hex'), inserted_at::text, ctid
    from realtime.messages
    where inserted_at >= (now() at time zone 'utc') - make_interval(secs => %s)
    order by inserted_at desc, ctid desc
    limit %s
  ) as newest
  order by inserted_at, ctid
"""


async def deliver_missed(database: Database, rooms: Rooms, seconds: float) -> None:
    """Deliver what was committed in the last `seconds` and not delivered yet.

    Raises:
        ReplicationError: It could not be read; the stream must start again.
    """
    try:
        async with database.transaction() as connection:
            values = [seconds + _LOOK_BACK_SECONDS, _MOST]
            rows = await (await connection.execute(_MISSED, values)).fetchall()
    except (DatabaseUnavailable, psycopg.Error) as error:
        raise ReplicationError(f"missed messages could not be read: {describe(error)}") from error
    names = ("topic", "event", "private", "id", "payload", "binary_payload", "inserted_at")
    for row in rows:
        rooms.deliver_row(dict(zip(names, row[:7], strict=True)))
