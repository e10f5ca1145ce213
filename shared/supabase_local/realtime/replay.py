"""Reads past messages of a private topic for a channel that asked for them."""

from __future__ import annotations

import psycopg

from supabase_local.realtime.database import Database
from supabase_local.realtime.join import REPLAY_FAILED, JoinRefused, Replay
from supabase_local.realtime.member import PREFIX, Member
from supabase_local.realtime.serializer import BINARY, JSON, UserBroadcast

_NEWEST = """
  select id::text, event, payload::text, binary_payload
  from realtime.messages
  where topic = %(topic)s and private is true and extension = 'broadcast'
    and inserted_at >= to_timestamp(%(since)s::double precision / 1000) at time zone 'utc'
    and inserted_at < (now() at time zone 'utc') + interval '1 minute'
    and event is not null and (payload is not null or binary_payload is not null)
  order by inserted_at desc, ctid desc -- rows of one transaction share a time: as inserted
  limit %(limit)s
"""


async def read_replay(database: Database, channel: Member, replay: Replay) -> list[UserBroadcast]:
    """The newest messages since a time, oldest first; their ids are noted on the channel.

    Raises:
        JoinRefused: They could not be read.
        DatabaseUnavailable: The database is unavailable.
    """
    if not channel.reads.broadcast:
        return []
    values = {"topic": channel.topic, "since": replay.since_ms, "limit": replay.limit}
    try:
        async with database.transaction() as connection:
            rows = await (await connection.execute(_NEWEST, values)).fetchall()
    except psycopg.Error as error:
        raise JoinRefused(REPLAY_FAILED) from error
    messages = []
    for message_id, event, payload, binary in reversed(rows):
        channel.replayed_ids.add(message_id)
        messages.append(
            UserBroadcast(
                PREFIX + channel.topic,
                event,
                payload.encode() if binary is None else bytes(binary),
                encoding=JSON if binary is None else BINARY,
                message_id=message_id,
                replayed=True,
            )
        )
    return messages
