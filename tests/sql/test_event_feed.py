"""Feeds of many jobs: each event exactly once, in whatever order it commits, to members only."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine, refusal

Told = list[tuple[str, int]]


def read(engine: Engine, cursor: str | None, *, limit: int = 500, **of: Any) -> tuple[Told, str]:
    """Read on until there is no more; the events and the cursor after them."""
    told: Told = []
    function, subject = (
        ("session_feed", {"p_session_id": of["session"]})
        if "session" in of
        else ("event_feed", {"p_workspace_id": of.get("workspace", ACME)})
    )
    while True:
        page = engine.rpc(function, **subject, p_cursor=cursor, p_limit=limit)
        assert len(page["events"]) <= limit
        told += [(event["job_id"], event["seq"]) for event in page["events"]]
        cursor = page["cursor"]
        if not page["more"]:
            return told, str(cursor)


def in_order(told: Told) -> bool:
    """Whether each job's events rise by one."""
    last: dict[str, int] = {}
    for job_id, seq in told:
        if seq <= last.get(job_id, 0):
            return False
        last[job_id] = seq
    return True


def test_a_feed_without_a_cursor_starts_now(engine: Engine) -> None:
    """What was before is in the snapshot the client has read."""
    engine.enqueue()
    told, cursor = read(engine, None)
    job_id = engine.enqueue()

    assert told == []
    assert read(engine, cursor)[0] == [(job_id, 1)]


def test_what_commits_late_is_sent_late_and_not_lost(engine: Engine) -> None:
    """A cursor by time or by transaction id would have passed it."""
    _, cursor = read(engine, None)
    with engine.beside() as slow:
        slow.connection.autocommit = False
        early = slow.enqueue()  # its transaction is older than the next one, and still open
        quick = engine.enqueue()

        first, cursor = read(engine, cursor)
        slow.connection.commit()
        second, cursor = read(engine, cursor)

    assert first == [(quick, 1)]
    assert second == [(early, 1)]
    assert read(engine, cursor)[0] == []


def test_what_is_rolled_back_is_never_sent(engine: Engine) -> None:
    """And leaves no hole that a reader waits for."""
    _, cursor = read(engine, None)
    with engine.beside() as doomed:
        doomed.connection.autocommit = False
        doomed.enqueue()
        doomed.connection.rollback()

    assert read(engine, cursor)[0] == []


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_pages_of_any_size_show_everything_once_and_in_order(engine: Engine, limit: int) -> None:
    """A bulk shares one instant and one transaction; pages are cut inside it."""
    _, cursor = read(engine, None)
    jobs = engine.enqueue_many(9)
    engine.run_all()

    page = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor, p_limit=limit)
    assert len(page["events"]) == len(page["places"]) == min(limit, 27)
    told, cursor = read(engine, cursor, limit=limit)

    assert len(told) == len(set(told)) == 27
    assert {job_id for job_id, _ in told} == set(jobs)
    assert in_order(told)
    assert read(engine, cursor, limit=limit)[0] == []


def test_a_page_is_cut_between_a_jobs_events_of_one_transaction(engine: Engine) -> None:
    """The next page begins with the event after the cut, not with the job."""
    _, cursor = read(engine, None)
    engine.run("begin")
    job_id = engine.enqueue()
    engine.rpc("cancel_job", p_job_id=job_id)
    engine.run("commit")

    first = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor, p_limit=1)
    second = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=first["cursor"], p_limit=1)

    assert [event["seq"] for event in first["events"] + second["events"]] == [1, 2]


def test_an_older_transaction_that_writes_later(engine: Engine) -> None:
    """A job's events keep their order, whichever transaction began first."""
    _, cursor = read(engine, None)
    with engine.beside() as older:
        older.run("begin")
        older.one("select pg_current_xact_id()")
        engine.enqueue()
        older.settle(engine.lease_one())
        older.run("commit")
    engine.enqueue_many(25)

    for limit in (1, 500):
        told, _ = read(engine, cursor, limit=limit)
        assert [seq for _, seq in told] == [1, 2, 3] + [1] * 25


def test_what_commits_between_two_pages_comes_after_them(engine: Engine) -> None:
    """A page belongs to one snapshot, however long its reader takes."""
    _, cursor = read(engine, None)
    before = engine.enqueue_many(4)
    with engine.beside() as slow:
        slow.connection.autocommit = False
        late = slow.enqueue()
        engine.enqueue()
        page = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor, p_limit=2)
        slow.connection.commit()

    rest, cursor = read(engine, page["cursor"], limit=2)
    later, cursor = read(engine, cursor)
    told = [(event["job_id"], event["seq"]) for event in page["events"]] + rest

    assert page["more"]
    assert len(told) == len(set(told)) == 5
    assert {job_id for job_id, _ in told} > {*before}
    assert later == [(late, 1)]


def test_racing_sessions_lose_nothing(engine: Engine) -> None:
    """Eight writers, one reader that never rests."""
    _, start = read(engine, None)

    def write(session: Engine) -> None:
        for _ in range(5):
            session.enqueue_many(3)
            for lease in session.lease(2):
                session.settle(lease)

    def follow(session: Engine) -> Told:
        seen, cursor = [], start
        for _ in range(60):
            told, cursor = read(session, cursor, limit=3)
            seen += told
        return seen + read(session, cursor)[0]

    *_, seen = engine.race(*[write] * 8, follow)
    late, _ = read(engine, start)

    assert len(seen) == len(set(seen))
    assert set(seen) <= set(late)
    assert in_order(late)
    hidden = "('job.progress', 'job.log')"
    rows = engine.rows(
        f"select job_id::text, seq from public.job_events where type not in {hidden}"
    )
    assert set(late) == set(rows)


def test_a_workspaces_feed_has_state_changes_and_a_sessions_all_but_logs(engine: Engine) -> None:
    """The same as their Realtime topics."""
    session = str(uuid.uuid4())
    job_id = engine.enqueue(session_id=session)
    lease = engine.lease_one()
    for _ in range(25):
        engine.report(lease, progress={"percentage": 5}, logs=[{"level": "info", "message": "x"}])
    engine.settle(lease)

    def kinds(told: Told) -> list[str]:
        return [
            engine.one(
                "select type from public.job_events where job_id = %s and seq = %s", each, seq
            )
            for each, seq in told
            if each == job_id
        ]

    of_workspace = kinds(read(engine, "1:1:", limit=1)[0])
    of_session = kinds(read(engine, None, session=session)[0])

    assert of_workspace == ["job.created", "job.leased", "job.completed"]
    assert of_session == ["job.created", "job.leased", *["job.progress"] * 25, "job.completed"]


def test_a_stranger_gets_not_found(engine: Engine) -> None:
    """For a missing workspace and another's alike."""
    session = str(uuid.uuid4())
    engine.enqueue(session_id=session)

    with engine.member(EVE) as eve:
        for function, subject in (
            ("event_feed", {"p_workspace_id": ACME}),
            ("event_feed", {"p_workspace_id": str(uuid.uuid4())}),
            ("session_feed", {"p_session_id": session}),
            ("session_feed", {"p_session_id": str(uuid.uuid4())}),
        ):
            with pytest.raises(psycopg.Error) as error:
                eve.rpc(function, **subject, p_cursor="1:1:")
            assert refusal(error.value)[0] == "PT404"
    with (
        engine.database.as_role("authenticated") as connection,
        pytest.raises(psycopg.Error) as error,
    ):
        Engine(engine.database, connection).rpc("session_feed", p_session_id=session)
    assert refusal(error.value)[0] == "PT404"


def test_of_a_session_that_spans_tenants_each_sees_their_own_part(engine: Engine) -> None:
    """A session's name is the client's to choose, so two tenants may choose the same."""
    session = str(uuid.uuid4())
    of_acme = engine.enqueue(session_id=session)
    of_globex = engine.enqueue(session_id=session, workspace=GLOBEX)

    with engine.member(ADA) as ada, engine.member(EVE) as eve:
        assert read(ada, None, session=session)[0] == [(of_acme, 1)]
        assert read(eve, None, session=session)[0] == [(of_globex, 1)]


@pytest.mark.parametrize("role", ["anon", "job_worker"])
def test_no_other_role_may_read_a_feed(engine: Engine, role: str) -> None:
    """Anonymous guests and workers have no use for it."""
    with engine.member(ADA, role=role) as guest:
        for call in ("event_feed(gen_random_uuid())", "session_feed('x')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                guest.run(f"select public.{call}")


@pytest.mark.parametrize(
    ("limit", "length"), [(None, 500), (5000, 1000), (1000, 1000), (0, 1), (3, 3)]
)
def test_a_page_has_at_most_a_thousand_events(
    engine: Engine, limit: int | None, length: int
) -> None:
    """Five hundred where no limit is given."""
    engine.enqueue_many(1001)

    page = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor="1:1:", p_limit=limit)

    assert (len(page["events"]), page["more"]) == (length, True)


@pytest.mark.parametrize(
    "cursor", ["", "x", "5:1:", "1:1", "1:1:~", "1:1:~1:1:~never~x~1", "1:1:~1:1:~now~x~1", "~~~~"]
)
def test_a_cursor_that_is_none_is_refused(engine: Engine, cursor: str) -> None:
    """By name, and not with an error of the cast."""
    with pytest.raises(psycopg.Error) as error:
        engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor)

    assert refusal(error.value)[1] == "invalid_argument"


def test_a_cursor_of_another_database_starts_now_and_says_so(engine: Engine) -> None:
    """After a dump and restore transaction ids begin anew; silence would look like peace."""
    engine.enqueue()

    page = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor="99999999:99999999:")

    assert (page["events"], page["reset"]) == ([], True)
    job_id = engine.enqueue()
    assert read(engine, page["cursor"])[0] == [(job_id, 1)]


@pytest.mark.parametrize("kind", ["workspace", "session"])
def test_reading_on_costs_what_is_new_and_not_what_ever_happened(engine: Engine, kind: str) -> None:
    """The plan walks the index from the cursor's oldest open transaction."""
    engine.run(
        "insert into queue.job_events (job_id, seq, workspace_id, session_id, type)"
        " select gen_random_uuid(), 1, %s, 's', 'job.created' from generate_series(1, 20000)",
        ACME,
    )
    engine.run("analyze queue.job_events")
    _, cursor = read(engine, None)
    xmin = cursor.split(":")[0]
    column, value = ("workspace_id", ACME) if kind == "workspace" else ("session_id", "s")

    plan = "\n".join(
        engine.rows(
            f"explain select 1 from public.job_events where {column} = '{value}'"
            f" and xid >= '{xmin}' and not pg_visible_in_snapshot(xid, '{cursor}')"
        )
    )
    engine.run("delete from queue.job_events where session_id = 's'")

    assert "Index" in plan
    assert "Seq Scan" not in plan
