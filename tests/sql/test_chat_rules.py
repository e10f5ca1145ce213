"""The chat app's rules in SQL: who reaches what, what a message may be, and what is forgotten."""

from __future__ import annotations

import json
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
from tests.support.engine import Engine
from tests.support.functions import (
    as_user,
    as_worker,
    call,
    database_of_an_app,
    lease,
    open_to,
    rights,
    unkempt,
    until_waiting,
    users_of,
)

ACME, GLOBEX = (
    f"{n}{n}{n}{n}{n}{n}{n}{n}-{n}{n}{n}{n}-4{n}{n}{n}-8{n}{n}{n}-" + n * 12 for n in "12"
)
ADA, BOB, EVE = (f"aaaaaaaa-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
READABLE = [
    "chat_conversations", "chat_messages", "chat_work_items", "async_work_items",
    "async_session_state", "chat_notes",
]  # fmt: skip
CALLERS = {
    "chat_open", "chat_read", "chat_messages_before", "chat_list", "chat_rename", "chat_delete",
    "chat_send", "chat_answer", "chat_cancel", "chat_retry",
    "chat_request", "chat_outcome", "chat_status", "chat_works", "chat_cancel_work",
    "chat_notes_of", "chat_respond", "chat_artefact", "chat_events", "chat_news",
}  # fmt: skip
MEMBERS = CALLERS | {"chat_share", "chat_unshare"}
WORKER = {"chat_load", "chat_post", "chat_delegate", "chat_note", "chat_guidance"}
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
def seeded(template: Postgres) -> Iterator[Database]:
    """A seeded database that knows the app's job types; tests look at rows of their own."""
    with database_of_an_app(template, "chat_reply", "chat_work") as database:
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


def begin(database: Database, user: str = ADA, workspace_id: str = ACME) -> str:
    """Begin a conversation."""
    made = as_user(database, user, "select public.chat_open(%s)", workspace_id)
    conversation_id: str = made["conversation_id"]
    return conversation_id


def send(database: Database, conversation_id: str, user: str = ADA, **changes: Any) -> Any:
    """Say something."""
    message = Jsonb({**MESSAGE, **changes})
    return as_user(database, user, "select public.chat_send(%s, %s)", conversation_id, message)


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
        "answer", "artefact", "cancel", "cancel_work", "events", "list", "messages", "news",
        "notes", "open", "outcome", "remove", "rename", "request", "respond", "retry", "send",
        "show", "status", "works",
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
    conversation = begin(seeded)
    sent = send(seeded, conversation)
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
    for role, claims in (
        ("authenticated", {"sub": EVE, "role": "authenticated"}),
        ("anon", {"role": "anon"}),
        ("anon", {}),
    ):
        for statement, args in {
            "chat_read(%s)": (),
            "chat_messages_before(%s)": (),
            "chat_delete(%s)": (),
            "chat_rename(%s, %s)": ("x",),
            "chat_send(%s, %s)": (Jsonb(MESSAGE),),
            "chat_cancel(%s, %s)": (sent["job_id"],),
            "chat_retry(%s, %s)": (sent["job_id"],),
            "chat_answer(%s, %s, %s)": (sent["job_id"], Jsonb({"answer": "x"})),
        }.items():
            with pytest.raises(psycopg.Error, match="no such conversation") as refused:
                call(seeded, role, claims, f"select public.{statement}", conversation, *args)
            assert refused.value.sqlstate == "PT404"
        for statement in ("chat_open(%s)", "chat_list(%s)"):
            with pytest.raises(psycopg.Error, match="no such workspace"):
                call(seeded, role, claims, f"select public.{statement}", ACME)
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
    conversation = begin(seeded)
    with pytest.raises(psycopg.Error) as refused:
        send(seeded, conversation, **changes)
    assert (refused.value.sqlstate, refused.value.diag.message_detail) == ("PT400", field)


def test_only_who_holds_the_lease_posts_and_only_once(seeded: Database) -> None:
    """A repeat finds the first message, a wrong fence and a wrong shape store nothing."""
    conversation = begin(seeded)
    held = lease(seeded, send(seeded, conversation)["job_id"])
    loaded = as_worker(seeded, "chat_load", held)
    assert (loaded["message"]["text"], loaded["written"], loaded["item"]) == ("Hello", None, None)
    for wrong in ({"text": ""}, {"text": "x" * 50_001}, {"text": "x", "input_tokens": -1}, {}):
        with pytest.raises(psycopg.Error) as refused:
            as_worker(seeded, "chat_post", {**held, **wrong})
        assert refused.value.sqlstate == "PT422"
    first = as_worker(seeded, "chat_post", {**held, "text": "Good day"})
    assert as_worker(seeded, "chat_post", {**held, "text": "Good night"}) == first
    assert as_worker(seeded, "chat_load", held)["written"] == first["message_id"]
    lost = {**held, "fence": held["fence"] + 1, "text": "x", "items": []}
    for function in WORKER:
        with pytest.raises(psycopg.Error, match="lease") as refused:
            as_worker(seeded, function, lost)
        assert refused.value.sqlstate == "PT409"
    as_user(seeded, ADA, "select public.chat_delete(%s)", conversation)
    assert as_worker(seeded, "chat_load", held) == {"message": None}
    for function in ("chat_post", "chat_delegate"):
        with pytest.raises(psycopg.Error, match="gone") as refused:
            as_worker(seeded, function, {**held, "text": "x"})
        assert refused.value.sqlstate == "PT404"


def test_a_history_is_bounded_by_the_database(seeded: Database) -> None:
    """However long a conversation is, and without others' later messages."""
    conversation = begin(seeded)
    sent = send(seeded, conversation)
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
    send(seeded, conversation, text="Later")

    history = as_worker(seeded, "chat_load", lease(seeded, sent["job_id"]))["history"]

    assert history[-1]["text"].startswith("200x")
    assert "Later" not in [said["text"] for said in history]
    assert sum(len(said["text"]) for said in history) <= 60_000
    assert len(history) > 10


def test_what_nobody_wrote_in_is_forgotten(seeded: Database) -> None:
    """With its jobs; not while something works for it, and whosever it is."""
    old, live = begin(seeded, EVE, GLOBEX), begin(seeded)
    ended = send(seeded, old, EVE)["job_id"]
    send(seeded, live)
    as_user(seeded, EVE, "select public.chat_cancel(%s, %s)", old, ended)
    with seeded.connect() as connection:
        connection.execute(
            "update public.chat_conversations set last_message_at = queue.clock()"
            " - interval '91 days' where id = any (%s)",
            ([old, live],),
        )

    send(seeded, begin(seeded))

    with seeded.connect() as connection:
        kept = connection.execute(
            "select id::text from public.chat_conversations where id = any (%s)", ([old, live],)
        ).fetchall()
        jobs = connection.execute("select 1 from public.jobs where id = %s", (ended,)).fetchall()
        events = connection.execute(
            "select 1 from public.job_events where job_id = %s", (ended,)
        ).fetchall()
    assert (kept, jobs, events) == ([(live,)], [], [])


def test_who_speaks_waits_for_one_long_conversation_to_be_forgotten(seeded: Database) -> None:
    """Else a message would wait for all of them, and none be taken once that is too long."""
    old = [begin(seeded, EVE, GLOBEX) for _ in range(2)]
    with seeded.connect() as connection:
        connection.execute(
            "update public.chat_conversations set last_seq = 5000, last_message_at = queue.clock()"
            " - interval '91 days' where id = any (%s)",
            (old,),
        )
    speaking = begin(seeded)

    left = []
    for _ in range(2):
        send(seeded, speaking)
        with seeded.connect() as connection:
            row = connection.execute(
                "select count(*) from public.chat_conversations where id = any (%s)", (old,)
            ).fetchone()
        left.append(row)

    assert left == [(1,), (0,)]


def test_a_guest_session_has_an_end_and_a_measure(seeded: Database) -> None:
    """Twenty conversations, so many messages a day; none when it is over, or of another place."""
    with seeded.connect() as connection:
        row = connection.execute("select public.open_guest_session(%s)", (ACME,)).fetchone()
    assert row is not None
    key = row[0]["session_id"]

    def anonymous(statement: str, *args: Any) -> Any:
        return call(seeded, "anon", {"role": "anon"}, f"select public.{statement}", *args)

    open_ = "chat_open(%s, p_session_id => %s)"
    made = [anonymous(open_, None, key)["conversation_id"] for _ in range(20)]
    for workspace_id, state in ((None, "PT429"), (GLOBEX, "PT404")):
        with pytest.raises(psycopg.Error) as refused:
            anonymous(open_, workspace_id, key)
        assert refused.value.sqlstate == state
    change(seeded, chat_guest_session_messages_per_day=22)  # those that were begun count
    say = "chat_send(%s, %s, %s)"
    for conversation in made[:2]:
        anonymous(say, conversation, Jsonb(MESSAGE), key)

    def refused_for(what: str) -> None:
        with pytest.raises(psycopg.Error) as refused:
            anonymous(say, made[2], Jsonb(MESSAGE), key)
        assert (refused.value.sqlstate, refused.value.diag.message_detail) == ("PT429", what)

    refused_for("chat_guest_session_messages_per_day")
    anonymous("chat_delete(%s, %s)", made.pop(1), key)  # which gives nothing back
    refused_for("chat_guest_session_messages_per_day")
    change(
        seeded, chat_guest_session_messages_per_day=200, chat_guest_session_tokens_per_day=50_000
    )
    refused_for("chat_guest_session_tokens_per_day")
    change(seeded, chat_guest_session_tokens_per_day=200_000)
    held = lease(seeded, anonymous(say, made[1], Jsonb(MESSAGE), key)["job_id"])
    items = [{"kind": "draft", "title": "t", "instruction": "i"}] * 2
    request = {**held, "items": items, "text": "On it"}
    assert as_worker(seeded, "chat_delegate", request) == {"message_id": None}
    begun = as_worker(seeded, "chat_delegate", {**request, "items": items[:1]})
    [item] = begun["work_items"]
    anonymous("chat_cancel(%s, %s, %s)", made[1], item, key)
    with pytest.raises(psycopg.Error, match="too much work is queued") as refused:
        anonymous("chat_retry(%s, %s, %s)", made[1], item, key)
    assert refused.value.sqlstate == "PT429"
    change(seeded, chat_guest_session_tokens_per_day=10_000_000)
    anonymous("chat_retry(%s, %s, %s)", made[1], item, key)
    with pytest.raises(psycopg.Error, match="no such conversation"):
        anonymous("chat_read(%s)", made[0])
    assert anonymous("chat_read(%s, %s)", made[0], key)["workspace_id"] is None
    with seeded.connect() as connection:
        connection.execute(
            "update queue.guest_sessions set opened_at = '2020-01-01', expires_at = '2020-01-02'"
        )
    with pytest.raises(psycopg.Error, match="no such conversation"):
        anonymous("chat_read(%s, %s)", made[0], key)


def test_a_conversation_is_shared_with_a_guest_and_taken_back(seeded: Database) -> None:
    """All of it, to whoever holds the guest session; its jobs follow, and nothing is given away."""
    conversation = begin(seeded)
    first = send(seeded, conversation)
    share = "select public.chat_share(%s)"
    read = "chat_read(%s, %s)"

    def refused(who: Callable[..., Any], statement: str, *args: Any) -> str:
        with pytest.raises(psycopg.Error) as error:
            who(statement, *args)
        return str(error.value.sqlstate)

    def anonymous(statement: str, *args: Any) -> Any:
        return call(seeded, "anon", {"role": "anon"}, f"select public.{statement}", *args)

    def sessions() -> set[str]:
        with seeded.connect() as connection:
            rows = connection.execute(
                "select j.session_id from public.jobs as j"
                " join public.chat_messages as m on m.job_id = j.id where m.conversation_id = %s",
                (conversation,),
            )
            return {row[0] for row in rows}

    for user, state in ((BOB, "PT403"), (EVE, "PT404")):
        assert refused(partial(as_user, seeded, user), share, conversation) == state
    assert refused(anonymous, "chat_share(%s)", conversation) == "42501"
    assert refused(partial(as_user, seeded, ADA), "select public.chat_share(%s, 0)", conversation)
    opened = as_user(seeded, ADA, share, conversation)
    key = opened["session_id"]
    again = as_user(seeded, BOB, share, conversation)
    assert (opened["created"], again) == (True, {**opened, "created": False})

    seen = anonymous(read, conversation, key)
    assert (seen["session_id"], seen["created_by"]) == (key, None)
    assert seen["shared_until"] == opened["expires_at"]
    assert [each["job_id"] for each in seen["replies"]] == [first["job_id"]]
    anonymous("chat_send(%s, %s, %s)", conversation, Jsonb(MESSAGE), key)
    told = anonymous("chat_messages_before(%s, p_session_id => %s)", conversation, key)["messages"]
    assert [(each["by_guest"], each["created_by"]) for each in told] == [
        (False, None), (True, None),
    ]  # fmt: skip
    assert sessions() == {key}
    for statement in ("chat_delete(%s, %s)", "chat_rename(%s, 'Mine', %s)"):
        assert refused(anonymous, statement, conversation, key) == "PT403"
    own = anonymous("chat_open(null, p_session_id => %s)", key)["conversation_id"]
    assert anonymous("chat_delete(%s, %s)", own, key)["deleted"]

    for user, state in ((BOB, "PT403"), (EVE, "PT404")):
        unshare = "select public.chat_unshare(%s)"
        assert refused(partial(as_user, seeded, user), unshare, conversation) == state
    for _ in range(2):
        as_user(seeded, ADA, "select public.chat_unshare(%s)", conversation)
    assert refused(anonymous, read, conversation, key) == "PT404"
    home = as_user(seeded, ADA, "select public.chat_read(%s)", conversation)
    assert (home["session_id"], home["shared_until"]) == (f"chat:{conversation}", None)
    assert sessions() == {f"chat:{conversation}"}
    assert home["messages"] == 2


def test_what_was_shared_comes_home_when_its_guest_session_has_ended(seeded: Database) -> None:
    """With the next that a member says; one for a single user is not shared further."""
    key = uuid.uuid4().hex
    open_ = "select public.chat_open(%s, p_idempotency_key => %s)"
    conversation = as_user(seeded, ADA, open_, ACME, key)["conversation_id"]
    guest_session = as_user(seeded, ADA, "select public.chat_share(%s)", conversation)["session_id"]
    other = as_user(seeded, ADA, open_, ACME, key)["conversation_id"]
    with seeded.connect() as connection:
        connection.execute(
            "update queue.guest_sessions set opened_at = '2020-01-01', expires_at = '2020-01-02'"
            " where session_id = %s", (guest_session,),
        )  # fmt: skip
    send(seeded, conversation)
    state = as_user(seeded, ADA, "select public.chat_read(%s)", conversation)
    assert (state["session_id"], other == conversation) == (f"chat:{conversation}", False)
    assert as_user(seeded, ADA, "select public.chat_share(%s)", conversation)["created"]

    with seeded.connect() as connection:
        row = connection.execute(
            "select public.open_guest_session(%s, %s)", (ACME, Jsonb({"user_id": EVE}))
        ).fetchone()
    assert row is not None
    eves = as_user(
        seeded, EVE, "select public.chat_open(null, p_session_id => %s)", row[0]["session_id"]
    )["conversation_id"]
    with pytest.raises(psycopg.Error, match="already shared with one user") as refused:
        as_user(seeded, ADA, "select public.chat_share(%s)", eves)
    assert refused.value.sqlstate == "PT409"


def test_who_was_shown_out_while_waiting_says_nothing_more(seeded: Database) -> None:
    """A message that came while sharing was being stopped is refused, and not stored after it."""
    conversation = begin(seeded)
    key = as_user(seeded, ADA, "select public.chat_share(%s)", conversation)["session_id"]
    say = "select public.chat_send(%s, %s, %s)"
    claims = json.dumps({"sub": ADA, "role": "authenticated"})

    with seeded.connect(autocommit=False) as closing, ThreadPoolExecutor(1) as pool:
        closing.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        closing.execute("select public.chat_unshare(%s)", (conversation,))
        said = pool.submit(
            call, seeded, "anon", {"role": "anon"}, say, conversation, Jsonb(MESSAGE), key
        )
        until_waiting(seeded)
        closing.commit()

        with pytest.raises(psycopg.Error, match="no such conversation"):
            said.result()
    state = as_user(seeded, ADA, "select public.chat_read(%s)", conversation)
    assert (state["messages"], state["shared_until"]) == (0, None)


def test_a_member_keeps_to_their_pace_whatever_guest_session_they_name(seeded: Database) -> None:
    """A guest session's id in the request makes nobody somebody else."""
    user = str(uuid.uuid4())
    with seeded.connect() as connection:
        connection.execute(
            "insert into public.workspace_members (workspace_id, user_id) values (%s, %s)",
            (ACME, user),
        )
    conversation = begin(seeded, user)
    statement = "select public.chat_send(%s, %s, %s)"
    change(seeded, chat_messages_per_minute=3)
    try:
        for key in (None, "guest_1"):
            as_user(seeded, user, statement, conversation, Jsonb(MESSAGE), key)
        with pytest.raises(psycopg.Error, match="in a minute") as refused:
            as_user(seeded, user, statement, conversation, Jsonb(MESSAGE), "guest_2")
        assert refused.value.sqlstate == "PT429"
        as_user(seeded, user, "select public.chat_delete(%s)", conversation)
        with pytest.raises(psycopg.Error, match="in a minute"):
            begin(seeded, user)
    finally:
        change(seeded, chat_messages_per_minute=100_000)


def test_a_workspaces_bound_holds_when_conversations_race_for_it(seeded: Database) -> None:
    """Two replies begin work at the same moment; there was room for the work of one."""
    held = [lease(seeded, send(seeded, begin(seeded))["job_id"]) for _ in range(2)]
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
        conversation = begin(seeded)
        held = lease(seeded, send(seeded, conversation)["job_id"])
        gate = threading.Barrier(4)

        def race(action: Callable[[], Any], gate: threading.Barrier = gate) -> str | None:
            gate.wait()
            try:
                action()
            except psycopg.Error as error:
                return error.sqlstate
            return None

        request = {**held, "items": items, "text": "On it"}
        cancel = "select public.chat_cancel(%s, %s)"
        actions = [
            partial(as_worker, seeded, "chat_delegate", request),
            partial(send, seeded, conversation, BOB),
            partial(as_user, seeded, ADA, cancel, conversation, held["job_id"]),
            partial(as_user, seeded, ADA, "select public.chat_delete(%s)", conversation),
        ]
        with ThreadPoolExecutor(4) as pool:
            ended = list(pool.map(race, actions))

        assert ended[3] is None
        # or one of the cancel and the worker has found that the other came first
        assert set(ended[:3]) <= {None, "PT404", "PT409"}
        with seeded.connect() as connection:
            alive = connection.execute(
                "select job_type, cancel_requested_at is null from public.jobs"
                " where session_id = %s and finished_at is null",
                (f"chat:{conversation}",),
            ).fetchall()
            connection.execute("select public.settle_jobs(%s)", (Jsonb({
                "worker_id": "w", "tick_id": str(uuid.uuid4()),
                "items": [{**held, "outcome": "retry"}],
            }),))  # fmt: skip
            left = connection.execute(
                "select status from public.jobs where session_id = %s", (f"chat:{conversation}",)
            ).fetchall()
        assert alive == [("chat_reply", False)]
        assert left == [("cancelled",)]


def test_lists_and_counts_read_by_their_index(seeded: Database) -> None:
    """A page of conversations, and the pace of an author, however many rows there are."""
    with seeded.connect(autocommit=False) as connection:  # never committed
        connection.execute(
            "insert into public.chat_conversations (workspace_id, created_by, last_message_at)"
            " select case when n %% 50 = 0 then %s else %s end::uuid, %s,"
            " queue.clock() - n * interval '1 minute' from generate_series(1, 4000) as n",
            (ACME, GLOBEX, EVE),
        )
        connection.execute(
            "insert into public.chat_messages (conversation_id, workspace_id, seq, author, kind,"
            " text, created_by) select id, workspace_id, 1, 'user', 'message', 'x', created_by"
            " from public.chat_conversations where created_by = %s",
            (EVE,),
        )
        connection.execute("analyze public.chat_conversations, public.chat_messages")
        for query, index in {
            "select id from public.chat_conversations where workspace_id = %(w)s"
            " order by last_message_at desc, id desc limit 50": "chat_conversations_newest",
            "select * from public.async_work_items where conversation_id = %(u)s"
            " order by job_id desc limit 100": "chat_work_items_by_conversation",
        }.items():
            plan = connection.execute(
                b"explain " + query.encode(), {"w": ACME, "u": ADA}
            ).fetchall()
            assert index in str(plan), plan
        connection.rollback()


def test_a_message_costs_the_same_however_much_was_said_elsewhere(seeded: Database) -> None:
    """No function reads its way past thousands of conversations and counted messages beside it."""
    conversation = begin(seeded)
    held = lease(seeded, send(seeded, conversation)["job_id"])
    read = (
        "select relname, seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables"
        " where relname in ('chat_conversations', 'chat_messages', 'uses')"
    )
    with seeded.connect(autocommit=False) as connection:  # never committed
        Engine(seeded, connection).stop_clock()  # ten seconds later the quota would count again
        connection.execute(
            "insert into public.chat_conversations (workspace_id, created_by)"
            " select %s, %s from generate_series(1, 3000)",
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
        connection.execute("analyze public.chat_conversations, public.chat_messages, chat.uses")
        claims = Jsonb({"sub": ADA, "role": "authenticated"})
        connection.execute("select set_config('request.jwt.claims', %s::text, true)", (claims,))
        for statement, argument in {
            "public.chat_send(%s, %s)": (conversation, Jsonb(MESSAGE)),
            "public.chat_read(%s)": (conversation,),
            "public.chat_messages_before(%s)": (conversation,),
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
    cancel = "select public.chat_cancel(%s, %s)"

    stopped = begin(seeded)
    held = lease(seeded, send(seeded, stopped)["job_id"])
    as_user(seeded, BOB, cancel, stopped, held["job_id"])
    for function in ("chat_post", "chat_delegate"):
        with pytest.raises(psycopg.Error, match="was cancelled") as refused:
            as_worker(seeded, function, {**held, "text": "On it", "items": items})
        assert (refused.value.sqlstate, refused.value.diag.message_hint) == (
            "PT409", "invalid_state",
        )  # fmt: skip
    assert as_user(seeded, ADA, cancel, stopped, held["job_id"])  # repeated
    state = as_user(seeded, ADA, "select public.chat_read(%s)", stopped)
    assert (state["messages"], state["work"]) == (1, [])

    said = begin(seeded)
    held = lease(seeded, send(seeded, said)["job_id"])
    begun = as_worker(seeded, "chat_delegate", {**held, "text": "On it", "items": items})
    with pytest.raises(psycopg.Error, match="written its message") as refused:
        as_user(seeded, ADA, cancel, said, held["job_id"])
    assert refused.value.sqlstate == "PT409"
    assert as_worker(seeded, "chat_delegate", {**held, "text": "x", "items": items}) == begun
    assert as_user(seeded, ADA, "select public.chat_read(%s)", said)["live"] == 1


def guest_session_of(database: Database, **options: Any) -> str:
    """A guest session's id."""
    with database.connect() as connection:
        row = connection.execute(
            "select public.open_guest_session(%s, %s)", (ACME, Jsonb(options))
        ).fetchone()
    assert row is not None
    key: str = row[0]["session_id"]
    return key


def test_a_guest_session_is_one_session_however_many_conversations_it_has(seeded: Database) -> None:
    """Else a few guests' questions, a week long each, would leave members no room to work."""
    key = guest_session_of(seeded)
    guest_session = ("anon", {"role": "anon"})
    open_, send_ = "select public.chat_open(null, null, %s)", "select public.chat_send(%s, %s, %s)"
    made = [call(seeded, *guest_session, open_, key)["conversation_id"] for _ in range(2)]
    work = Jsonb({**MESSAGE, "mode": "work"})
    items = [{"kind": "draft", "title": "t", "instruction": "i"}] * 3
    sent = call(seeded, *guest_session, send_, made[0], work, key)
    request = {**lease(seeded, sent["job_id"]), "items": items, "text": "On it"}
    change(seeded, chat_queued_items_per_session=3)
    try:
        assert len(as_worker(seeded, "chat_delegate", request)["work_items"]) == 3
        with pytest.raises(psycopg.Error, match="too much work is queued") as refused:
            call(seeded, *guest_session, send_, made[1], work, key)
        assert refused.value.sqlstate == "PT429"
        assert send(seeded, begin(seeded), mode="work")["created"]
    finally:
        change(seeded, chat_queued_items_per_session=100)


def test_a_reply_begun_again_counts_as_the_first_one_did(seeded: Database) -> None:
    """Else a guest would have replies for nothing by stopping them late and asking again."""
    key = guest_session_of(seeded)

    def anonymous(statement: str, *args: Any) -> Any:
        return call(seeded, "anon", {"role": "anon"}, f"select public.{statement}", *args, key)

    conversation = anonymous("chat_open(null, null, %s)")["conversation_id"]
    job_id = anonymous("chat_send(%s, %s, %s)", conversation, Jsonb(MESSAGE))["job_id"]
    change(seeded, chat_guest_session_tokens_per_day=70_000)
    try:
        anonymous("chat_cancel(%s, %s, %s)", conversation, job_id)
        anonymous("chat_retry(%s, %s, %s)", conversation, job_id)
        anonymous("chat_cancel(%s, %s, %s)", conversation, job_id)
        with pytest.raises(psycopg.Error, match="in a day") as refused:
            anonymous("chat_retry(%s, %s, %s)", conversation, job_id)
    finally:
        change(seeded, chat_guest_session_tokens_per_day=10_000_000)

    assert (refused.value.sqlstate, refused.value.diag.message_detail) == (
        "PT429",
        "chat_guest_session_tokens_per_day",
    )
    # a member is no guest, whatever is left of the guest session
    as_user(seeded, BOB, "select public.chat_retry(%s, %s)", conversation, job_id)


def test_a_member_is_no_guest_by_reading_a_guest_sessions_id(seeded: Database) -> None:
    """Members read the ids of guest sessions; what a guest began is theirs and the managers'."""
    key = guest_session_of(seeded)
    claims = {"role": "anon"}
    begun = call(seeded, "anon", claims, "select public.chat_open(null, null, %s)", key)
    conversation = begun["conversation_id"]
    with seeded.connect() as connection:
        connection.execute("select public.close_guest_session(%s)", (key,))

    for statement, value in {"chat_rename(%s, %s, %s)": ("x",), "chat_delete(%s, %s)": ()}.items():
        with pytest.raises(psycopg.Error, match="only who began") as refused:
            as_user(seeded, BOB, f"select public.{statement}", conversation, *value, key)
        assert refused.value.sqlstate == "PT403"
    assert as_user(seeded, ADA, "select public.chat_delete(%s)", conversation)["deleted"]


def test_what_a_service_began_is_shared_and_not_given_away(seeded: Database) -> None:
    """A guest deletes what was begun in the guest session, not what was opened to it later."""
    service = {"role": "service_role"}
    begun = call(seeded, "service_role", service, "select public.chat_open(%s)", ACME)
    conversation = begun["conversation_id"]
    shared = as_user(seeded, ADA, "select public.chat_share(%s)", conversation)
    guest_session = ("anon", {"role": "anon"})
    key = shared["session_id"]
    own = call(seeded, *guest_session, "select public.chat_open(null, null, %s)", key)[
        "conversation_id"
    ]
    delete = "select public.chat_delete(%s, %s)"

    with pytest.raises(psycopg.Error, match="only who began") as refused:
        call(seeded, *guest_session, delete, conversation, key)

    assert refused.value.sqlstate == "PT403"
    assert call(seeded, *guest_session, delete, own, key)["deleted"]


def test_a_member_who_begins_and_speaks_in_a_guest_session_waits_for_nobody_twice(
    seeded: Database,
) -> None:
    """Both count the member and the guest session, in one order: no deadlock."""
    key = guest_session_of(seeded)
    open_ = "select public.chat_open(%s, null, %s, %s)"
    conversation = as_user(seeded, ADA, open_, ACME, key, None)["conversation_id"]
    work = Jsonb({**MESSAGE, "mode": "work"})

    with seeded.connect(autocommit=False) as first, ThreadPoolExecutor(2) as pool:
        # the same key, not committed: beginning comes to a stop in its middle
        first.execute(
            "insert into public.chat_conversations (workspace_id, guest_session_id, "
            "idempotency_key) values (%s, %s, 'k')",
            (ACME, key),
        )
        begun = pool.submit(as_user, seeded, ADA, open_, ACME, key, "k")
        until_waiting(seeded)
        said = pool.submit(
            as_user, seeded, ADA, "select public.chat_send(%s, %s, %s)", conversation, work, key
        )
        until_waiting(seeded, 2)
        first.rollback()

        assert begun.result()["created"]
        assert said.result()["created"]
