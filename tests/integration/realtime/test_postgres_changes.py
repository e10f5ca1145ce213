"""Row changes of published tables: shapes, filters, RLS, and entries that are refused."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from realtime import AsyncRealtimeClient, RealtimePostgresChangesListenEvent

from tests.integration.realtime.support import (
    ADA,
    EVE,
    PUBLISHABLE,
    SECRET_KEY,
    JavaScript,
    Server,
    Socket,
    token,
    unique,
)

TABLES = """
  create table public.items (
    id bigint primary key, owner uuid, name text, price numeric, done boolean, secret text
  );
  grant select on public.items to service_role;
  grant select (id, owner, name, price, done) on public.items to authenticated;
  grant select on public.items to anon;
  alter table public.items enable row level security;
  create policy mine on public.items for select to authenticated using (owner = auth.uid());

  create table public.open_items (id bigint primary key, name text, price numeric, done boolean);
  grant select on public.open_items to anon, authenticated, service_role;

  create table public.full_items (id bigint primary key, name text);
  alter table public.full_items replica identity full;
  grant select on public.full_items to anon;

  create table public.keyless (name text);
  grant select on public.keyless to anon;

  create table public.types (
    id uuid primary key default gen_random_uuid(), small int2, big int8, amount numeric(10, 2),
    ratio float8, flag boolean, at timestamptz, day date, doc jsonb, plain json, tags text[],
    raw bytea, span interval, "Odd name" text
  );
  grant select on public.types to anon;

  create schema tasks;
  grant usage on schema tasks to anon;
  create table tasks.items (id bigint primary key, name text);
  grant select on tasks.items to anon;
  alter publication supabase_realtime add table tasks.items;

  create table public.unpublished (id bigint primary key);
  alter publication supabase_realtime
    add table public.items, public.open_items, public.full_items, public.keyless, public.types;
"""


@pytest.fixture(scope="module", autouse=True)
def tables(project: Any) -> None:
    """The tables this module listens to."""
    with project.connect() as connection:
        connection.execute(TABLES)


@pytest.fixture(autouse=True)
def empty(sql: psycopg.Connection[Any]) -> None:
    """Every test begins with empty tables."""
    sql.execute("truncate public.items, public.open_items, public.full_items, public.types")


def entry(table: str = "open_items", event: str = "*", **more: Any) -> dict[str, Any]:
    return {"event": event, "schema": "public", "table": table, **more}


async def listen(
    socket: Socket, *entries: dict[str, Any], access_token: str | None = None
) -> tuple[str, list[int]]:
    """Join a topic with entries and wait for the subscription; the topic and the entries' ids."""
    topic = unique("changes")
    reply = await socket.join(topic, access_token=access_token, postgres_changes=list(entries))
    assert reply["status"] == "ok", reply
    system = await socket.expect("system", topic=f"realtime:{topic}")
    assert system["payload"] == {
        "extension": "postgres_changes",
        "status": "ok",
        "message": "Subscribed to PostgreSQL",
        "channel": topic,
    }
    return topic, [item["id"] for item in reply["response"]["postgres_changes"]]


async def change(socket: Socket) -> dict[str, Any]:
    frame = await socket.expect("postgres_changes")
    payload: dict[str, Any] = frame["payload"]
    return payload


async def records(socket: Socket, count: int) -> list[Any]:
    return [(await change(socket))["data"].get("record") for _ in range(count)]


async def test_the_reply_echoes_every_entry_with_an_id(connect: Any) -> None:
    """Check 25: an integer, not zero, the same after a rejoin, equal for equal entries."""
    socket, topic = await connect(), unique()
    entries = [
        entry(event="INSERT"),
        entry(filter="id=eq.1", select=["id"], odd={"kept": True}),
        entry(event="INSERT"),
    ]

    first = (await socket.join(topic, postgres_changes=entries))["response"]["postgres_changes"]
    again = (await socket.join(topic, postgres_changes=entries))["response"]["postgres_changes"]

    assert [{k: v for k, v in item.items() if k != "id"} for item in first] == entries
    ids = [item["id"] for item in first]
    assert all(type(number) is int and number != 0 for number in ids)
    assert ids[0] == ids[2] != ids[1]
    assert first == again


async def test_a_table_of_another_schema_is_distinguished_by_it(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """An install may keep jobs in a schema of its own, beside a table of the same name."""
    socket = await connect()
    await listen(socket, {"event": "INSERT", "schema": "tasks", "table": "items"})

    sql.execute("insert into public.items (id, name) values (1, 'theirs')")
    sql.execute("insert into tasks.items values (2, 'ours')")
    data = (await change(socket))["data"]

    assert (data["schema"], data["table"]) == ("tasks", "items")
    assert data["record"] == {"id": 2, "name": "ours"}


@pytest.mark.parametrize("version", [1, 2])
async def test_each_kind_of_change_has_its_exact_shape(
    connect: Any, sql: psycopg.Connection[Any], version: int
) -> None:
    """Check 26: INSERT has no old_record, DELETE no record."""
    socket = await connect(version=version)
    _, ids = await listen(socket, entry())

    sql.execute("insert into public.open_items values (1, 'a', 1.50, false)")
    sql.execute("update public.open_items set done = true")
    sql.execute("delete from public.open_items")
    insert, update, delete = [await change(socket) for _ in range(3)]

    columns = [
        {"name": "id", "type": "int8"},
        {"name": "name", "type": "text"},
        {"name": "price", "type": "numeric"},
        {"name": "done", "type": "bool"},
    ]
    for payload, kind in ((insert, "INSERT"), (update, "UPDATE"), (delete, "DELETE")):
        assert payload["ids"] == ids
        data = payload["data"]
        stamp = data.pop("commit_timestamp")
        assert stamp.endswith("Z")
        assert len(stamp) == len("2026-01-02T03:04:05.678Z")
        assert (data.pop("schema"), data.pop("table")) == ("public", "open_items")
        assert (data.pop("type"), data.pop("errors")) == (kind, None)
        assert data.pop("columns") == columns
    row = {"id": 1, "name": "a", "price": 1.5, "done": False}
    assert insert["data"] == {"record": row}
    assert update["data"] == {"record": {**row, "done": True}, "old_record": {"id": 1}}
    assert delete["data"] == {"old_record": {"id": 1}}


async def test_an_entry_receives_its_own_event_only(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 26: in any letter case; an unknown event means all."""
    sockets = {name: await connect() for name in ("INSERT", "update", "Delete", "whatever")}
    for name, socket in sockets.items():
        await listen(socket, entry(event=name))

    sql.execute("insert into public.open_items values (1, 'a', 1, false)")
    sql.execute("update public.open_items set done = true")
    sql.execute("delete from public.open_items")

    for name, kinds in (
        ("INSERT", ["INSERT"]),
        ("update", ["UPDATE"]),
        ("Delete", ["DELETE"]),
        ("whatever", ["INSERT", "UPDATE", "DELETE"]),
    ):
        got = [(await change(sockets[name]))["data"]["type"] for _ in kinds]
        assert got == kinds
        await sockets[name].silence(0.05)


async def test_a_transaction_arrives_in_order_and_a_rollback_not_at_all(
    connect: Any, project: Any
) -> None:
    """§12: commit order, on commit."""
    socket = await connect()
    await listen(socket, entry())
    with project.connect(autocommit=False) as transaction:
        transaction.execute("insert into public.open_items values (0, 'gone', 1, false)")
        transaction.rollback()
        transaction.execute(
            "insert into public.open_items select n, 'x', n, false from generate_series(1, 250) n"
        )
        await socket.silence()
        transaction.commit()

    assert [record["id"] for record in await records(socket, 250)] == list(range(1, 251))


FILTERS = [
    ("id=eq.2", [2]),
    ("id=neq.2", [1, 3, 4]),
    ("price=lt.20", [1]),
    ("price=lte.20", [1, 2]),
    ("price=gt.20", [3]),
    ("price=gte.20", [2, 3]),
    ("id=in.(1,3,9)", [1, 3]),
    ('name=in.("be,ta",alpha)', [1, 2]),
    ("name=like.%a", [1, 2, 3]),
    ("name=ilike.GA%", [3]),
    ("name=match.^[ag]", [1, 3]),
    ("name=imatch.^G", [3]),
    ("done=is.true", [1]),
    ("price=is.null", [4]),
    ("price=not.is.null", [1, 2, 3]),
    ("id=not.eq.2", [1, 3, 4]),
    ("name=not.like.%ta", [1, 3]),
    ("price=eq.10,id=eq.1", [1]),
    ("price=gte.10,id=gt.1,done=is.false", [2, 3]),
    ("price=isdistinct.10", [2, 3, 4]),
    ('name=eq."be,ta"', [2]),
    ("price=neq.10", [2, 3]),  # null never satisfies a comparison
    ("", [1, 2, 3, 4]),
]


@pytest.mark.parametrize(("text", "expected"), FILTERS)
async def test_filters_select_rows(
    connect: Any, sql: psycopg.Connection[Any], text: str, expected: list[int]
) -> None:
    """Check 27: and NULL never matches."""
    socket = await connect()
    await listen(socket, entry(event="INSERT", filter=text))

    sql.execute(
        "insert into public.open_items values (1, 'alpha', 10, true), (2, 'be,ta', 20, false),"
        " (3, 'gamma', 30, false), (4, null, null, null)"
    )

    assert [record["id"] for record in await records(socket, len(expected))] == expected
    await socket.silence(0.1)


async def test_each_tenant_sees_its_own_rows_only(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 28: RLS decides; anon sees none; column grants narrow the record."""
    ada, eve, anon, service = [await connect() for _ in range(3)] + [await connect(key=SECRET_KEY)]
    await listen(ada, entry("items"), access_token=token(ADA))
    await listen(eve, entry("items"), access_token=token(EVE))
    await listen(anon, entry("items"))
    await listen(service, entry("items"))

    sql.execute("insert into public.items values (1, %s, 'a', 1, false, 's1')", [ADA])
    sql.execute("insert into public.items values (2, %s, 'e', 2, false, 's2')", [EVE])
    sql.execute("update public.items set done = true where id = 2")

    [mine] = await records(ada, 1)
    assert mine == {"id": 1, "owner": ADA, "name": "a", "price": 1, "done": False}
    assert [record["id"] for record in await records(eve, 2)] == [2, 2]
    assert [record["secret"] for record in await records(service, 3)] == ["s1", "s2", "s2"]
    for socket in (ada, eve, anon, service):
        await socket.silence(0.1)


async def test_a_selection_narrows_the_record_to_itself_and_the_key(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 28: entries with different selections come in separate frames."""
    socket = await connect()
    _, ids = await listen(
        socket, entry(select=["name"]), entry(), entry(event="INSERT"), entry(filter="id=eq.99")
    )

    sql.execute("insert into public.open_items values (1, 'a', 1, false)")
    frames = [await change(socket), await change(socket)]

    by_ids = {tuple(sorted(frame["ids"])): frame["data"] for frame in frames}
    assert by_ids[(ids[0],)]["record"] == {"id": 1, "name": "a"}
    assert [c["name"] for c in by_ids[(ids[0],)]["columns"]] == ["id", "name"]
    assert by_ids[tuple(sorted(ids[1:3]))]["record"]["price"] == 1
    await socket.silence()


async def test_a_delete_shows_everyone_the_key_and_nothing_more(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 29: a deleted row cannot be tested against a policy."""
    ada, anon = await connect(), await connect()
    await listen(ada, entry("items", event="DELETE"), access_token=token(ADA))
    await listen(anon, entry("items", event="DELETE"))
    sql.execute("insert into public.items values (1, %s, 'e', 2, false, 's')", [EVE])

    sql.execute("delete from public.items")

    for socket in (ada, anon):
        assert (await change(socket))["data"]["old_record"] == {"id": 1}


async def test_full_replica_identity_shows_the_old_row(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: without RLS, on update and delete, and filters may then match a delete."""
    socket = await connect()
    await listen(socket, entry("full_items", filter="name=eq.b"))
    sql.execute("insert into public.full_items values (1, 'a')")

    sql.execute("update public.full_items set name = 'b'")
    sql.execute("delete from public.full_items")

    update, delete = await change(socket), await change(socket)
    assert update["data"]["old_record"] == {"id": 1, "name": "a"}
    assert delete["data"]["old_record"] == {"id": 1, "name": "b"}


async def test_a_delete_cannot_match_a_filter_on_another_column(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: with the default identity only the key is known."""
    by_name, by_key = await connect(), await connect()
    await listen(by_name, entry(event="DELETE", filter="name=eq.a"))
    await listen(by_key, entry(event="DELETE", filter="id=eq.1"))
    sql.execute("insert into public.open_items values (1, 'a', 1, false)")

    sql.execute("delete from public.open_items")

    assert (await change(by_key))["data"]["old_record"] == {"id": 1}
    await by_name.silence()


async def test_values_of_every_type_arrive_as_json(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: as to_jsonb writes them; bytes as hexadecimal without a prefix."""
    socket = await connect()
    await listen(socket, entry("types"))

    sql.execute(
        """insert into public.types values (
          '00000000-0000-4000-8000-000000000001', 1, 9007199254740993, 1.10, 0.1, true,
          '2026-01-02 03:04:05.678+00', '2026-01-02', '{"a": [1, null]}', '{"b": 1}',
          array['x', 'y,z'], '\\x00ff', '1 day', 'odd'
        )"""
    )

    [record] = await records(socket, 1)
    assert record == {
        "id": "00000000-0000-4000-8000-000000000001",
        "small": 1,
        "big": 9007199254740993,
        "amount": 1.10,
        "ratio": 0.1,
        "flag": True,
        "at": "2026-01-02T03:04:05.678+00:00",
        "day": "2026-01-02",
        "doc": {"a": [1, None]},
        "plain": {"b": 1},
        "tags": ["x", "y,z"],
        "raw": "00ff",
        "span": "1 day",
        "Odd name": "odd",
    }


async def test_generated_columns_are_values_like_others(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Logical decoding leaves them out unless told otherwise; filters may name them."""
    sql.execute(
        "create table public.doubled"
        " (id int primary key, n int, twice int generated always as (n * 2) stored);"
        "grant select on public.doubled to anon;"
        "alter publication supabase_realtime add table public.doubled"
    )
    socket = await connect()
    await listen(socket, entry("doubled", filter="twice=eq.8"))

    sql.execute("insert into public.doubled (id, n) values (1, 3), (2, 4)")

    assert await records(socket, 1) == [{"id": 2, "n": 4, "twice": 8}]
    await socket.silence()


async def test_a_large_unchanged_value_does_not_disturb_an_update(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: Postgres does not send what an update left alone in TOAST."""
    socket = await connect()
    await listen(socket, entry(event="UPDATE"))
    sql.execute("alter table public.open_items alter column name set storage external")
    sql.execute("insert into public.open_items values (1, repeat('x', 20000), 1, false)")

    sql.execute("update public.open_items set done = true")

    data = (await change(socket))["data"]
    assert data["record"] == {"id": 1, "price": 1, "done": True}


async def test_a_record_above_the_limit_keeps_only_small_values(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: Error 413."""
    socket = await connect()
    await listen(socket, entry())

    sql.execute("insert into public.open_items values (1, repeat('x', 1100000), 1, false)")

    data = (await change(socket))["data"]
    assert data["errors"] == ["Error 413: Payload Too Large"]
    assert data["record"] == {"id": 1, "price": 1, "done": False}


async def test_a_table_without_a_key_reports_error_400(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: the change is announced, not shown."""
    socket = await connect()
    await listen(socket, entry("keyless"))

    sql.execute("insert into public.keyless values ('a')")

    data = (await change(socket))["data"]
    assert data["errors"] == ["Error 400: Bad Request, no primary key"]
    assert "record" not in data


NOT_PUBLISHED = (
    "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the"
    " given connect parameters: [event: INSERT, schema: public, table: unpublished, filters: [],"
    " select: nil]"
)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry("unpublished", "INSERT"), NOT_PUBLISHED),
        (entry(filter="undefined"), 'Error parsing `filter` params: ["undefined"]'),
        (
            entry(filter="id=in.1,2"),
            "Error parsing `filter` params: `in` filter value must be wrapped by parentheses",
        ),
        (
            {"event": "*", "schema": "*", "table": "open_items", "select": ["id"]},
            "Column selection is not supported for wildcard subscriptions."
            " Provide an explicit schema and table name.",
        ),
        (
            {"event": "*"},
            "No subscription params provided. Please provide at least a `schema` or `table`"
            ' to subscribe to: %{"event" => "*"}',
        ),
        (
            entry(filter="nope=eq.1"),
            "Unable to subscribe to changes with given parameters. An exception happened so please"
            " check your connect parameters: [event: *, schema: public, table: open_items,"
            ' filters: [{"nope", "eq", "1", false}], select: nil].'
            " Exception: ERROR P0001 (raise_exception) invalid column for filter nope",
        ),
        (entry(filter="id=eq.abc"), "invalid input syntax for type bigint"),
        (entry(select=["nope"]), "invalid column for select nope"),
        (entry(filter="id=in.(" + ",".join(["1"] * 101) + ")"), "too many values for `in` filter"),
        (entry(filter="name=match.("), "invalid regular expression"),
    ],
)
async def test_a_bad_entry_joins_and_then_says_what_is_wrong(
    connect: Any, sql: psycopg.Connection[Any], bad: dict[str, Any], message: str
) -> None:
    """Check 30: all of the channel's entries fail together; other channels do not notice."""
    socket, topic = await connect(), unique()
    await listen(socket, entry())

    reply = await socket.join(topic, postgres_changes=[bad, entry()])
    system = await socket.expect("system")
    sql.execute("insert into public.open_items values (1, 'a', 1, false)")

    assert reply["status"] == "ok"
    assert (system["payload"]["extension"], system["payload"]["status"]) == (
        "postgres_changes",
        "error",
    )
    assert message in system["payload"]["message"]
    assert (await socket.expect("postgres_changes"))["topic"] != f"realtime:{topic}"
    await socket.silence()


async def test_waiting_for_the_subscription_holds_the_reply(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§4: postgres_changes_options.wait; then an invalid entry fails the join."""
    socket, topic = await connect(), unique()
    wait = {"wait": True, "timeout": 15000}

    good = await socket.join(topic, postgres_changes=[entry()], postgres_changes_options=wait)
    sql.execute("insert into public.open_items values (1, 'a', 1, false)")
    bad = await socket.join(
        unique(), postgres_changes=[entry("unpublished")], postgres_changes_options=wait
    )

    assert good["status"] == "ok"
    assert (await change(socket))["data"]["record"]["id"] == 1
    assert bad["response"]["reason"].startswith("RealtimeDisabledForConfiguration: Unable to")


async def test_a_table_published_later_reaches_wildcard_entries(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: new tables are noticed at once."""
    socket = await connect()
    await listen(socket, {"event": "*", "schema": "*"})
    sql.execute(
        "create table public.later (id int primary key);"
        "grant select on public.later to anon;"
        "alter publication supabase_realtime add table public.later"
    )

    sql.execute("insert into public.later values (1)")

    assert (await change(socket))["data"]["table"] == "later"


async def test_subscriptions_leave_the_table_with_their_channel(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: on leave and on the socket's loss."""
    leaver, loser = await connect(), await connect()
    only_here = entry(filter="id=eq.424242")
    topic, _ = await listen(leaver, only_here)
    await listen(loser, only_here)

    def rows() -> int:
        row = sql.execute(
            "select count(*) from realtime.subscription where (filters[1]).value = '424242'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    before = rows()
    await leaver.push(f"realtime:{topic}", "phx_leave", {})
    await loser.connection.close()
    for _ in range(1200):
        if rows() == 0:
            break
        await asyncio.sleep(0.05)

    assert (before, rows()) == (2, 0)


async def test_a_policy_that_raises_hides_the_row_from_its_subscriber_only(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§9: one broken tenant does not stop the others."""
    sql.execute(
        "create table public.fragile (id int primary key, divisor int);"
        "grant select on public.fragile to authenticated, service_role;"
        "alter table public.fragile enable row level security;"
        "create policy p on public.fragile for select to authenticated"
        "  using (id / (auth.jwt() ->> 'divisor')::int > 0);"
        "alter publication supabase_realtime add table public.fragile"
    )
    broken, fine = await connect(), await connect()
    await listen(broken, entry("fragile"), access_token=token(ADA, divisor=0))
    await listen(fine, entry("fragile"), access_token=token(EVE, divisor=1))

    sql.execute("insert into public.fragile values (1, 1)")

    assert (await records(fine, 1)) == [{"id": 1, "divisor": 1}]
    await broken.silence()


async def test_more_than_ten_subscribers_of_a_table_are_all_decided(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """apply_rls switches roles while it loops; Postgres fetches loops ten rows at a time."""
    sockets = [await connect() for _ in range(25)]
    for n, socket in enumerate(sockets):
        await listen(socket, entry("items"), access_token=token(ADA if n % 2 else EVE))

    sql.execute("insert into public.items values (1, %s, 'a', 1, false, 's')", [ADA])

    for n, socket in enumerate(sockets):
        if n % 2:
            assert (await records(socket, 1))[0]["id"] == 1
    for socket in sockets[::6]:
        await socket.silence(0.05)


async def test_the_javascript_client_gets_typed_changes(
    server: Server, js: JavaScript, sql: psycopg.Connection[Any]
) -> None:
    """Checks 25, 26, 28 and 30 with the official client."""
    await js.call("client", name="c", url=server.http, key=PUBLISHABLE, token=token(ADA))
    changes = {"type": "postgres_changes", **entry("items", filter="price=gt.5")}
    on = [changes, {"type": "system", "event": "*"}]
    await js.call("subscribe", client="c", channel="c", topic=unique(), on=on)
    await js.until(
        lambda _: any(m["message"] == "Subscribed to PostgreSQL" for m in js.got("c", "system"))
    )

    sql.execute("insert into public.items values (1, %s, 'cheap', 1, false, 's')", [ADA])
    sql.execute("insert into public.items values (2, %s, 'mine', 9, false, 's')", [ADA])
    sql.execute("insert into public.items values (3, %s, 'foreign', 9, false, 's')", [EVE])
    [got] = await js.receive("c", "postgres_changes")

    assert (got["eventType"], got["schema"], got["table"]) == ("INSERT", "public", "items")
    assert got["new"] == {"id": 2, "owner": ADA, "name": "mine", "price": 9, "done": False}
    assert (got["old"], got["errors"]) == ({}, None)


async def test_the_python_client_gets_changes(server: Server, sql: psycopg.Connection[Any]) -> None:
    """Checks 25 and 26 with the other official client."""
    client = AsyncRealtimeClient(f"{server.http}/realtime/v1", token=PUBLISHABLE)
    received: asyncio.Queue[Any] = asyncio.Queue()
    ready = asyncio.Event()
    channel = client.channel(unique())
    every = RealtimePostgresChangesListenEvent.All
    channel.on_postgres_changes(every, received.put_nowait, table="open_items", schema="public")
    channel.on_system(lambda _: ready.set())
    await channel.subscribe()
    await asyncio.wait_for(ready.wait(), 60)

    sql.execute("insert into public.open_items values (1, 'a', 1, false)")
    got = await asyncio.wait_for(received.get(), 60)
    await client.close()

    assert got["data"]["record"] == {"id": 1, "name": "a", "price": 1, "done": False}
