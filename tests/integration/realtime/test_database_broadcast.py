"""Broadcasts that a transaction makes: on commit, in order, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.realtime.support import PUBLISHABLE, SECRET_KEY, JavaScript, Server, unique
from tests.integration.realtime.test_broadcast import DEEP, UNICODE
from tests.support.databases import Database


@pytest.fixture
def transaction(project: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection that commits when told to."""
    with project.connect(autocommit=False) as connection:
        yield connection


@pytest.mark.parametrize("version", [1, 2])
async def test_a_thousand_messages_of_one_transaction_arrive_once_and_in_order(
    connect: Any, transaction: psycopg.Connection[Any], version: int
) -> None:
    """Check 15: none before the commit; the payload's id is the message's."""
    topic = unique()
    socket = await connect(key=SECRET_KEY, version=version)
    await socket.joined(topic, private=True)

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


async def test_a_rolled_back_message_is_never_sent(
    connect: Any, transaction: psycopg.Connection[Any]
) -> None:
    """Check 15: neither by a transaction nor by a savepoint."""
    topic = unique()
    socket = await connect(key=SECRET_KEY)
    await socket.joined(topic, private=True)

    transaction.execute("select realtime.send('{}', 'gone', %s)", [topic])
    transaction.rollback()
    transaction.execute("savepoint s")
    transaction.execute("select realtime.send('{}', 'gone too', %s)", [topic])
    transaction.execute("rollback to savepoint s")
    transaction.execute("select realtime.send('{}', 'kept', %s)", [topic])
    transaction.commit()

    assert (await socket.expect("broadcast"))["payload"]["event"] == "kept"
    await socket.silence()


async def test_a_payload_with_an_id_keeps_it(connect: Any, sql: psycopg.Connection[Any]) -> None:
    """§6: meta.id stays the row's."""
    topic = unique()
    socket = await connect(key=SECRET_KEY)
    await socket.joined(topic, private=True)

    sql.execute("""select realtime.send('{"id": "mine"}', 'e', %s)""", [topic])
    payload = (await socket.expect("broadcast"))["payload"]

    row = sql.execute("select id::text from realtime.messages where topic = %s", [topic]).fetchone()
    assert row is not None
    assert (payload["payload"], payload["meta"]) == ({"id": "mine"}, {"id": row[0]})


async def test_a_message_reaches_its_own_topic_only(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 16: not its neighbours, nor a topic that begins alike."""
    topic = unique()
    here, there = await connect(key=SECRET_KEY), await connect(key=SECRET_KEY)
    await here.joined(topic, private=True)
    await there.joined(f"{topic}:more", private=True)

    sql.execute("select realtime.send('{}', 'e', %s)", [topic])

    await here.expect("broadcast")
    await there.silence()


@pytest.mark.parametrize("payload", ["1", "[1]", '"text"', "null"])
async def test_a_payload_that_is_no_object_only_warns(
    connect: Any, sql: psycopg.Connection[Any], payload: str
) -> None:
    """Check 17: a lost broadcast never fails the transaction."""
    topic = unique()
    socket = await connect(key=SECRET_KEY)
    await socket.joined(topic, private=True)
    warnings: list[str] = []
    sql.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))

    sql.execute("select realtime.send(%s::jsonb, 'e', %s)", [payload, topic])

    assert [text.partition(":")[0] for text in warnings] == ["WarnSendingBroadcastMessage"]
    await socket.silence()


async def test_a_role_without_permission_only_gets_a_warning(
    connect: Any, project: Database
) -> None:
    """Check 17: send runs with its caller's rights."""
    topic = unique()
    socket = await connect(key=SECRET_KEY)
    await socket.joined(topic, private=True)
    warnings: list[str] = []

    with project.as_role("authenticated", {"sub": None}) as connection:
        connection.add_notice_handler(lambda n: warnings.append(n.message_primary or ""))
        connection.execute("select realtime.send('{}', 'e', %s)", [topic])

    assert "row-level security" in warnings[0]
    await socket.silence()


async def test_a_row_trigger_broadcasts_every_kind_of_change(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 18: operation, schema, table, record and old_record."""
    topic = unique()
    sql.execute(
        f"""
        create table public.notes (id int primary key, body text);
        create function public.notes_changed() returns trigger language plpgsql as $$
        begin
          perform realtime.broadcast_changes(
            '{topic}', tg_op, tg_op, tg_table_name, tg_table_schema, new, old
          );
          return null;
        end $$;
        create trigger notes_changed after insert or update or delete on public.notes
          for each row execute function public.notes_changed();
        """.encode()
    )
    socket = await connect(key=SECRET_KEY)
    await socket.joined(topic, private=True)

    sql.execute("insert into public.notes values (1, 'a')")
    sql.execute("update public.notes set body = 'b'")
    sql.execute("delete from public.notes")
    got = [(await socket.expect("broadcast"))["payload"] for _ in range(3)]

    a, b = {"id": 1, "body": "a"}, {"id": 1, "body": "b"}
    expected = [("INSERT", a, None), ("UPDATE", b, a), ("DELETE", None, b)]
    for message, (operation, record, old) in zip(got, expected, strict=True):
        body = message["payload"]
        assert message["event"] == operation
        assert body.pop("id") == message["meta"]["id"]
        assert body == {
            "operation": operation,
            "schema": "public",
            "table": "notes",
            "record": record,
            "old_record": old,
        }


def test_a_statement_trigger_is_refused_in_words(sql: psycopg.Connection[Any]) -> None:
    """§6: both errors arrive wrapped."""
    call = (
        "select realtime.broadcast_changes('t', 'e', %s, 'jobs', 'public', null::realtime.messages,"
        " null::realtime.messages, %s)"
    )

    with pytest.raises(psycopg.errors.RaiseException) as statement:
        sql.execute(call, ["INSERT", "STATEMENT"])
    with pytest.raises(psycopg.errors.RaiseException) as unknown:
        sql.execute(call, ["MERGE", "ROW"])

    assert "Failed to process the row: function can only be triggered for each row" in str(
        statement.value
    )
    assert "Failed to process the row: Unexpected operation type: MERGE" in str(unknown.value)


@pytest.mark.parametrize("payload", [UNICODE, DEEP, {"big": "ü" * 100_000}])
async def test_any_json_survives_the_way_through_the_database(
    server: Server,
    js: JavaScript,
    connect: Any,
    sql: psycopg.Connection[Any],
    payload: dict[str, Any],
) -> None:
    """Check 37: to both versions and to the official client."""
    topic = f"日本:{unique()}"
    old = await connect(version=1)
    await old.joined(topic)
    await js.call("client", name="c", url=server.http, key=PUBLISHABLE)
    on = [{"type": "broadcast", "event": "événement"}]
    await js.call("subscribe", client="c", channel="c", topic=topic, on=on)

    sql.execute(
        "select realtime.send(%s::jsonb, 'événement', %s, false)",
        [psycopg.types.json.Jsonb(payload), topic],
    )
    text = (await old.expect("broadcast"))["payload"]
    [binary] = await js.receive("c")

    for message in (text, binary):
        body = dict(message["payload"])
        assert body.pop("id") == message["meta"]["id"]
        assert body == payload


async def test_bytes_from_the_database_reach_version_2_only(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§6: send_binary."""
    topic, data = unique(), bytes(range(256))
    old, new = await connect(version=1), await connect(version=2)
    await old.joined(topic)
    await new.joined(topic)

    sql.execute("select realtime.send_binary(%s, 'bytes', %s, false)", [data, topic])

    assert (await new.expect("broadcast"))["payload"]["payload"] == data
    await old.silence()


async def test_any_inserted_row_is_broadcast(connect: Any, sql: psycopg.Connection[Any]) -> None:
    """§6: whatever inserted it; rows without an event are not messages."""
    topic = unique()
    socket = await connect(key=SECRET_KEY)
    await socket.joined(topic, private=True)

    sql.execute(
        "insert into realtime.messages (topic, extension, payload, event, private)"
        " values (%(t)s, 'broadcast', '{}', null, true), (%(t)s, 'broadcast', null, 'e', true),"
        " (%(t)s, 'broadcast', '[1]', 'list', true)",
        {"t": topic},
    )

    frame = await socket.expect("broadcast")
    assert (frame["payload"]["event"], frame["payload"]["payload"]) == ("list", [1])
    await socket.silence()


def test_the_schemas_neighbours_are_the_real_ones(sql: Any) -> None:
    """As the migrations of 2.129.8 leave them: who asks the catalogue finds the same."""
    functions = sql.execute(
        "select pronargs, provolatile from pg_proc where proname = 'check_equality_op' order by 1"
    ).fetchall()
    columns = sql.execute(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = 'realtime.schema_migrations'::regclass and attnum > 0 order by attnum"
    ).fetchall()
    readers = sql.execute(
        "select a.grantee::regrole::text from pg_class as c, aclexplode(c.relacl) as a"
        " where c.oid = 'realtime.schema_migrations'::regclass and a.grantee <> c.relowner"
    ).fetchall()

    assert functions == [(4, "i"), (5, "s")]
    assert columns == [("version", "bigint"), ("inserted_at", "timestamp(0) without time zone")]
    assert readers == []
