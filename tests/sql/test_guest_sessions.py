# ruff: noqa: E501 - queries stay on one line
"""GuestSessions: a session opened to whoever holds its id, or to one user; and to nobody beside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal
from tests.support.functions import until_waiting

#: Somebody whom Auth knows, but no workspace does.
GUEST = "cccccccc-0000-4000-8000-000000000009"
NOT_FOUND = ("PT404", "session_not_found", "")


@contextmanager
def somebody(engine: Engine, role: str, claims: dict[str, Any] | None) -> Iterator[Engine]:
    """A call of the Data API under a role; with None for claims it sets none at all."""
    with engine.database.as_role(role, claims) as connection:
        if claims is None:
            connection.execute("select set_config('request.jwt.claims', '', false)")
        yield Engine(engine.database, connection)


def anyone(engine: Engine) -> Any:
    """A browser with the publishable key and no user."""
    return somebody(engine, "anon", {})


def opened(engine: Engine, **options: Any) -> str:
    """A new guest session to Acme; its id."""
    return str(
        engine.rpc("open_guest_session", p_workspace_id=ACME, p_options=options)["session_id"]
    )


def refused(call: Any) -> tuple[str | None, str | None, str | None]:
    """How a call is refused."""
    with pytest.raises(psycopg.Error) as error:
        call()
    return refusal(error.value)


def may_follow(who: Engine, topic: str) -> bool:
    """Whether the policies let the caller read a message of the topic, as Realtime asks."""
    who.run("select set_config('realtime.topic', %s, false)", topic)
    return bool(who.rows("select 1 from realtime.messages where topic = %s", topic))


def spoken(engine: Engine, topic: str) -> list[str]:
    """What was sent to a topic."""
    return engine.rows(
        "select event from realtime.messages where topic = %s order by inserted_at, payload ->> 'seq'",
        topic,
    )


def test_who_holds_the_id_sees_the_session_and_its_events(engine: Engine) -> None:
    """Without a user, and nothing but what a guest is for: no payload, no maker, no log line."""
    guest_session = opened(engine)
    job_id = engine.enqueue({"prompt": "old"}, session_id=guest_session, delay_seconds=60)
    engine.rpc("edit_job", p_job_id=job_id, p_changes={"payload": {"prompt": "hidden"}})
    engine.advance(61)
    lease = engine.lease_one()
    engine.report(lease, logs=[{"level": "info", "message": "inside"}], progress={"percentage": 40})
    engine.settle(lease, result={"answer": 42})

    with anyone(engine) as guest:
        shown = guest.rpc("guest_session_jobs", p_session_id=guest_session)
        events = guest.rpc("guest_session_events", p_session_id=guest_session, p_job_id=job_id)[
            "events"
        ]
        later = guest.rpc(
            "guest_session_events",
            p_session_id=guest_session,
            p_job_id=job_id,
            p_after=2,
            p_limit=1,
        )
        feed = guest.rpc("guest_session_feed", p_session_id=guest_session)

    [job] = shown["jobs"]
    assert (job["id"], job["status"], job["result"]) == (job_id, "completed", {"answer": 42})
    assert job.keys().isdisjoint(
        {
            "payload",
            "user_id",
            "workspace_id",
            "error_data",
            "idempotency_key",
            "concurrency_key",
            "traceparent",
            "cost_usd",
        }
    )
    assert [event["seq"] for event in events] == list(range(1, job["last_seq"] + 1))
    [log] = [event for event in events if event["type"] == "job.log"]
    assert log["data"] == {}
    assert not {"inside", "hidden", "old"} & set(re.findall(r"\w+", json.dumps([events, feed])))
    assert [event["seq"] for event in later["events"]] == [3]
    assert [event["type"] for event in feed["events"]] == [
        event["type"] for event in events if event["type"] != "job.log"
    ]


def test_a_guest_session_is_there_before_its_first_job(engine: Engine) -> None:
    """A browser may join and read first, and enqueue then."""
    guest_session = opened(engine)
    engine.enqueue(session_id="another")

    with anyone(engine) as guest:
        assert guest.rpc("guest_session_jobs", p_session_id=guest_session)["jobs"] == []
        cursor = guest.rpc("guest_session_feed", p_session_id=guest_session)["cursor"]
        job_id = engine.enqueue(session_id=guest_session)
        [event] = guest.rpc("guest_session_feed", p_session_id=guest_session, p_cursor=cursor)[
            "events"
        ]

        engine.enqueue_many(199, session_id=guest_session)
        newest = engine.enqueue(session_id=guest_session)
        shown = guest.rpc("guest_session_jobs", p_session_id=guest_session)["jobs"]

    assert (event["job_id"], event["seq"]) == (job_id, 1)
    assert (len(shown), shown[0]["id"]) == (200, newest)
    assert job_id not in {job["id"] for job in shown}


@pytest.mark.parametrize("claims", [{}, None], ids=["role anon", "no claims at all"])
def test_everything_but_the_id_opens_nothing(engine: Engine, claims: dict[str, Any] | None) -> None:
    """Guesses, other sessions, ordinary sessions, tables: one answer, and it repeats no id."""
    guest_session, other = opened(engine), opened(engine)
    engine.enqueue(session_id=guest_session)
    of_other = engine.enqueue(session_id=other)
    plain = f"s-{uuid4()}"
    engine.enqueue(session_id=plain)
    guesses = [
        plain, "", "guest_", "visit_%", f"guest_{'0' * 64}", guest_session.upper(), guest_session[:-1], f"{guest_session} ",
        guest_session[:-1] + ("0" if guest_session[-1] != "0" else "1"), "x" * 5000, "' or true --",
    ]  # fmt: skip

    with somebody(engine, "anon", claims) as guest:
        for guess in guesses:
            for function in ("guest_session_jobs", "guest_session_feed"):
                assert (
                    refused(lambda d=function, g=guess: guest.rpc(d, p_session_id=g)) == NOT_FOUND
                )
            assert (
                refused(
                    lambda g=guess: guest.rpc(
                        "guest_session_events", p_session_id=g, p_job_id=of_other
                    )
                )
                == NOT_FOUND
            )
        assert refused(
            lambda: guest.rpc("guest_session_events", p_session_id=guest_session, p_job_id=of_other)
        )[:2] == ("PT404", "job_not_found")
        for table in (
            "public.jobs",
            "public.job_events",
            "public.job_logs",
            "queue.guest_sessions",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                guest.run(f"select * from {table}")
        for function in (
            "open_guest_session(gen_random_uuid())",
            "close_guest_session('x')",
            "session_feed('x')",
            "get_job(gen_random_uuid())",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                guest.run(f"select public.{function}")
        for name in (
            "live_guest_session('x')",
            "may_join_guest_session('x')",
            "guest_session_or_refuse('x')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                guest.run(f"select queue.{name}")


def test_guests_of_an_app_share_a_workspace_made_for_the_first(engine: Engine) -> None:
    """Else the second would see nothing of what the first was shown."""
    made, again = (
        engine.one("select queue.guest_workspace('chat_guest_workspace', 'Guests')")
        for _ in range(2)
    )

    assert made == again is not None


def test_two_first_guests_at_once_share_a_workspace(engine: Engine) -> None:
    """The second waits for the one that the first is making."""
    ask = "select queue.guest_workspace('chat_guest_workspace', 'Guests')"
    with engine.beside() as first, ThreadPoolExecutor(1) as threads:
        first.run("begin")
        made = first.one(ask)
        late = threads.submit(engine.one, ask)
        until_waiting(engine.database)
        first.run("commit")

        assert late.result(60) == made is not None


def test_the_topic_is_open_to_the_id_and_nothing_else_is(engine: Engine) -> None:
    """As Realtime asks: the policies decide on each join."""
    guest_session, plain = opened(engine), f"s-{uuid4()}"
    job_id = engine.enqueue(session_id=guest_session)
    engine.enqueue(session_id=plain)
    closed = [
        f"job:{job_id}",
        f"workspace:{ACME}",
        f"session:{plain}",
        f"session:{guest_session[:-1]}",
        f"session:{opened(engine)}x",
    ]

    with anyone(engine) as guest:
        assert may_follow(guest, f"session:{guest_session}")
        assert [topic for topic in closed if may_follow(guest, topic)] == []
    with engine.member(BOB) as member, engine.member(GUEST) as guest:
        assert may_follow(member, f"session:{guest_session}")
        assert may_follow(
            guest, f"session:{guest_session}"
        )  # he could as well come without his token
        assert not may_follow(guest, f"job:{job_id}")


def test_an_ended_or_closed_guest_session_is_silent_and_shut(engine: Engine) -> None:
    """A key that does not expire by itself must not keep a joined socket supplied."""
    guest_session, short = opened(engine), opened(engine, ttl_seconds=30)
    for session in (guest_session, short):
        engine.enqueue(session_id=session)
    assert (spoken(engine, f"session:{guest_session}"), spoken(engine, f"session:{short}")) == (
        ["job.created"],
        ["job.created"],
    )

    engine.rpc("close_guest_session", p_session_id=guest_session)
    engine.advance(31)
    for session in (guest_session, short):
        engine.enqueue(session_id=session)

    assert (spoken(engine, f"session:{guest_session}"), spoken(engine, f"session:{short}")) == (
        ["job.created"],
        ["job.created"],
    )
    with anyone(engine) as guest:
        for session in (guest_session, short):
            assert (
                refused(lambda s=session: guest.rpc("guest_session_jobs", p_session_id=s))
                == NOT_FOUND
            )
            assert not may_follow(guest, f"session:{session}")


def test_an_app_prolongs_a_guest_session_once_a_day_and_revives_none(engine: Engine) -> None:
    """Its functions ask for one at every call; whoever kept the id of an old one is out."""
    session = f"guest_{'a' * 64}"

    def days_left() -> float:
        return float(
            engine.one(
                "select extract(epoch from (queue.ensure_guest_session(%s, %s, null, 10 * 86400)).expires_at"
                " - queue.clock()) / 86400", session, ACME,
            )
        )  # fmt: skip

    left = [days_left()]
    for days in (0.5, 1, 11):
        engine.advance(days * 86400)
        left.append(days_left())

    assert [round(days, 1) for days in left] == [10, 9.5, 10, -1]


def test_a_session_that_a_member_began_ends_with_their_membership(engine: Engine) -> None:
    """It was theirs as one, not as a guest."""
    session = f"guest_{'b' * 64}"
    with engine.connection.transaction():
        claims = json.dumps({"sub": BOB, "role": "authenticated"})
        engine.run("select set_config('request.jwt.claims', %s, true)", claims)
        engine.run("select queue.ensure_guest_session(%s, %s, %s, 86400)", session, ACME, BOB)

    with engine.member(BOB) as bob:
        assert bob.rpc("guest_session_jobs", p_session_id=session)["jobs"] == []
        engine.run("delete from public.workspace_members where user_id = %s", BOB)
        assert refused(lambda: bob.rpc("guest_session_jobs", p_session_id=session)) == NOT_FOUND


def test_where_anonymous_use_is_off_an_id_opens_nothing(engine: Engine) -> None:
    """Turning it off shuts what is open, and a user's own guest session stays his."""
    guest_session, owned = opened(engine), opened(engine, user_id=GUEST)
    engine.enqueue(session_id=owned)

    engine.rpc("set_settings", p_settings={"allow_anonymous": False})

    assert refused(lambda: opened(engine))[:2] == ("PT403", "forbidden")
    with anyone(engine) as guest:
        assert (
            refused(lambda: guest.rpc("guest_session_jobs", p_session_id=guest_session))
            == NOT_FOUND
        )
        assert not may_follow(guest, f"session:{guest_session}")
    with engine.member(GUEST) as guest:
        assert len(guest.rpc("guest_session_jobs", p_session_id=owned)["jobs"]) == 1
        assert may_follow(guest, f"session:{owned}")
    with somebody(engine, "authenticated", {"sub": GUEST, "is_anonymous": True}) as guest:
        assert refused(lambda: guest.rpc("guest_session_jobs", p_session_id=owned)) == NOT_FOUND
        assert not may_follow(guest, f"session:{owned}")


@pytest.mark.parametrize("is_anonymous", [False, True])
def test_a_users_guest_session_is_his_alone_with_its_jobs_and_log_lines(
    engine: Engine, is_anonymous: bool
) -> None:
    """An owner outside the workspace, signed in by name or by Auth's anonymous sign-in."""
    guest_session = opened(engine, user_id=GUEST)
    job_id = engine.enqueue(session_id=guest_session)
    of_others = engine.enqueue()
    engine.report(
        engine.lease(10, job_types=["work"])[0], logs=[{"level": "info", "message": "inside"}]
    )

    with somebody(engine, "authenticated", {"sub": GUEST, "is_anonymous": is_anonymous}) as owner:
        events = owner.rpc("guest_session_events", p_session_id=guest_session, p_job_id=job_id)[
            "events"
        ]
        assert may_follow(owner, f"session:{guest_session}")
        assert may_follow(owner, f"job:{job_id}")
        assert not may_follow(owner, f"job:{of_others}")
        assert not may_follow(owner, f"workspace:{ACME}")
        assert owner.rows("select id from public.jobs") == []
    assert [event["data"]["log"]["message"] for event in events if event["type"] == "job.log"] == [
        "inside"
    ]
    for other in (anyone(engine), engine.member(EVE)):
        with other as stranger:
            assert (
                refused(lambda s=stranger: s.rpc("guest_session_jobs", p_session_id=guest_session))
                == NOT_FOUND
            )
            assert not may_follow(stranger, f"session:{guest_session}")
            assert not may_follow(stranger, f"job:{job_id}")


def test_another_tenant_can_neither_speak_in_a_guest_session_nor_break_it(engine: Engine) -> None:
    """Whoever holds the id could name it in a job of a workspace of his own."""
    guest_session = opened(engine)
    mine = engine.enqueue(session_id=guest_session)
    with engine.member(EVE) as eve:
        forged = eve.enqueue(workspace=GLOBEX, session_id=guest_session)

    with anyone(engine) as guest:
        assert [
            job["id"] for job in guest.rpc("guest_session_jobs", p_session_id=guest_session)["jobs"]
        ] == [mine]
        assert {
            event["job_id"]
            for event in guest.rpc("guest_session_feed", p_session_id=guest_session)["events"]
        } == {mine}
        assert refused(
            lambda: guest.rpc("guest_session_events", p_session_id=guest_session, p_job_id=forged)
        )[:2] == ("PT404", "job_not_found")
        assert may_follow(guest, f"session:{guest_session}")
    assert engine.rows(
        "select distinct payload ->> 'job_id' from realtime.messages where topic = %s",
        f"session:{guest_session}",
    ) == [mine]


def test_managers_and_services_open_and_close_guest_sessions(engine: Engine) -> None:
    """A member may not let the world in, and a stranger learns of nothing."""
    engine.stop_clock()
    with (
        engine.member(ADA) as manager,
        engine.member(BOB) as member,
        engine.member(EVE) as stranger,
    ):
        guest_session = opened(manager)
        assert re.fullmatch("guest_[0-9a-f]{64}", guest_session)
        assert opened(manager) != guest_session
        lasts = "select distinct (expires_at - opened_at)::text from queue.guest_sessions"
        assert engine.rows(lasts) == ["1 day"]
        assert refused(lambda: opened(member))[:2] == ("PT403", "forbidden")
        assert refused(lambda: opened(stranger))[:2] == ("PT404", "workspace_not_found")
        for other in (member, stranger):
            assert (
                refused(lambda o=other: o.rpc("close_guest_session", p_session_id=guest_session))
                == NOT_FOUND
            )
        assert manager.rpc("close_guest_session", p_session_id=guest_session) == {"closed": True}
        assert (
            refused(lambda: manager.rpc("close_guest_session", p_session_id=guest_session))
            == NOT_FOUND
        )


@pytest.mark.parametrize(
    "options",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": 2_592_001},
        {"ttl_seconds": "1"},
        {"user_id": "x"},
        {"secret": 1},
        [],
    ],
)
def test_bad_options_of_a_guest_session_are_named(engine: Engine, options: Any) -> None:
    """A 400 and never an error of the cast."""
    state, word, field = refused(
        lambda: engine.rpc("open_guest_session", p_workspace_id=ACME, p_options=options)
    )

    assert (state, word, field) == ("PT400", "invalid_argument", next(iter(options), "options"))


def test_guest_sessions_go_with_their_workspace_and_some_time_after_their_end(
    engine: Engine,
) -> None:
    """Nothing is kept for ever, and nothing is left behind."""
    old = opened(engine, ttl_seconds=1)
    engine.advance(90_000)
    new = opened(engine)
    engine.maintain()
    assert engine.rows("select session_id from queue.guest_sessions") == [new] != [old]

    engine.run("delete from public.workspaces where id = %s", ACME)

    assert engine.rows("select session_id from queue.guest_sessions") == []


def test_the_policies_ask_once_and_by_index(engine: Engine) -> None:
    """However many messages a replay reads; and one of many guest sessions is found by its key."""
    guest_session = opened(engine)
    engine.enqueue(session_id=guest_session)
    engine.run(
        "insert into queue.guest_sessions (session_id, workspace_id, expires_at) select 'guest_' || encode(sha256(n::text::bytea), 'hex'), %s, now() + '1 day' from generate_series(1, 5000) n",
        ACME,
    )
    engine.run("analyze queue.guest_sessions")
    engine.run(
        "insert into realtime.messages (topic, extension, event, payload, private) select %s, 'broadcast', 'e', '{}', true from generate_series(1, 200)",
        f"session:{guest_session}",
    )

    with anyone(engine) as guest:
        guest.run("select set_config('realtime.topic', %s, false)", f"session:{guest_session}")
        plan = json.dumps(
            guest.one(
                "explain (analyze, format json) select 1 from realtime.messages where topic = %s",
                f"session:{guest_session}",
            )
        )
        policies = guest.rows(
            "select policyname from pg_policies where schemaname = 'realtime' and 'anon' = any (roles)"
        )
    lookup = json.dumps(
        engine.one(
            "explain (format json) select * from queue.guest_sessions where session_id = %s",
            guest_session,
        )
    )

    loops = re.findall(r'"Parent Relationship": "InitPlan".*?"Actual Loops": (\d+)', plan)
    assert set(loops) == {"1"}
    assert policies == ["minutehand: guests follow their session"]
    assert '"Index Name": "guest_sessions_pkey"' in lookup
