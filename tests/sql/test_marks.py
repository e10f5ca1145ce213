# ruff: noqa: E501 - calls stay on one line
"""Leases pass by what they have consumed: no dead row is read again, and no late job is missed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.engine import ACME, ADA, GLOBEX, Engine
from tests.support.functions import until_waiting

CLAIM_FROM = "select max(claim_from) from queue.partitions"


@pytest.fixture(autouse=True)
def _no_sweep(engine: Engine) -> None:
    """Once a minute a sweep looks from the start; here nothing is to be found by it."""
    engine.run("update queue.maintenance_tasks set done_at = 'infinity' where name = 'sweep'")


def lease_and_settle(engine: Engine, limit: int) -> list[dict[str, Any]]:
    """One batch of a busy worker."""
    leases = engine.lease(limit)
    engine.settle_all(
        [
            {"job_id": one["job"]["id"], "fence": one["fence"], "outcome": "completed"}
            for one in leases
        ]
    )
    return leases


def test_the_mark_follows_the_head_also_under_a_held_snapshot(engine: Engine) -> None:
    """A burst is consumed without looking back, whoever keeps its dead rows alive."""
    engine.enqueue_many(60)
    with engine.beside() as holder:
        holder.run("begin isolation level repeatable read")
        holder.run("select 1 from pg_class limit 1")
        for _ in range(3):
            lease_and_settle(engine, 10)
        second = lease_and_settle(engine, 10)
        lease_and_settle(engine, 10)

        created = min(engine.job(one["job"]["id"])["created_at"] for one in second)
        assert engine.one(CLAIM_FROM).isoformat() >= created
        holder.run("rollback")

    assert len(engine.lease(20)) == 10


def test_a_job_committed_late_is_leased_at_once(engine: Engine) -> None:
    """Enqueued before those that were leased meanwhile, and committed after them."""
    engine.enqueue_many(10)
    lease_and_settle(engine, 10)
    with engine.beside() as late:
        late.run("begin")
        job = late.enqueue()
        engine.enqueue_many(50)
        for _ in range(4):
            lease_and_settle(engine, 10)
        late.run("commit")

    assert job in [one["job"]["id"] for one in engine.lease(20)]


@pytest.mark.parametrize("way", ["one", "many", "plain"])
def test_a_job_committed_very_late_is_leased_at_once(engine: Engine, way: str) -> None:
    """Leases went on meanwhile, and the mark has followed them at its distance of five seconds."""
    engine.enqueue_many(3)
    engine.lease(1)
    with engine.beside() as late:
        late.run("begin")
        if way == "one":
            jobs = [late.enqueue(), late.enqueue()]
        elif way == "many":
            jobs = late.enqueue_many(2)
        else:
            insert = "insert into public.jobs (workspace_id, job_type) values (%s, 'work')"
            jobs = [str(late.one(f"{insert} returning id", ACME)) for _ in range(2)]
        engine.lease(2)
        engine.advance(10)
        engine.enqueue_many(12)
        for _ in range(3):
            assert len(engine.lease(3)) == 3
        assert engine.one(CLAIM_FROM) > late.one(
            "select max(created_at) from public.jobs where id = any (%s::uuid[])", jobs
        )
        late.run("select pg_sleep(4.1)")
        late.run("commit")

    assert set(jobs) <= {one["job"]["id"] for one in engine.lease(20)}


def test_a_delayed_job_that_slow_maintenance_made_ready_is_leased_at_once(engine: Engine) -> None:
    """It became ready when the call began, and others that were younger were leased meanwhile."""
    engine.enqueue_many(3)
    engine.lease(1)
    delayed = engine.enqueue(delay_seconds=1)
    engine.advance(2)
    with engine.beside() as slow:
        slow.run("begin")
        slow.run("select pg_sleep(4.1)")
        assert slow.maintain()["promotion"] == 1
        engine.lease(2, call=2)
        engine.advance(10)
        engine.enqueue_many(12)
        for _ in range(3):
            assert len(engine.lease(3, call=2)) == 3
        ready = "select ready_at from queue.ready where job_id = %s"
        assert engine.one(CLAIM_FROM) > slow.one(ready, delayed)
        slow.run("commit")

    assert delayed in {one["job"]["id"] for one in engine.lease(20, call=2)}


def test_a_job_that_was_busy_is_leased_once_it_is_free(engine: Engine) -> None:
    """Leases pass by a locked row; the mark must not pass it too."""
    jobs = engine.enqueue_many(50)
    busy = jobs[3]
    with engine.beside() as other:
        other.run("begin")
        other.run("select 1 from public.jobs where id = %s for update", busy)
        for _ in range(4):
            lease_and_settle(engine, 10)
        other.run("rollback")

    assert busy in [one["job"]["id"] for one in engine.lease(20)]


def test_a_job_handed_back_is_before_the_mark_and_found(engine: Engine) -> None:
    """It keeps its old place, which may lie before what was leased since."""
    engine.enqueue_many(50)
    held = engine.lease(10)
    for _ in range(3):
        lease_and_settle(engine, 10)
    engine.settle_all(
        [{"job_id": one["job"]["id"], "fence": one["fence"], "outcome": "released"} for one in held]
    )
    first = engine.lease(3)
    lease_and_settle(engine, 5)

    again = {one["job"]["id"] for one in [*first, *engine.lease(50)]}

    assert {one["job"]["id"] for one in held} & again
    assert engine.one("select count(*) from queue.ready") == 0


def test_what_was_enqueued_before_and_committed_after_is_leased_in_full(engine: Engine) -> None:
    """A younger job's lease marks its partition; the older ones that turn up then take two calls."""
    engine.enqueue_many(1)
    lease_and_settle(engine, 1)  # the partition is there
    with engine.beside() as late:
        late.run("begin")
        late.enqueue_many(10)
        engine.enqueue()
        assert len(lease_and_settle(engine, 5)) == 1
        late.run("commit")

    assert [len(lease_and_settle(engine, 5)) for _ in range(3)] == [5, 5, 0]


def test_the_mark_waits_for_a_transaction_that_is_not_the_last(engine: Engine) -> None:
    """The end of a snapshot says what has ended, not what has begun."""
    engine.enqueue_many(1)
    lease_and_settle(engine, 1)
    with engine.beside() as late:
        late.run("begin")
        job = late.enqueue()
        engine.enqueue(delay_seconds=1)
        engine.advance(2)
        assert len(lease_and_settle(engine, 5)) == 1  # due, and younger than what is still open
        engine.enqueue(delay_seconds=1)
        engine.advance(2)
        assert len(lease_and_settle(engine, 5)) == 1
        late.run("commit")

    assert [one["job"]["id"] for one in engine.lease(5)] == [job]


def test_a_job_put_off_between_the_choice_and_its_lock_is_not_started(engine: Engine) -> None:
    """It is pending still, but waits elsewhere; started without a lease it would run for ever."""
    job = engine.enqueue()
    place = engine.one("select ctid::text from queue.ready where job_id = %s", job)
    with engine.member(ADA) as ada:
        ada.run(
            "update public.jobs set scheduled_for = now() + interval '1 day' where id = %s",
            job,
        )

    leased = engine.one(
        "select t.leased from public.jobs as j, queue.start_jobs("
        "array[row(j.id, %s::tid, j.ctid)::queue.locked_job], row('w1',"
        " gen_random_uuid(), 1, 1, null, null, 60, null, null, false, null)::queue.lease_request, null,"
        " queue.clock()) as t where j.id = %s",
        place,
        job,
    )

    assert (leased, engine.status(job)) == (0, "pending")


def test_a_job_that_came_back_while_a_lease_was_under_way_is_leased_next(engine: Engine) -> None:
    """That lease had chosen before, and moves its mark after: past the one that came back."""
    engine.enqueue()
    first = engine.lease_one(lease_seconds=3600)
    engine.advance(60)
    engine.enqueue_many(20)
    engine.lease(1)
    engine.run(
        "create function queue.wait_for_the_test() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(99); return new; end $$"
    )
    engine.run(
        "create trigger wait_for_the_test before insert on queue.leases for each row"
        " when (new.worker_id = 'slow') execute function queue.wait_for_the_test()"
    )
    with engine.beside() as slow, engine.beside() as holder, ThreadPoolExecutor(1) as threads:
        holder.run("begin")
        holder.run("select pg_advisory_xact_lock(99)")
        leasing = threads.submit(slow.lease, 2, worker="slow", call=2)
        until_waiting(engine.database)
        engine.settle(first, "released")
        engine.lease(0, call=2)  # looks from the start again
        holder.run("commit")
        assert len(leasing.result(60)) == 2
    assert engine.lease(1, call=2)[0]["job"]["id"] == first["job"]["id"]


def test_the_sweep_goes_past_the_first_thousand(engine: Engine) -> None:
    """A lost partition behind them would never be opened again."""
    items = [{"job_type": "work", "concurrency_key": str(n)} for n in range(1001)]
    for start in (0, 1000):
        engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items[start : start + 1000])
    engine.run("delete from queue.openings")

    engine.run("select queue.sweep(queue.clock())")
    engine.run("select queue.sweep(queue.clock())")

    assert engine.one("select count(distinct partition_id) from queue.openings") == 1001
    assert engine.one("select cursor from queue.maintenance_tasks where name = 'sweep'") is None


def test_the_sweep_opens_what_is_lost_and_forgets_shares_that_are_past(engine: Engine) -> None:
    """What is open and has its mark at the start needs nothing."""
    jobs = {engine.enqueue(priority=7), engine.enqueue(concurrency_key="k")}
    engine.lease(0)
    engine.run("delete from queue.shares")
    engine.run(
        "insert into queue.shares (workspace_id, finish_tag) values (%s, 2), (%s, 1), (%s, 2)",
        "00000000-0000-0000-0000-000000000000",
        ACME,
        GLOBEX,
    )
    openings = "select concurrency_key, priority, rewind from queue.openings order by 1"

    assert engine.one("select queue.sweep(queue.clock())") == 0
    assert engine.rows(openings) == []
    assert engine.rows("select finish_tag from queue.shares") == [2, 2]
    engine.run("delete from queue.partitions where concurrency_key = 'k'")
    engine.run("update queue.partitions set claim_from = now()")
    engine.run("select queue.sweep(queue.clock())")

    assert engine.rows(openings) == [("", 7, True), ("k", 100, True)]
    assert {one["job"]["id"] for one in engine.lease()} == jobs
