"""A stream declared by one line: numbers without gaps, who reads it, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from minutehand.local.postgres import Postgres
from tests.sql.test_publishing import BROKEN
from tests.support.databases import Database
from tests.support.engine import ACME, ADA, EVE, GLOBEX
from tests.support.functions import as_user, call, database_of_an_app, rights, until_waiting

APPEND = "select queue.append_entity_events('note', %s, %s)"
READ = "select public.note_events_after(%s, %s::numeric, %s::numeric, %s)"


@pytest.fixture(scope="module")
def seeded(postgres: Postgres) -> Iterator[Database]:
    """A seeded database with notes that have a stream; each test makes notes of its own."""
    with database_of_an_app(postgres) as database:
        run(
            database,
            "create table public.notes (id uuid primary key default gen_random_uuid(),"
            " workspace_id uuid not null references public.workspaces on delete cascade,"
            " session_id text not null, status text not null default 'open',"
            " finished_at timestamptz)",
        )
        run(database, "select queue.show_to_members('public.notes')")
        run(database, "select queue.make_stream('note', 'public.notes')")
        run(database, "update queue.settings set value = 'true' where name = 'allow_anonymous'")
        yield database


def run(database: Database, statement: str, *args: Any) -> Any:
    """One statement as the project's owner, as migrations are."""
    with database.connect(user="postgres") as connection:
        cursor = connection.execute(statement.encode(), args)
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


def make(database: Database, session_id: str | None = None, workspace: str = ACME) -> str:
    """A note with two events."""
    made = str(
        run(
            database,
            "with n as (select gen_random_uuid() as id) insert into public.notes (id, workspace_id,"
            " session_id) select id, %s, coalesce(%s, 'note:' || id) from n returning id",
            workspace,
            session_id,
        )
    )
    run(database, APPEND, made, events("note_begun", "note_written"))
    return made


def events(*types: str) -> Jsonb:
    """What is appended, with its place as its data."""
    return Jsonb([{"type": each, "data": {"nth": n}} for n, each in enumerate(types)])


def read(
    database: Database, note: str, after: float = 0, limit: float = 500, is_open: bool = False
) -> dict[str, Any]:
    """A page as Ada reads it."""
    page: dict[str, Any] = as_user(database, ADA, READ, note, after, limit, is_open)
    return page


def refused(database: Database, note: str, *, user: str = ADA, is_open: bool = False) -> bool:
    """Whether a reader is told that there is no such note."""
    with pytest.raises(psycopg.Error, match="Note not found") as error:
        as_user(database, user, READ, note, 0, 1, is_open)
    return (error.value.sqlstate, error.value.diag.message_hint) == ("PT404", "note_not_found")


@pytest.mark.parametrize("first", ["commit", "rollback"])
def test_two_who_write_at_once_leave_no_gap(seeded: Database, first: str) -> None:
    """The second waits for the first, and its numbers follow what that has left."""
    note = make(seeded)

    with seeded.connect(autocommit=False) as writing, ThreadPoolExecutor(1) as pool:
        writing.execute(APPEND.encode(), (note, events("a", "b")))
        second = pool.submit(run, seeded, APPEND, note, events("c", "d", "e"))
        until_waiting(seeded)
        writing.execute(first.encode())
        second.result()

    told = read(seeded, note)["events"]
    between = ["a", "b"] if first == "commit" else []
    assert [each["type"] for each in told] == [
        "note_begun", "note_written", *between, "c", "d", "e",
    ]  # fmt: skip
    assert [each["seq"] for each in told] == list(range(1, len(told) + 1))


def test_an_event_needs_no_data(seeded: Database) -> None:
    """Its type may say all; readers find an object there in any case."""
    note = make(seeded)

    run(seeded, APPEND, note, Jsonb([{"type": "closed"}]))

    [told] = read(seeded, note, 2)["events"]
    assert (told["type"], told["data"]) == ("closed", {})


def test_a_page_continues_after_a_number_and_says_how_it_ended(seeded: Database) -> None:
    """`more` until the last one is read; `ended` once the note has."""
    note = make(seeded)

    first = read(seeded, note, 0, 1)
    rest = read(seeded, note, 1)
    run(
        seeded,
        "update public.notes set status = 'done', finished_at = now() where id = %s", note,
    )  # fmt: skip

    assert [(each["seq"], each["type"]) for each in first["events"]] == [(1, "note_begun")]
    assert (first["more"], first["ended"], first["topic"]) == (True, None, f"session:note:{note}")
    assert [each["seq"] for each in rest["events"]] == [2]
    assert set(rest["events"][0]) == {"note_id", "seq", "type", "data", "at"}
    assert rest["more"] is False
    assert {**read(seeded, note, 2), "topic": ""} == {
        "events": [], "more": False, "ended": "done", "topic": "",
    }  # fmt: skip
    for statement, *page in ((READ, None, None, False), ("select public.note_events_after(%s)",)):
        assert as_user(seeded, ADA, statement, note, *page)["events"] == [
            *first["events"], *rest["events"],
        ]  # fmt: skip
    with pytest.raises(psycopg.Error, match="whole"):
        read(seeded, note, 1.5)


def test_realtime_carries_what_is_read(seeded: Database) -> None:
    """Each event a message of its own, named by its type, on the topic that members may join."""
    note = make(seeded)
    run(seeded, APPEND, note, events("alone"))
    topic = f"session:note:{note}"

    sent = run(
        seeded,
        "select jsonb_agg(array[to_jsonb(event), payload] order by payload -> 'seq')"
        " from realtime.messages where topic = %s",
        topic,
    )

    assert sent == [[each["type"], each] for each in read(seeded, note)["events"]]
    for user, messages in ((ADA, 3), (EVE, 0)):
        with seeded.as_role("authenticated", {"sub": user, "role": "authenticated"}) as joined:
            joined.execute("select set_config('realtime.topic', %s, false)", (topic,))
            read_by_policy = "select count(*) from realtime.messages where topic = %s"
            assert joined.execute(read_by_policy, (topic,)).fetchone() == (messages,)


def test_what_cannot_be_sent_is_stored(seeded: Database) -> None:
    """Readers find it by its number."""
    note = make(seeded)
    with seeded.connect(autocommit=False) as connection:
        connection.execute(BROKEN)
        connection.execute(APPEND.encode(), (note, events("unheard")))
        count = "select count(*) from public.note_events where note_id = %s"
        assert connection.execute(count, (note,)).fetchone() == (3,)
        connection.rollback()


def test_another_tenants_topic_carries_none_of_it(seeded: Database) -> None:
    """The session is whose workspace used it first; the other's watchers read by polling."""
    own, other = (make(seeded, "board:1", workspace=of) for of in (ACME, GLOBEX))

    sent = run(
        seeded,
        "select array_agg(distinct payload ->> 'note_id') from realtime.messages"
        " where topic = 'session:board:1'",
    )

    assert sent == [own]
    assert len(as_user(seeded, EVE, READ, other, 0, 500, False)["events"]) == 2


def test_another_tenant_and_a_guest_see_nothing(seeded: Database) -> None:
    """By the function as by the table; and nobody writes there."""
    note = make(seeded)
    count = "select count(*) from public.note_events where note_id = %s"

    assert [as_user(seeded, user, count, note) for user in (ADA, EVE)] == [2, 0]
    assert refused(seeded, note, user=EVE)
    with pytest.raises(psycopg.Error, match="Note not found"):
        call(seeded, "anon", {"role": "anon"}, READ, note, 0, 1, False)
    assert rights(seeded, "authenticated", "public.note_events") == ["select"]
    assert rights(seeded, "anon", "public.note_events") == []


def test_a_guests_note_is_read_while_its_session_is_open(seeded: Database) -> None:
    """By its id alone, as the rest of a guest's things."""
    session = run(seeded, "select public.open_guest_session(%s)", ACME)["session_id"]
    note = make(seeded, session)
    guest = ("anon", {"role": "anon"}, READ, note, 0, 500, False)
    of_another = make(seeded, session, workspace=GLOBEX)

    assert len(call(seeded, *guest)["events"]) == 2
    with pytest.raises(psycopg.Error, match="Note not found"):
        call(seeded, *guest[:3], of_another, 0, 500, False)
    run(seeded, "select public.close_guest_session(%s)", session)
    with pytest.raises(psycopg.Error, match="Note not found"):
        call(seeded, *guest)


def test_a_deleted_note_ends_its_streams_and_is_gone(seeded: Database) -> None:
    """Open ones read the last event for ten minutes, new ones nothing; then maintenance deletes."""
    note = make(seeded)
    run(seeded, "delete from public.notes where id = %s", note)

    last = read(seeded, note, 2, is_open=True)
    assert [(each["seq"], each["type"], each["data"]) for each in last["events"]] == [
        (3, "note_deleted", {"status": "deleted"})
    ]
    assert (last["more"], last["ended"]) == (False, "deleted")
    assert refused(seeded, note)
    assert refused(seeded, note, user=EVE, is_open=True)
    count = "select count(*) from public.note_events where note_id = %s"
    assert as_user(seeded, ADA, count, note) == 0
    with pytest.raises(psycopg.Error, match="Note not found"):
        run(seeded, APPEND, note, events("late"))
    prune = "select queue.prune(100, queue.clock())"
    run(seeded, prune)
    assert run(seeded, count, note) == 3

    run(
        seeded,
        "update public.note_events set created_at = created_at - interval '11 minutes'"
        " where note_id = %s",
        note,
    )
    assert refused(seeded, note, is_open=True)
    living = make(seeded)
    old = "update public.note_events set created_at = '2020-01-01' where note_id = %s"
    run(seeded, old, living)
    run(seeded, prune)
    assert [run(seeded, count, each) for each in (note, living)] == [0, 2]
    assert run(seeded, "select queue.forget_entities(100, queue.clock())") == 0
    held = "select count(*) from queue.sessions where session_id = 'note:' || %s"
    assert run(seeded, held, note) == 0


def test_a_session_that_notes_share_is_kept_when_one_is_deleted(seeded: Database) -> None:
    """Else another tenant could take its topic, and read what the other note sends."""
    note, _ = (make(seeded, "board:1") for _ in range(2))

    run(seeded, "delete from public.notes where id = %s", note)

    held = "select workspace_id from queue.sessions where session_id = 'board:1'"
    assert str(run(seeded, held)) == ACME


def test_the_events_of_a_deleted_tenant_go_with_it(seeded: Database) -> None:
    """At once: no one is left who could read the last one."""
    gone = str(run(seeded, "insert into public.workspaces (name) values ('Gone') returning id"))
    note = make(seeded, workspace=gone)

    run(seeded, "delete from public.workspaces where id = %s", gone)

    assert run(seeded, "select count(*) from public.note_events where note_id = %s", note) == 0
