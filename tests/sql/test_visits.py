# ruff: noqa: E501 - queries stay on one line
"""Visits: a session opened to whoever holds its id, or to one user; and to nobody beside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal

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
    """A new visit to Acme; its id."""
    return str(engine.rpc("open_visit", p_workspace_id=ACME, p_options=options)["session_id"])


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
    """Without a user, and nothing but what a visitor is for: no payload, no maker, no log line."""
    visit = opened(engine)
    job_id = engine.enqueue({"prompt": "hidden"}, session_id=visit)
    lease = engine.lease_one()
    engine.report(lease, logs=[{"level": "info", "message": "inside"}], progress={"percentage": 40})
    engine.settle(lease, result={"answer": 42})

    with anyone(engine) as visitor:
        shown = visitor.rpc("visit_jobs", p_session_id=visit)
        events = visitor.rpc("visit_events", p_session_id=visit, p_job_id=job_id)["events"]
        later = visitor.rpc(
            "visit_events", p_session_id=visit, p_job_id=job_id, p_after=2, p_limit=1
        )
        feed = visitor.rpc("visit_feed", p_session_id=visit)

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
    assert "inside" not in json.dumps([events, feed])
    assert [event["seq"] for event in later["events"]] == [3]
    assert [event["type"] for event in feed["events"]] == [
        event["type"] for event in events if event["type"] != "job.log"
    ]


def test_a_visit_is_there_before_its_first_job(engine: Engine) -> None:
    """A browser may join and read first, and enqueue then."""
    visit = opened(engine)

    with anyone(engine) as visitor:
        assert visitor.rpc("visit_jobs", p_session_id=visit)["jobs"] == []
        cursor = visitor.rpc("visit_feed", p_session_id=visit)["cursor"]
        job_id = engine.enqueue(session_id=visit)
        [event] = visitor.rpc("visit_feed", p_session_id=visit, p_cursor=cursor)["events"]

    assert (event["job_id"], event["seq"]) == (job_id, 1)


@pytest.mark.parametrize("claims", [{}, None], ids=["role anon", "no claims at all"])
def test_everything_but_the_id_opens_nothing(engine: Engine, claims: dict[str, Any] | None) -> None:
    """Guesses, other sessions, ordinary sessions, tables: one answer, and it repeats no id."""
    visit, other = opened(engine), opened(engine)
    engine.enqueue(session_id=visit)
    of_other = engine.enqueue(session_id=other)
    plain = f"s-{uuid4()}"
    engine.enqueue(session_id=plain)
    guesses = [
        plain, "", "visit_", "visit_%", f"visit_{'0' * 64}", visit.upper(), visit[:-1], f"{visit} ",
        visit[:-1] + ("0" if visit[-1] != "0" else "1"), "x" * 5000, "' or true --",
    ]  # fmt: skip

    with somebody(engine, "anon", claims) as visitor:
        for guess in guesses:
            for door in ("visit_jobs", "visit_feed"):
                assert refused(lambda d=door, g=guess: visitor.rpc(d, p_session_id=g)) == NOT_FOUND
            assert (
                refused(
                    lambda g=guess: visitor.rpc("visit_events", p_session_id=g, p_job_id=of_other)
                )
                == NOT_FOUND
            )
        assert (
            refused(lambda: visitor.rpc("visit_events", p_session_id=visit, p_job_id=of_other))[1]
            == "job_not_found"
        )
        for table in ("public.jobs", "public.job_events", "public.job_logs", "queue.visits"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                visitor.run(f"select * from {table}")
        for door in (
            "open_visit(gen_random_uuid())",
            "close_visit('x')",
            "session_feed('x')",
            "get_job(gen_random_uuid())",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                visitor.run(f"select public.{door}")
        for name in ("live_visit('x')", "may_visit('x')", "visit_or_refuse('x')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                visitor.run(f"select queue.{name}")


def test_the_topic_is_open_to_the_id_and_nothing_else_is(engine: Engine) -> None:
    """As Realtime asks: the policies decide on each join."""
    visit, plain = opened(engine), f"s-{uuid4()}"
    job_id = engine.enqueue(session_id=visit)
    engine.enqueue(session_id=plain)
    closed = [
        f"job:{job_id}",
        f"workspace:{ACME}",
        f"session:{plain}",
        f"session:{visit[:-1]}",
        f"session:{opened(engine)}x",
    ]

    with anyone(engine) as visitor:
        assert may_follow(visitor, f"session:{visit}")
        assert [topic for topic in closed if may_follow(visitor, topic)] == []
    with engine.member(BOB) as member, engine.member(GUEST) as guest:
        assert may_follow(member, f"session:{visit}")
        assert may_follow(guest, f"session:{visit}")  # he could as well come without his token
        assert not may_follow(guest, f"job:{job_id}")


def test_an_ended_or_closed_visit_is_silent_and_shut(engine: Engine) -> None:
    """A key that does not expire by itself must not keep a joined socket supplied."""
    visit, short = opened(engine), opened(engine, ttl_seconds=30)
    for session in (visit, short):
        engine.enqueue(session_id=session)
    assert (spoken(engine, f"session:{visit}"), spoken(engine, f"session:{short}")) == (
        ["job.created"],
        ["job.created"],
    )

    engine.rpc("close_visit", p_session_id=visit)
    engine.advance(31)
    for session in (visit, short):
        engine.enqueue(session_id=session)

    assert (spoken(engine, f"session:{visit}"), spoken(engine, f"session:{short}")) == (
        ["job.created"],
        ["job.created"],
    )
    with anyone(engine) as visitor:
        for session in (visit, short):
            assert refused(lambda s=session: visitor.rpc("visit_jobs", p_session_id=s)) == NOT_FOUND
            assert not may_follow(visitor, f"session:{session}")


def test_where_anonymous_use_is_off_an_id_opens_nothing(engine: Engine) -> None:
    """Turning it off shuts what is open, and a user's own visit stays his."""
    visit, owned = opened(engine), opened(engine, user_id=GUEST)
    engine.enqueue(session_id=owned)

    engine.rpc("set_settings", p_settings={"allow_anonymous": False})

    assert refused(lambda: opened(engine))[1] == "forbidden"
    with anyone(engine) as visitor:
        assert refused(lambda: visitor.rpc("visit_jobs", p_session_id=visit)) == NOT_FOUND
        assert not may_follow(visitor, f"session:{visit}")
    with engine.member(GUEST) as guest:
        assert len(guest.rpc("visit_jobs", p_session_id=owned)["jobs"]) == 1
        assert may_follow(guest, f"session:{owned}")
    with somebody(engine, "authenticated", {"sub": GUEST, "is_anonymous": True}) as guest:
        assert refused(lambda: guest.rpc("visit_jobs", p_session_id=owned)) == NOT_FOUND
        assert not may_follow(guest, f"session:{owned}")


@pytest.mark.parametrize("is_anonymous", [False, True])
def test_a_users_visit_is_his_alone_with_its_jobs_and_log_lines(
    engine: Engine, is_anonymous: bool
) -> None:
    """An owner outside the workspace, signed in by name or by Auth's anonymous sign-in."""
    visit = opened(engine, user_id=GUEST)
    job_id = engine.enqueue(session_id=visit)
    of_others = engine.enqueue()
    engine.report(
        engine.lease(10, job_types=["work"])[0], logs=[{"level": "info", "message": "inside"}]
    )

    with somebody(engine, "authenticated", {"sub": GUEST, "is_anonymous": is_anonymous}) as owner:
        events = owner.rpc("visit_events", p_session_id=visit, p_job_id=job_id)["events"]
        assert may_follow(owner, f"session:{visit}")
        assert may_follow(owner, f"job:{job_id}")
        assert not may_follow(owner, f"job:{of_others}")
        assert not may_follow(owner, f"workspace:{ACME}")
        assert owner.rows("select id from public.jobs") == []
    assert [event["data"]["log"]["message"] for event in events if event["type"] == "job.log"] == [
        "inside"
    ]
    for other in (anyone(engine), engine.member(EVE)):
        with other as stranger:
            assert refused(lambda s=stranger: s.rpc("visit_jobs", p_session_id=visit)) == NOT_FOUND
            assert not may_follow(stranger, f"session:{visit}")
            assert not may_follow(stranger, f"job:{job_id}")


def test_another_tenant_can_neither_speak_in_a_visit_nor_break_it(engine: Engine) -> None:
    """Whoever holds the id could name it in a job of a workspace of his own."""
    visit = opened(engine)
    mine = engine.enqueue(session_id=visit)
    with engine.member(EVE) as eve:
        forged = eve.enqueue(workspace=GLOBEX, session_id=visit)

    with anyone(engine) as visitor:
        assert [job["id"] for job in visitor.rpc("visit_jobs", p_session_id=visit)["jobs"]] == [
            mine
        ]
        assert {
            event["job_id"] for event in visitor.rpc("visit_feed", p_session_id=visit)["events"]
        } == {mine}
        assert (
            refused(lambda: visitor.rpc("visit_events", p_session_id=visit, p_job_id=forged))[1]
            == "job_not_found"
        )
        assert may_follow(visitor, f"session:{visit}")
    assert engine.rows(
        "select distinct payload ->> 'job_id' from realtime.messages where topic = %s",
        f"session:{visit}",
    ) == [mine]


def test_managers_and_services_open_and_close_visits(engine: Engine) -> None:
    """A member may not let the world in, and a stranger learns of nothing."""
    with (
        engine.member(ADA) as manager,
        engine.member(BOB) as member,
        engine.member(EVE) as stranger,
    ):
        visit = opened(manager)
        assert re.fullmatch("visit_[0-9a-f]{64}", visit)
        assert opened(manager) != visit
        assert refused(lambda: opened(member))[1] == "forbidden"
        assert refused(lambda: opened(stranger))[1] == "workspace_not_found"
        for other in (member, stranger):
            assert refused(lambda o=other: o.rpc("close_visit", p_session_id=visit)) == NOT_FOUND
        assert manager.rpc("close_visit", p_session_id=visit) == {"closed": True}
        assert refused(lambda: manager.rpc("close_visit", p_session_id=visit)) == NOT_FOUND


@pytest.mark.parametrize(
    "options",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": 1e9},
        {"ttl_seconds": "1"},
        {"user_id": "x"},
        {"secret": 1},
        [],
    ],
)
def test_bad_options_of_a_visit_are_named(engine: Engine, options: Any) -> None:
    """A 400 and never an error of the cast."""
    state, word, field = refused(
        lambda: engine.rpc("open_visit", p_workspace_id=ACME, p_options=options)
    )

    assert (state, word, field) == ("PT400", "invalid_argument", next(iter(options), "options"))


def test_visits_go_with_their_workspace_and_some_time_after_their_end(engine: Engine) -> None:
    """Nothing is kept for ever, and nothing is left behind."""
    old = opened(engine, ttl_seconds=1)
    engine.advance(90_000)
    new = opened(engine)
    assert engine.rows("select session_id from queue.visits") == [new] != [old]

    engine.run("delete from public.workspaces where id = %s", ACME)

    assert engine.rows("select session_id from queue.visits") == []


def test_the_policies_ask_once_and_by_index(engine: Engine) -> None:
    """However many messages a replay reads; and one of many visits is found by its key."""
    visit = opened(engine)
    engine.enqueue(session_id=visit)
    engine.run(
        "insert into queue.visits (session_id, workspace_id, expires_at) select 'visit_' || encode(sha256(n::text::bytea), 'hex'), %s, now() + '1 day' from generate_series(1, 5000) n",
        ACME,
    )
    engine.run("analyze queue.visits")
    engine.run(
        "insert into realtime.messages (topic, extension, event, payload, private) select %s, 'broadcast', 'e', '{}', true from generate_series(1, 200)",
        f"session:{visit}",
    )

    with anyone(engine) as visitor:
        visitor.run("select set_config('realtime.topic', %s, false)", f"session:{visit}")
        plan = json.dumps(
            visitor.one(
                "explain (analyze, format json) select 1 from realtime.messages where topic = %s",
                f"session:{visit}",
            )
        )
        policies = visitor.rows(
            "select policyname from pg_policies where schemaname = 'realtime' and 'anon' = any (roles)"
        )
    lookup = json.dumps(
        engine.one("explain (format json) select * from queue.visits where session_id = %s", visit)
    )

    loops = re.findall(r'"Parent Relationship": "InitPlan".*?"Actual Loops": (\d+)', plan)
    assert set(loops) == {"1"}
    assert policies == ["minutehand: visitors follow their session"]
    assert '"Index Name": "visits_pkey"' in lookup
