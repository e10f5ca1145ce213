# ruff: noqa: E501 - statements stay on one line
"""Histories are packed an hour after a job completed: fewer bytes, the same events for every reader."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.test_event_feed import Told, in_order, read
from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine, handle

EVENTS = "select coalesce(jsonb_agg(to_jsonb(e) - 'xid' order by job_id, seq), '[]') from public.job_events e"
ROWS = "select count(*) from queue.job_events where job_id = %s"
HOUR = 3601


def complete(engine: Engine, count: int = 1, **options: Any) -> list[str]:
    """Jobs that ran as planned."""
    ids = engine.enqueue_many(count, **options)
    engine.run_all()
    return ids


def pack(engine: Engine) -> int:
    """Let an hour pass, and maintenance pack; how many rows of packed events there are."""
    engine.advance(HOUR)
    engine.maintain()
    return int(engine.one("select count(*) from queue.histories"))


def test_a_packed_history_reads_as_before(engine: Engine) -> None:
    """By the view, as a person or the service, and by what is made of it."""
    ids = complete(engine, 3)
    before = engine.one(EVENTS)
    told, cursor = read(engine, "1:1:")

    assert pack(engine) == 1

    assert engine.one("select count(*) from queue.job_events") == 0
    assert engine.one(EVENTS) == before
    with engine.member(ADA) as ada, engine.member(EVE) as eve:
        assert ada.one(EVENTS) == before
        assert eve.one(EVENTS) == []
        assert ada.events(ids[1]) == ["job.created", "job.leased", "job.completed"]
    assert engine.one("select queue.first_worker(%s)", ids[2]) == "w1"
    assert sorted(read(engine, "1:1:")[0]) == sorted(told)
    assert read(engine, cursor)[0] == []


def test_what_may_continue_stays_in_rows(engine: Engine) -> None:
    """A failed job may run again, a session has a feed of its own, and what wrote much is few."""
    engine.stop_clock()
    [young] = complete(engine)
    failed = engine.enqueue(max_attempts=1)
    engine.settle(engine.lease_one(), "failed")
    [of_session] = complete(engine, session_id="s")
    talkative = engine.enqueue()
    lease = engine.lease_one()
    for number in range(48):
        engine.report(lease, progress={"percentage": number})
    engine.settle(lease)
    engine.advance(HOUR - 5)
    engine.maintain()
    assert engine.one(ROWS, young) == 3

    engine.advance(65)
    engine.maintain()
    assert [engine.one(ROWS, job) for job in (young, failed, of_session, talkative)] == [
        0,
        3,
        3,
        51,
    ]
    assert read(engine, None, session="s")[0] == [(of_session, n) for n in (1, 2, 3)]


def test_each_tenant_and_hour_has_its_own_of_at_most_200(engine: Engine) -> None:
    """A reader of one opens no more than that, whatever else ended in the hour."""
    engine.run("update queue.settings set value = '100' where name = 'retention_batch'")
    for _ in range(9):
        complete(engine, 50)
    complete(engine, 2, workspace=GLOBEX)
    engine.advance(HOUR)
    complete(engine)
    engine.advance(HOUR)
    while engine.rpc("run_maintenance")["more"]:
        pass

    sizes = engine.rows(
        "select workspace_id::text || ' ' || cardinality(job_ids) / 3 from queue.histories order by 1"
    )
    assert sum(int(size.split()[1]) for size in sizes) == 453
    assert all(int(size.split()[1]) <= 200 for size in sizes)
    assert (
        engine.one(
            "select count(*) from queue.histories where first_end > last_end or date_trunc('hour', last_end, 'UTC') <> hour"
        )
        == 0
    )


def test_jobs_that_end_in_one_instant_are_packed_together(engine: Engine) -> None:
    """A batch that ended between them would leave the others as rows for good."""
    engine.run("update queue.settings set value = '100' where name = 'retention_batch'")
    engine.enqueue_many(250)
    engine.settle_all([{**handle(lease), "outcome": "completed"} for lease in engine.lease(250)])

    pack(engine)

    assert engine.one("select count(*) from queue.job_events") == 0
    sizes = "select cardinality(job_ids) / 3 from queue.histories order by 1"
    assert engine.rows(sizes) == [50, 200]


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_a_feed_brings_packed_events_once_and_in_order(engine: Engine, limit: int) -> None:
    """From its beginning, and from a cursor that had seen some of them."""
    first = complete(engine, 2)
    _, middle = read(engine, "1:1:")
    later = complete(engine, 2)
    pack(engine)
    [last] = complete(engine)
    everything = {(job, n) for job in (*first, *later, last) for n in (1, 2, 3)}

    told, end = read(engine, "1:1:", limit=limit)
    assert (len(told), set(told), in_order(told)) == (15, everything, True)
    assert [job for job, _ in told[-3:]] == [last] * 3, "what is packed came before it"
    told, _ = read(engine, middle, limit=limit)
    assert (len(told), set(told)) == (9, {(job, n) for job in (*later, last) for n in (1, 2, 3)})
    assert read(engine, end)[0] == []


def test_a_feed_reads_many_packed_histories_in_pages(engine: Engine) -> None:
    """Also where none of twenty has an event that it shows; a cursor of today reads none of them."""
    job = engine.enqueue()
    lease = engine.lease_one()
    engine.report(lease, progress={"percentage": 1}, logs=[{"message": "m"}])
    engine.settle(lease)
    pack(engine)
    for nth in range(150):
        engine.run(
            "insert into queue.histories (workspace_id, hour, first_end, last_end, last_xid, job_ids, seqs, types, data, created_ats, xids)"
            " select workspace_id, hour, first_end, last_end, pg_current_xact_id(), job_ids, seqs,"
            " array_fill(%s::text, array[cardinality(seqs)]), data, created_ats, xids from queue.histories order by id limit 1",
            "job.completed" if nth == 149 else "job.log",
        )
    told, cursor = read(engine, "1:1:")
    engine.run("vacuum analyze queue.histories")
    now = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor)
    blocks = engine.blocks(f"select public.event_feed('{ACME}', '{cursor}')")
    engine.run("delete from queue.histories where id > (select min(id) from queue.histories)")

    assert told == [(job, n) for n in (1, 2, 5)] + [(job, n) for n in range(1, 6)]
    assert (now["events"], now["more"]) == ([], False)
    assert blocks <= 100


def test_a_guest_reads_no_packed_event_of_the_workspace(engine: Engine) -> None:
    """What is packed is of jobs that belong to no session."""
    complete(engine, 2)
    pack(engine)
    session = engine.rpc("open_guest_session", p_workspace_id=ACME)["session_id"]
    job = engine.enqueue(session_id=session)

    told = engine.rpc("guest_session_feed", p_session_id=session, p_cursor="1:1:")["events"]
    assert [(event["job_id"], event["seq"]) for event in told] == [(job, 1)]


@pytest.mark.parametrize("pages", range(1, 7))
def test_a_feed_loses_nothing_that_is_packed_while_it_is_read(engine: Engine, pages: int) -> None:
    """Wherever its reader is; what came before may come again."""
    old = complete(engine, 2)
    pack(engine)
    new = complete(engine, 2)
    told: Told = []
    cursor = "1:1:"
    for _ in range(pages):
        page = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor, p_limit=2)
        told += [(event["job_id"], event["seq"]) for event in page["events"]]
        cursor = page["cursor"]
    pack(engine)
    rest, cursor = read(engine, cursor, limit=2)

    assert set(told + rest) == {(job, n) for job in old + new for n in (1, 2, 3)}
    assert in_order(rest)
    assert read(engine, cursor)[0] == []


def test_a_cursor_after_each_packed_event_continues_behind_it(engine: Engine) -> None:
    """A stream that is cut there resumes by it."""
    complete(engine, 3)
    pack(engine)
    page = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor="1:1:")
    until = page["cursor"].split("~")[1]
    told = [(event["job_id"], event["seq"]) for event in page["events"]]

    for nth, (place, (job, seq)) in enumerate(zip(page["places"], told, strict=True), 1):
        assert read(engine, f"1:1:~{until}~{place}~{job}~{seq}")[0] == told[nth:]


@pytest.mark.parametrize(
    "cursor", ["1:1:~1:1:~h1~{job}~1", "1:1:~1:1:~h1.x~{job}~1", "1:1:~1:1:~q1.1~{job}~1"]
)
def test_an_unknown_place_is_refused(engine: Engine, cursor: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        read(engine, cursor.format(job=engine.enqueue()))
    assert refused.value.sqlstate == "PT400"


def test_a_removed_job_leaves_the_packed_history(engine: Engine) -> None:
    """By retention, by hand, and with its tenant; the others' events stay."""
    ids = complete(engine, 3)
    of_other = complete(engine, 1, workspace=GLOBEX)
    pack(engine)
    engine.run("delete from public.jobs where id = %s", ids[1])

    assert [len(engine.events(job)) for job in (*ids, *of_other)] == [3, 0, 3, 3]
    assert engine.one("select count(*) from queue.histories where %s = any (job_ids)", ids[1]) == 0
    assert {job for job, _ in read(engine, "1:1:")[0]} == {ids[0], ids[2]}

    engine.run("delete from public.workspaces where id = %s", GLOBEX)
    assert engine.one("select count(*) from queue.histories where workspace_id = %s", GLOBEX) == 0

    engine.advance(40 * 86400)
    engine.maintain()
    assert engine.one("select count(*) from queue.histories") == 0


def test_a_deletion_waits_for_the_packing_of_its_job(engine: Engine) -> None:
    """Else the events of a job that is gone would stay."""
    [job] = complete(engine)
    engine.advance(HOUR)
    with engine.beside() as packing:
        packing.connection.autocommit = False
        packing.maintain()
        with engine.beside() as deleting:
            deleting.run("set lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                deleting.run("delete from public.jobs where id = %s", job)
        packing.connection.commit()
    engine.run("delete from public.jobs where id = %s", job)

    assert engine.one("select count(*) from queue.histories") == 0


def test_what_is_being_deleted_is_not_packed(engine: Engine) -> None:
    """Its events go with it."""
    gone, kept = complete(engine, 2)
    engine.advance(HOUR)
    with engine.beside() as deleting:
        deleting.connection.autocommit = False
        deleting.run("delete from public.jobs where id = %s", gone)
        assert engine.rpc("run_maintenance")["failed"] == []
        deleting.connection.commit()

    assert engine.rows("select distinct job_id::text from public.job_events") == [kept]


def test_two_deletions_from_one_packed_history_both_hold(engine: Engine) -> None:
    ids = complete(engine, 12)
    pack(engine)

    engine.race(
        *(
            lambda one, job=job: one.run("delete from public.jobs where id = %s", job)
            for job in ids[:4]
        )
    )

    assert sorted(set(engine.rows("select job_id::text from public.job_events"))) == sorted(ids[4:])


def test_a_packed_history_is_found_without_reading_others(engine: Engine) -> None:
    """Beside hundreds of the same tenant, and of the same hour."""
    [job] = complete(engine)
    pack(engine)
    engine.run(
        "insert into queue.histories (workspace_id, hour, first_end, last_end, last_xid, job_ids, seqs, types, data, created_ats, xids)"
        " select workspace_id, hour, last_end + n * interval '1 ms', last_end + n * interval '1 ms', last_xid, job_ids, seqs, types, data, created_ats, xids"
        " from queue.histories, generate_series(1, 300) as n"
    )
    engine.run("analyze queue.histories")

    with engine.member(ADA) as ada:
        assert len(ada.events(job)) == 3
        assert (
            engine.blocks("select * from public.job_events where job_id = %s order by seq", job)
            <= 60
        )
