"""The chat app's rules in SQL: who reaches what, what a message may be, and what is forgotten."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from minutehand.local.postgres import Postgres
from tests.support.databases import Database
from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine
from tests.support.functions import (
    as_user,
    as_worker,
    call,
    database_of_an_app,
    lease,
    open_to,
    rights,
    unkempt,
    users_of,
)

READABLE = [
    "chat_conversations", "chat_messages", "chat_work_items", "async_work_items",
    "async_session_state", "chat_notes",
]  # fmt: skip
CALLERS = {
    "chat_request", "chat_outcome", "chat_status", "chat_said", "chat_delete", "chat_works",
    "chat_cancel_work", "chat_notes_of", "chat_respond", "chat_news",
}  # fmt: skip
MEMBERS = CALLERS | {"chat_sessions"}
WORKER = {"chat_load", "chat_post", "chat_delegate", "chat_note", "chat_guidance", "chat_matching"}
MESSAGE: dict[str, Any] = {
    "text": "Hello",
    "client_id": None,
    "documents": [],
    "mode": "auto",
    "ask": True,
    "ask_seconds": 60,
    "seed": 0,
}


@pytest.fixture(scope="module")
def seeded(postgres: Postgres) -> Iterator[Database]:
    """A seeded database that knows the app's job types; tests look at rows of their own."""
    with database_of_an_app(postgres, "chat_reply", "chat_work") as database:
        with database.connect() as connection:
            connection.execute(
                "update queue.settings set value = 'true' where name = 'allow_anonymous'"
            )
        change(database, chat_messages_per_minute=100_000)  # tests say more than people do
        yield database


def change(database: Database, **settings: int) -> None:
    """Change settings."""
    with database.connect() as connection:
        connection.execute("select public.set_settings(%s)", (Jsonb(settings),))


def begin() -> str:
    """A session's id."""
    return f"guest_{uuid.uuid4().hex}{uuid.uuid4().hex}"


def send(
    database: Database,
    session: str,
    user: str | None = ADA,
    place: str | None = ACME,
    **changes: Any,
) -> Any:
    """Say something as a user, or as a guest."""
    request = Jsonb({**MESSAGE, "workspace_id": place, **changes})
    statement = "select public.chat_request(%s, %s)"
    if user is None:
        return call(database, "anon", {"role": "anon"}, statement, session, request)
    return as_user(database, user, statement, session, request)


def test_grants_are_by_name(seeded: Database) -> None:
    """Guests reach functions that ask for their key, the worker its own; nobody writes a table."""
    for role, allowed in {
        "anon": CALLERS,
        "authenticated": MEMBERS,
        "job_worker": WORKER,
        "service_role": MEMBERS | WORKER,
    }.items():
        assert open_to(seeded, role, "public", "chat_") == sorted(allowed), role
        reads = ["select"] if role in {"authenticated", "service_role"} else []
        for table in READABLE:
            assert rights(seeded, role, f"public.{table}") == reads, (role, table)
    assert open_to(seeded, "anon", "chat") == [
        "cancel_work", "delete", "news", "notes_of", "outcome", "request", "respond", "said",
        "status", "works",
    ]  # fmt: skip


def test_the_apps_own_schema_is_commented_and_closed(seeded: Database) -> None:
    """As the catalogue's test asks of public and queue."""
    with seeded.connect() as connection:
        tables = connection.execute(
            "select c.relname, r.rolname from pg_class as c, pg_roles as r"
            " where c.relnamespace = 'chat'::regnamespace and c.relkind = 'r'"
            " and r.rolname in ('anon', 'authenticated', 'job_worker', 'service_role')"
            " and has_table_privilege(r.oid, c.oid, 'select,insert,update,delete,truncate')"
        ).fetchall()
    assert (unkempt(seeded, "chat"), users_of(seeded, "chat"), tables) == ([], [], [])


def test_rows_are_read_by_members_alone(seeded: Database) -> None:
    """Row level security holds on tables; functions answer a stranger as if nothing existed."""
    session = begin()
    sent = send(seeded, session)
    held = lease(seeded, sent["job_id"])
    items = [{"kind": "draft", "title": "t", "instruction": "i"}]
    begun = as_worker(seeded, "chat_delegate", {**held, "items": items, "text": "On it"})
    asking = lease(seeded, begun["work_items"][0])
    question = {"type": "question", "content": "Which?", "name": "q", "expires_seconds": 60}
    as_worker(seeded, "chat_note", {**asking, **question})

    for table in READABLE:
        count = f"select count(*) from public.{table}"
        assert as_user(seeded, BOB, count) >= 1, table
        assert as_user(seeded, EVE, count) == 0, table
    work = f"work_{begun['work_items'][0]}"
    for role, claims in (
        ("authenticated", {"sub": EVE, "role": "authenticated"}),
        ("anon", {"role": "anon"}),
        ("anon", {}),
    ):
        for statement, args in {
            "chat_said(%s)": (session,),
            "chat_delete(%s)": (session,),
            "chat_request(%s, %s)": (session, Jsonb(MESSAGE)),
            "chat_outcome(%s, %s)": (session, sent["message_id"]),
            "chat_cancel_work(%s, %s, false)": (session, work),
            "chat_cancel_work(%s, null, true)": (session,),
            "chat_cancel_work(null, %s, false)": (f"msg_{sent['message_id']}",),
            "chat_respond(%s, null, %s, 'x')": (session, work),
        }.items():
            with pytest.raises(psycopg.Error) as refused:
                call(seeded, role, claims, f"select public.{statement}", *args)
            assert refused.value.sqlstate == "PT404", statement
        seen = call(seeded, role, claims, "select public.chat_status(%s)", session)
        assert seen["activeWork"] == seen["replies"] == seen["pendingQuestions"] == []
        jobs = [sent["job_id"]]
        told = call(seeded, role, claims, "select public.chat_works(%s, %s::uuid[])", session, jobs)
        assert told["works"] == {sent["job_id"]: None}
    with pytest.raises(psycopg.Error, match="no such workspace"):
        as_user(seeded, EVE, "select public.chat_sessions(%s)", ACME)
    for internal in ("chat_reply", "chat_work"):
        with pytest.raises(psycopg.Error, match="only the platform itself"):
            as_user(seeded, ADA, "select public.enqueue_job(%s, %s)", ACME, internal)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"text": " "}, "text"),
        ({"text": "x" * 8001}, "text"),
        ({"text": None}, "text"),
        ({"client_id": ""}, "client_id"),
        ({"documents": [{"title": "t"}]}, "documents"),
        ({"documents": [1]}, "documents"),
        ({"documents": {}}, "documents"),
        ({"documents": [{"title": "t", "text": "\x01x" * 10_000}] * 9}, "documents"),
        ({"documents": [{"title": "t", "text": "\x01" * 19_999 + "x"}] * 5}, "documents"),
        ({"mode": None}, "mode"),
        ({"mode": "think"}, "mode"),
        ({"ask": "yes"}, "ask"),
        ({"ask_seconds": 1.5}, "ask_seconds"),
        ({"seed": -1}, "seed"),
        ({"other": 1}, "message"),
    ],
)
def test_a_message_is_checked_here_too(
    seeded: Database, changes: dict[str, Any], field: str
) -> None:
    """Whoever comes past the API is told the same."""
    session = begin()
    with pytest.raises(psycopg.Error) as refused:
        send(seeded, session, **changes)
    assert (refused.value.sqlstate, refused.value.diag.message_detail) == ("PT400", field)


def test_only_who_holds_the_lease_posts_and_only_once(seeded: Database) -> None:
    """A repeat finds the first message, a wrong fence and a wrong shape store nothing."""
    session = begin()
    held = lease(seeded, send(seeded, session)["job_id"])
    loaded = as_worker(seeded, "chat_load", held)
    assert (loaded["message"]["text"], loaded["written"], loaded["item"]) == ("Hello", None, None)
    for wrong in ({"text": ""}, {"text": "x" * 50_001}, {"text": "x", "input_tokens": -1}, {}):
        with pytest.raises(psycopg.Error) as refused:
            as_worker(seeded, "chat_post", {**held, **wrong})
        assert refused.value.sqlstate == "PT422"
    first = as_worker(seeded, "chat_post", {**held, "text": "Good day", "input_tokens": 7.0})
    assert as_worker(seeded, "chat_post", {**held, "text": "Good night"}) == first
    assert as_worker(seeded, "chat_load", held)["written"] == first["message_id"]
    lost = {**held, "fence": held["fence"] + 1, "text": "x", "items": []}
    for function in WORKER - {"chat_matching"}:  # which reads and writes nothing
        with pytest.raises(psycopg.Error, match="lease") as refused:
            as_worker(seeded, function, lost)
        assert refused.value.sqlstate == "PT409"
    as_user(seeded, ADA, "select public.chat_delete(%s)", session)
    assert as_worker(seeded, "chat_load", held) == {"message": None}
    for function in ("chat_post", "chat_delegate"):
        with pytest.raises(psycopg.Error, match="gone") as refused:
            as_worker(seeded, function, {**held, "text": "x"})
        assert refused.value.sqlstate == "PT404"


def test_a_history_is_bounded_by_the_database(seeded: Database) -> None:
    """However long a conversation is, and without others' later messages."""
    session = begin()
    sent = send(seeded, session)
    conversation = sent["conversation_id"]
    with seeded.connect() as connection:
        connection.execute(
            "insert into public.chat_messages (conversation_id, workspace_id, seq, author, kind,"
            " text) select %s, %s, n, 'assistant', 'reply', n || repeat('x', 4000)"
            " from generate_series(2, 200) as n",
            (conversation, ACME),
        )
        connection.execute(
            "update public.chat_conversations set last_seq = 200 where id = %s", (conversation,)
        )
    send(seeded, session, text="Later")

    history = as_worker(seeded, "chat_load", lease(seeded, sent["job_id"]))["history"]

    assert history[-1]["text"].startswith("200x")
    assert "Later" not in [said["text"] for said in history]
    assert sum(len(said["text"]) for said in history) <= 60_000
    assert len(history) > 10


def test_an_old_session_is_forgotten(seeded: Database) -> None:
    """With its jobs; not while something works for it, and whosever it is."""
    old = send(seeded, begin(), EVE, GLOBEX)
    live = send(seeded, begin())
    made = [old["conversation_id"], live["conversation_id"]]
    stop = "select public.chat_cancel_work(null, %s, false)"
    as_user(seeded, EVE, stop, f"msg_{old['message_id']}")
    with seeded.connect() as connection:
        connection.execute(
            "update public.chat_conversations set last_message_at = queue.clock()"
            " - interval '91 days' where id = any (%s)",
            (made,),
        )

    send(seeded, begin())

    with seeded.connect() as connection:
        kept = connection.execute(
            "select id::text from public.chat_conversations where id = any (%s)", (made,)
        ).fetchall()
        left = connection.execute(
            "select 1 from public.jobs where id = %s union all"
            " select 1 from public.job_events where job_id = %s",
            (old["job_id"], old["job_id"]),
        ).fetchall()
    assert (kept, left) == ([(live["conversation_id"],)], [])


def test_who_speaks_waits_for_one_long_conversation_to_be_forgotten(seeded: Database) -> None:
    """Else a message would wait for all of them, and none be taken once that is too long."""
    with seeded.connect() as connection:
        connection.execute(
            "insert into public.chat_conversations (workspace_id, session_id, last_seq,"
            " last_message_at) select %s, 'old ' || n, 5000, queue.clock() - interval '91 days'"
            " from generate_series(1, 2) as n",
            (GLOBEX,),
        )
    speaking = begin()

    left = []
    for _ in range(2):
        send(seeded, speaking)
        with seeded.connect() as connection:
            row = connection.execute(
                "select count(*) from public.chat_conversations where session_id like 'old%'"
            ).fetchone()
        left.append(row)

    assert left == [(1,), (0,)]


def test_a_guest_session_has_an_end_and_a_measure(seeded: Database) -> None:
    """So many messages and tokens a day, which no deletion gives back; none when it is over."""
    with seeded.connect() as connection:
        row = connection.execute("select public.open_guest_session(%s)", (ACME,)).fetchone()
    assert row is not None
    key = row[0]["session_id"]
    delete = "select public.chat_delete(%s)"
    anonymous = partial(call, seeded, "anon", {"role": "anon"})
    say = partial(send, seeded, key, None, None)

    def refused_for(what: str) -> None:
        with pytest.raises(psycopg.Error) as refused:
            say()
        assert (refused.value.sqlstate, refused.value.diag.message_detail) == ("PT429", what)

    change(seeded, chat_guest_session_messages_per_day=2)
    say()
    say()
    refused_for("chat_guest_session_messages_per_day")
    with pytest.raises(psycopg.Error, match="only who began") as forbidden:
        as_user(seeded, BOB, delete, key)  # a member is no guest by reading its id
    assert forbidden.value.sqlstate == "PT403"
    anonymous(delete, key)
    refused_for("chat_guest_session_messages_per_day")
    change(
        seeded, chat_guest_session_messages_per_day=200, chat_guest_session_tokens_per_day=70_000
    )
    refused_for("chat_guest_session_tokens_per_day")
    change(seeded, chat_guest_session_tokens_per_day=200_000)
    held = lease(seeded, say()["job_id"])
    items = [{"kind": "draft", "title": "t", "instruction": "i"}] * 2
    request = {**held, "items": items, "text": "On it"}
    assert as_worker(seeded, "chat_delegate", request) == {"message_id": None}
    assert as_worker(seeded, "chat_delegate", {**request, "items": items[:1]})["message_id"]
    with pytest.raises(psycopg.Error, match="too much work is queued") as refused:
        say(items=items[:1])
    assert refused.value.sqlstate == "PT429"
    change(seeded, chat_guest_session_tokens_per_day=10_000_000)
    say(items=items[:1])
    with seeded.connect() as connection:
        connection.execute(
            "update queue.guest_sessions set opened_at = '2020-01-01', expires_at = '2020-01-02'"
        )
    with pytest.raises(psycopg.Error, match="no such session"):
        say()


def test_a_workspaces_bound_holds_when_conversations_race_for_it(seeded: Database) -> None:
    """Two replies begin work at the same moment; there was room for the work of one."""
    held = [lease(seeded, send(seeded, begin())["job_id"]) for _ in range(2)]
    items = [{"kind": "draft", "title": "t", "instruction": "i"}] * 2
    with seeded.connect() as connection:
        row = connection.execute(
            "select count(*) from public.jobs where workspace_id = %s and job_type = 'chat_work'"
            " and finished_at is null",
            (ACME,),
        ).fetchone()
        assert row is not None
        change(seeded, chat_queued_items_per_workspace=row[0] + 3)
    gate = threading.Barrier(2)

    def delegate(one: dict[str, Any]) -> Any:
        gate.wait()
        return as_worker(seeded, "chat_delegate", {**one, "items": items, "text": "On it"})

    with ThreadPoolExecutor(2) as pool:
        begun = list(pool.map(delegate, held))

    change(seeded, chat_queued_items_per_workspace=10_000)
    assert sorted(len(each.get("work_items", [])) for each in begun) == [0, 2]
    assert [each["message_id"] is None for each in begun].count(True) == 1


def test_a_deletion_races_with_everybody_and_leaves_nothing_alive(seeded: Database) -> None:
    """A worker that begins work, a member who speaks, one who cancels: no deadlock, no orphan."""
    items = [{"kind": "draft", "title": "t", "instruction": "i"}]
    for _ in range(6):
        session = begin()
        sent = send(seeded, session)
        held = lease(seeded, sent["job_id"])
        gate = threading.Barrier(4)

        def race(action: Callable[[], Any], gate: threading.Barrier = gate) -> str | None:
            gate.wait()
            try:
                action()
            except psycopg.Error as error:
                return error.sqlstate
            return None

        request = {**held, "items": items, "text": "On it"}
        cancel = "select public.chat_cancel_work(null, %s, false)"
        actions = [
            partial(as_worker, seeded, "chat_delegate", request),
            partial(send, seeded, session, BOB),
            partial(as_user, seeded, ADA, cancel, f"msg_{sent['message_id']}"),
            partial(as_user, seeded, ADA, "select public.chat_delete(%s)", session),
        ]
        with ThreadPoolExecutor(4) as pool:
            ended = list(pool.map(race, actions))

        assert ended[3] is None
        # or one of the cancel and the worker has found that the other came first
        assert set(ended[:3]) <= {None, "PT404", "PT409"}
        with seeded.connect() as connection:
            # who speaks after the deletion begins another conversation
            of = sent["conversation_id"]
            alive = connection.execute(
                "select job_type, cancel_requested_at is null from public.jobs"
                " where payload ->> 'conversation_id' = %s and finished_at is null",
                (of,),
            ).fetchall()
            connection.execute("select public.settle_jobs(%s)", (Jsonb({
                "worker_id": "w", "tick_id": str(uuid.uuid4()),
                "items": [{**held, "outcome": "retry"}],
            }),))  # fmt: skip
            left = connection.execute(
                "select status from public.jobs where payload ->> 'conversation_id' = %s", (of,)
            ).fetchall()
        assert alive == [("chat_reply", False)]
        assert left == [("cancelled",)]


def test_a_message_costs_the_same_however_much_was_said_elsewhere(seeded: Database) -> None:
    """No function reads its way past thousands of conversations and counted messages beside it."""
    session = begin()
    sent = send(seeded, session)
    conversation, held = sent["conversation_id"], lease(seeded, sent["job_id"])
    read = (
        "select relname, seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables"
        " where relname in ('chat_conversations', 'chat_messages', 'chat_work_items', 'uses')"
    )
    with seeded.connect(autocommit=False) as connection:  # never committed
        Engine(seeded, connection).stop_clock()
        # ten seconds after the last time the quota counts all rows again
        connection.execute("update queue.row_counts set counted_at = queue.clock()")
        connection.execute(
            "insert into public.chat_conversations (workspace_id, session_id, created_by)"
            " select %s, 's' || n, %s from generate_series(1, 3000) as n",
            (ACME, ADA),
        )
        connection.execute(
            "insert into chat.uses select author, queue.clock() - n * interval '20 seconds', 1, 0"
            " from generate_series(10, 3000) as n, unnest(%s::text[]) as author",
            (["another", f"{ACME}:{ADA}"],),
        )
        connection.execute(
            "insert into public.chat_messages (conversation_id, workspace_id, seq, author, kind,"
            " text) select %s, %s, n + m, case m when 0 then 'user' else 'assistant' end,"
            " case m when 0 then 'message' else 'reply' end, 'x'"
            " from generate_series(2, 3000, 2) as n, generate_series(0, 1) as m",
            (conversation, ACME),
        )
        connection.execute(
            "update public.chat_conversations set last_seq = 3002 where id = %s", (conversation,)
        )
        connection.execute(
            "update public.chat_messages set seq = 3002 where job_id = %s", (held["job_id"],)
        )
        connection.execute(
            "insert into public.chat_work_items (job_id, conversation_id, workspace_id, message_id,"
            " kind, title, instruction) select gen_random_uuid(), id, workspace_id, id, 'draft',"
            " 't', 'i' from public.chat_conversations where id <> %s",
            (conversation,),
        )
        connection.execute(
            "analyze public.chat_conversations, public.chat_messages, public.chat_work_items,"
            " chat.uses"
        )
        claims = Jsonb({"sub": ADA, "role": "authenticated"})
        connection.execute("select set_config('request.jwt.claims', %s::text, true)", (claims,))
        for statement, argument in {
            "public.chat_request(%s, %s)": (session, Jsonb({**MESSAGE, "workspace_id": ACME})),
            "public.chat_status(%s)": (session,),
            "public.chat_said(%s)": (session,),
            "public.chat_sessions(%s)": (ACME,),
            "public.chat_load(%s)": (Jsonb(held),),
            "public.chat_post(%s)": (Jsonb({**held, "text": "Good day"}),),
        }.items():
            before = dict(connection.execute(read).fetchall())
            connection.execute(f"select {statement}".encode(), argument)
            after = dict(connection.execute(read).fetchall())
            cost = {name: after[name] - before[name] for name in after}
            assert max(cost.values()) < 500, (statement, cost)  # a few pages
        connection.rollback()


def test_of_a_cancel_and_a_message_one_comes_first(seeded: Database) -> None:
    """Nothing is said or begun once somebody has stopped it; what was said is not stopped."""
    items = [{"kind": "draft", "title": "t", "instruction": "i"}]
    cancel = "select public.chat_cancel_work(null, %s, false)"

    sent = send(seeded, begin())
    held = lease(seeded, sent["job_id"])
    as_user(seeded, BOB, cancel, f"msg_{sent['message_id']}")
    for function in ("chat_post", "chat_delegate"):
        with pytest.raises(psycopg.Error, match="was cancelled") as refused:
            as_worker(seeded, function, {**held, "text": "On it", "items": items})
        assert (refused.value.sqlstate, refused.value.diag.message_hint) == (
            "PT409", "invalid_state",
        )  # fmt: skip

    sent = send(seeded, begin())
    held = lease(seeded, sent["job_id"])
    begun = as_worker(seeded, "chat_delegate", {**held, "text": "On it", "items": items})
    with pytest.raises(psycopg.Error, match="completed already") as refused:
        as_user(seeded, ADA, cancel, f"msg_{sent['message_id']}")
    assert refused.value.sqlstate == "PT409"
    assert as_worker(seeded, "chat_delegate", {**held, "text": "x", "items": items}) == begun
