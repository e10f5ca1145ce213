"""Row changes of published tables that Realtime streams: form, filters, policies and errors."""

import re
from typing import Any

import psycopg
import pytest

from tests.supabase_local.realtime.support import ADA, EVE, SECRET_KEY, Json, Socket, token, unique

TABLES = """
  create table items (
    id bigint primary key, owner uuid, name text, price numeric, done boolean, secret text
  );
  grant select on items to service_role;
  grant select (id, owner, name, price, done) on items to authenticated;
  grant select on items to anon;
  alter table items enable row level security;
  create policy mine on items for select to authenticated using (owner = auth.uid());

  create table open_items (id bigint primary key, name text, price numeric, done boolean);
  grant select on open_items to anon, authenticated, service_role;

  create table unpublished (id bigint primary key);
  alter publication supabase_realtime
    add table items, open_items;
"""


@pytest.fixture(scope="module", autouse=True)
def tables(project: Any) -> None:
    """The published tables of this module."""
    with project.connect() as connection:
        connection.execute(TABLES)


@pytest.fixture(autouse=True)
def empty(sql: psycopg.Connection[Any]) -> None:
    """Empty the tables before every test."""
    sql.execute("truncate items, open_items")


def entry(table: str = "open_items", event: str = "*", **more: Any) -> Json:
    return {"event": event, "schema": "public", "table": table, **more}


async def listen(
    socket: Socket, *entries: Json, access_token: str | None = None
) -> tuple[str, list[int]]:
    """Join a topic with entries for row changes. Return the topic and the entries' ids."""
    topic = unique("changes")
    reply = await socket.join(topic, access_token=access_token, postgres_changes=list(entries))
    assert reply["status"] == "ok", reply
    system = await socket.expect("system", topic=f"realtime:{topic}")
    result = {"status": "ok", "message": "Subscribed to PostgreSQL", "channel": topic}
    assert system["payload"] == {"extension": "postgres_changes", **result}
    return topic, [item["id"] for item in reply["response"]["postgres_changes"]]


async def change(socket: Socket) -> Json:
    return (await socket.expect("postgres_changes"))["payload"]


async def records(socket: Socket, count: int) -> list[Any]:
    return [(await change(socket))["data"].get("record") for _ in range(count)]


@pytest.mark.parametrize("version", [1, 2])
async def test_each_kind_of_change_has_its_exact_shape(
    connect: Any, sql: psycopg.Connection[Any], version: int
) -> None:
    """INSERT, UPDATE and DELETE are streamed in the documented form.

    INSERT has no old_record, and DELETE has no record.
    """
    socket = await connect(version=version)
    _, ids = await listen(socket, entry())

    sql.execute("insert into open_items values (1, 'a', 1.50, false)")
    sql.execute("update open_items set done = true")
    sql.execute("delete from open_items")
    types = {"id": "int8", "name": "text", "price": "numeric", "done": "bool"}
    columns = [{"name": name, "type": type} for name, type in types.items()]
    row = {"id": 1, "name": "a", "price": 1.5, "done": False}
    rows: dict[str, Json] = {
        "INSERT": {"record": row},
        "UPDATE": {"record": {**row, "done": True}, "old_record": {"id": 1}},
        "DELETE": {"old_record": {"id": 1}},
    }
    for kind, expected in rows.items():
        payload = await change(socket)
        stamp = payload["data"].pop("commit_timestamp")
        assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", stamp)
        place = {"schema": "public", "table": "open_items", "columns": columns}
        data = {"type": kind, "errors": None, **place, **expected}
        assert (payload["ids"], payload["data"]) == (ids, data)


FILTERS = [
    ("id=eq.2", [2]),
    ("id=in.(1,3,9)", [1, 3]),
    ("price=gte.10,done=eq.false", [2, 3]),
    ("price=neq.10", [2, 3]),  # a comparison with null is never true
]


@pytest.mark.parametrize(("text", "expected"), FILTERS)
async def test_filters_select_rows(
    connect: Any, sql: psycopg.Connection[Any], text: str, expected: list[int]
) -> None:
    """A filter of an entry selects the matching rows. Null matches no filter."""
    socket = await connect()
    await listen(socket, entry(event="INSERT", filter=text))

    sql.execute(
        "insert into open_items values (1, 'alpha', 10, true), (2, 'be,ta', 20, false),"
        " (3, 'gamma', 30, false), (4, null, null, null)"
    )

    assert [record["id"] for record in await records(socket, len(expected))] == expected
    await socket.silence(0.1)


async def test_each_tenant_sees_its_own_rows_only(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """A user gets only the rows and columns that row-level security and grants allow.

    A deleted row cannot be checked, so every user sees its key.
    """
    ada, eve, anon, service = [await connect() for _ in range(3)] + [await connect(key=SECRET_KEY)]
    await listen(ada, entry("items"), access_token=token(ADA))
    await listen(eve, entry("items"), access_token=token(EVE))
    await listen(anon, entry("items"))
    await listen(service, entry("items"))

    sql.execute("insert into items values (1, %s, 'a', 1, false, 's1')", [ADA])
    sql.execute("insert into items values (2, %s, 'e', 2, false, 's2')", [EVE])
    sql.execute("update items set done = true where id = 2")

    [mine] = await records(ada, 1)
    assert mine == {"id": 1, "owner": ADA, "name": "a", "price": 1, "done": False}
    assert [record["id"] for record in await records(eve, 2)] == [2, 2]
    assert [record["secret"] for record in await records(service, 3)] == ["s1", "s2", "s2"]
    for socket in (ada, eve, anon, service):
        await socket.silence(0.1)
    sql.execute("delete from items where id = 2")
    for socket in (ada, anon):
        assert (await change(socket))["data"]["old_record"] == {"id": 2}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry("unpublished", "INSERT"), "Please check Realtime is enabled"),
        (entry(filter="undefined"), "Error parsing `filter` params"),
        ({"event": "*"}, "No subscription params provided."),
        (entry(filter="nope=eq.1"), "invalid column for filter nope"),
        (entry(filter="id=eq.abc"), "invalid input syntax for type bigint"),
    ],
)
async def test_a_bad_entry_joins_and_then_says_what_is_wrong(
    connect: Any, sql: psycopg.Connection[Any], bad: Json, message: str
) -> None:
    """A channel with an invalid entry joins and then gets an error.

    All its entries fail, and other channels work.
    """
    socket, topic = await connect(), unique()
    await listen(socket, entry())

    reply = await socket.join(topic, postgres_changes=[bad, entry()])
    system = await socket.expect("system")
    sql.execute("insert into open_items values (1, 'a', 1, false)")

    assert reply["status"] == "ok"
    given = system["payload"]
    assert (given["extension"], given["status"]) == ("postgres_changes", "error")
    assert message in given["message"]
    assert (await socket.expect("postgres_changes"))["topic"] != f"realtime:{topic}"
    await socket.silence()
