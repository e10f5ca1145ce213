"""Realtime broadcasts between clients in both protocol versions, and from a transaction.

The messages of a transaction arrive after its commit, in order and once.
"""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from supabase_local.realtime.serializer import encode_broadcast
from tests.supabase_local.realtime.support import ADA, EVE, SECRET_KEY, token, unique
from tests.support.databases import Database

UNICODE = {"text": 'naïve 日本語 🚀 \u2028 \\ " </script>', "ключ": ["ñ", None, True, 1.5]}


async def test_public_and_private_rooms_of_a_topic_are_separate(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """A broadcast to the public room of a topic does not reach its private room, and vice versa.

    Clients, REST and the database can send to both rooms.
    """
    topic = unique()
    public, private, sender = [await connect(key=SECRET_KEY) for _ in range(3)]
    await public.joined(topic)
    await private.joined(topic, private=True)

    await sender.joined(topic)
    await sender.broadcast(topic, "public", {})
    assert (await public.expect("broadcast"))["payload"]["event"] == "public"
    await private.silence()

    await sender.joined(topic, private=True)
    await sender.broadcast(topic, "private", {})
    assert (await private.expect("broadcast"))["payload"]["event"] == "private"
    await public.silence()

    sql.execute("select realtime.send('{}', 'db-public', %s, false)", [topic])
    sql.execute("select realtime.send('{}', 'db-private', %s, true)", [topic])
    assert (await public.expect("broadcast"))["payload"]["event"] == "db-public"
    assert (await private.expect("broadcast"))["payload"]["event"] == "db-private"
    await public.silence()
    await private.silence()


async def test_without_the_right_to_write_a_broadcast_vanishes(connect: Any, grant: Any) -> None:
    """A broadcast without the right to write is dropped without an ack.

    The sender's channel still receives messages.
    """
    topic = unique()
    reader, writer = await connect(), await connect()
    grant(topic, ADA, write=False)
    grant(topic, EVE)
    await reader.joined(topic, access_token=token(ADA), private=True, broadcast={"ack": True})
    await writer.joined(topic, access_token=token(EVE), private=True)

    await reader.broadcast(topic, "forbidden", {})
    await writer.silence()
    await writer.broadcast(topic, "allowed", {})

    assert (await reader.receive())["payload"]["event"] == "allowed"
    await reader.silence()


async def test_a_binary_broadcast_is_text_to_those_of_version_one(connect: Any) -> None:
    """A binary broadcast reaches a client of protocol version 1 as text."""
    topic, event = unique("réunion"), "événement"
    sender, other = await connect(), await connect(version=1)
    third = await connect()
    for socket in (sender, other, third):
        await socket.joined(topic)
    parts = [part.encode() for part in ("", "9", f"realtime:{topic}", event, "")]
    head = bytes([3, *map(len, parts), 1])

    await sender.send_raw(head + b"".join(parts) + json.dumps(UNICODE).encode())

    for socket in (other, third):
        received = (await socket.expect("broadcast"))["payload"]
        assert received == {"type": "broadcast", "event": event, "payload": UNICODE}


TRIGGER = """
create table rt_notes (id int primary key, word text);
create function rt_send() returns trigger language plpgsql as $$
begin
  perform realtime.broadcast_changes(
    'TOPIC', tg_op, tg_op, tg_table_name, tg_table_schema, new, old, tg_level
  );
  return null;
end $$;
create trigger rows after insert or update or delete on rt_notes
for each row execute function rt_send();
create trigger statements after truncate on rt_notes
for each statement execute function rt_send();
"""


@pytest.fixture
def transaction(project: Database) -> Iterator[psycopg.Connection[Any]]:
    """A database connection that commits when the test says so."""
    with project.connect(autocommit=False) as connection:
        yield connection


@pytest.mark.parametrize("version", [1, 2])
async def test_a_thousand_messages_of_one_transaction_arrive_once_and_in_order(
    connect: Any, transaction: psycopg.Connection[Any], version: int
) -> None:
    """A thousand messages of one transaction arrive after its commit, once and in order.

    Messages of a rolled-back transaction or savepoint do not arrive.
    """
    topic = unique()
    socket = await connect(key=SECRET_KEY, version=version)
    await socket.joined(topic, private=True)
    gone = "select realtime.send('{}', 'gone', %s)"
    transaction.execute(gone, [topic])
    transaction.rollback()
    transaction.execute("savepoint s")
    transaction.execute(gone, [topic])
    transaction.execute("rollback to savepoint s")

    transaction.execute(
        "select realtime.send(jsonb_build_object('n', n), 'n', %s) from generate_series(1, 1000) n",
        [topic],
    )
    await socket.silence()
    transaction.commit()
    got = [(await socket.expect("broadcast"))["payload"] for _ in range(1000)]

    assert [message["payload"]["n"] for message in got] == list(range(1, 1001))
    assert all(message["payload"]["id"] == message["meta"]["id"] for message in got)
    assert len({message["meta"]["id"] for message in got}) == 1000
    await socket.silence()


async def test_a_frame_is_the_real_servers_byte_by_byte(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """A broadcast has exactly the bytes that a real Realtime server sends."""
    # These bytes are from test/realtime_web/socket/v2_serializer_test.exs in supabase/realtime.
    head = b"\x04\x05\x0a\x11\x01"
    frame = head + b'topicuser_event{"replayed":true}{"a":"b"}'
    assert encode_broadcast("topic", "user_event", '{"replayed":true}', '{"a":"b"}') == frame
    socket, topic = await connect(key=SECRET_KEY), unique()
    await socket.joined(topic, private=True)

    sql.execute("""select realtime.send('{"id": "é"}', 'événement', %s)""", [topic])
    frame = await socket.connection.recv()

    [row] = sql.execute("select id::text from realtime.messages where topic = %s", [topic])
    parts = [f"realtime:{topic}", "événement", json.dumps({"id": row[0]}, separators=(",", ":"))]
    lengths = bytes([4, *(len(part.encode()) for part in parts), 1])
    assert frame == lengths + "".join([*parts, '{"id": "é"}']).encode()


async def test_a_trigger_broadcasts_the_changes_of_its_table(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """A trigger that calls `broadcast_changes`, as in Supabase's guide, sends each row change."""
    socket, topic = await connect(key=SECRET_KEY), unique()
    await socket.joined(topic, private=True)
    sql.execute(TRIGGER.replace("TOPIC", topic))

    sql.execute("insert into rt_notes values (1, 'a')")
    sql.execute("update rt_notes set word = 'b'")
    sql.execute("delete from rt_notes")
    result = [(await socket.expect("broadcast"))["payload"] for _ in range(3)]
    with pytest.raises(psycopg.errors.RaiseException, match="not for each statement"):
        sql.execute("truncate rt_notes")

    one, other = {"id": 1, "word": "a"}, {"id": 1, "word": "b"}
    seen = [(None, one), (one, other), (other, None)]
    for message, kind, (old, new) in zip(result, ("INSERT", "UPDATE", "DELETE"), seen, strict=True):
        assert (message["event"], message["payload"].pop("id")) == (kind, message["meta"]["id"])
        changed = {"operation": kind, "schema": "public", "table": "rt_notes"}
        assert message["payload"] == {**changed, "old_record": old, "record": new}
