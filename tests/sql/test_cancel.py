"""Cancel in every state, of whole trees, by filter; a running processor learns by its heartbeat."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.engine import ADA, Engine, handle, refusal
from tests.support.functions import until_waiting


def test_a_pending_job_ends_at_once(engine: Engine) -> None:
    """Ready or deferred, it leaves the queue, and has no next run any more."""
    retrying = engine.enqueue()
    engine.settle(engine.lease_one(), "retry", retry_after_seconds=100)
    ready, deferred = engine.enqueue(), engine.enqueue(delay_seconds=100)

    for job_id in (ready, deferred, retrying):
        job = engine.rpc("cancel_job", p_job_id=job_id)
        assert (job["status"], job["next_retry_at"]) == ("cancelled", None)

    assert engine.lease() == []
    assert engine.events(ready) == ["job.created", "job.cancelled"]


@pytest.mark.parametrize("way", ["function", "update"])
def test_a_cancel_is_recorded_whatever_its_way(engine: Engine, way: str) -> None:
    """The job, its history and the statistics say the same."""
    engine.stop_clock()
    ended = engine.enqueue()
    engine.settle(engine.lease_one(), "retry", error={"type": "E", "message": "no"})
    running = engine.enqueue()
    engine.lease_one()
    engine.advance(5)
    with engine.member(ADA) as ada:
        for job_id in (ended, running):
            if way == "function":
                for _ in range(2):
                    ada.rpc("cancel_job", p_job_id=job_id)
            else:
                ada.run("update public.jobs set status = 'cancelled' where id = %s", job_id)

    now = engine.one("select to_jsonb(queue.clock())")
    names = ("status", "outcome", "finished_at", "updated_at", "cancel_requested_at", "error_data")
    cancelled = {"type": "Cancelled", "reason": "cancelled"}
    assert [tuple(engine.job(one)[name] for name in names) for one in (ended, running)] == [
        ("cancelled", "cancelled", now, now, None, cancelled),
        ("processing", None, None, now, now, None),
    ]
    last = "select data from public.job_events where job_id = %s order by seq desc limit 1"
    assert engine.one(last, ended) == {"status": "cancelled", "attempts": 1}
    assert engine.one(last, running) == {"status": "processing", "attempts": 1}
    counted = "select outcome, jobs from queue.stat_deltas where outcome = 'cancelled'"
    assert engine.rows(counted) == [("cancelled", 1)]


def test_a_running_job_is_asked_to_stop_and_ends_cancelled(engine: Engine) -> None:
    """The next report says so; whatever the worker then says, it is cancelled."""
    job_id = engine.enqueue()
    lease = engine.lease_one()

    for _ in range(2):
        assert engine.rpc("cancel_job", p_job_id=job_id)["status"] == "processing"
    assert engine.report(lease) == "cancel"
    with engine.beside() as other:
        other.run("begin")
        other.run("select from queue.leases for update")
        assert engine.report(lease) == "cancel"  # not renewed, and told all the same
    assert engine.settle(lease, "retry")["outcome"] == "cancelled"

    job = engine.job(job_id)
    assert (job["status"], job["error_message"]) == ("cancelled", None)
    assert engine.events(job_id)[2:] == ["job.cancel_requested", "job.cancelled"]
    assert engine.rpc("retry_job", p_job_id=job_id)["cancel_requested_at"] is None


def test_a_completion_beats_a_cancel_that_came_too_late(engine: Engine) -> None:
    """The work is done; its result is not thrown away."""
    job_id = engine.enqueue()
    lease = engine.lease_one()
    engine.rpc("cancel_job", p_job_id=job_id)

    assert engine.settle(lease, "completed", result=1)["status"] == "completed"


def test_a_cancelled_job_whose_worker_dies_is_not_run_again(engine: Engine) -> None:
    """The expiry of its lease ends it, which is no error of its own."""
    job_id = engine.enqueue()
    engine.lease_one()
    engine.rpc("cancel_job", p_job_id=job_id)
    engine.advance(61)

    assert engine.lease() == []
    job = engine.job(job_id)
    assert (job["status"], job["error_message"], job["error_data"]) == ("cancelled", None, None)
    assert engine.events(job_id)[3:] == ["job.reclaimed", "job.cancelled"]


def test_a_cancelled_job_keeps_its_last_error(engine: Engine) -> None:
    """It says why the attempt before failed; the event says only that it was cancelled."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "retry", error={"type": "E", "message": "no"})
    before = engine.job(job_id)
    engine.rpc("cancel_job", p_job_id=job_id)

    after = engine.job(job_id)
    assert after["error_message"] == before["error_message"] == "no"
    assert after["error_fingerprint"] == before["error_fingerprint"]
    said = "select data from public.job_events where type = 'job.cancelled'"
    assert engine.one(said) == {"status": "cancelled", "attempts": 1}


def test_a_waiting_job_ends_at_once(engine: Engine) -> None:
    """Its question goes with it."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "waiting", wait={"kind": "ask", "name": "q", "question": "?"})

    engine.rpc("cancel_job", p_job_id=job_id)

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("answer_job", p_job_id=job_id, p_answer={"answer": 1})
    assert refusal(refused.value) == ("PT409", "invalid_state", "cancelled")


def test_cancelling_twice_is_harmless_and_an_ended_job_refuses(engine: Engine) -> None:
    """409 names the present state."""
    job_id = engine.enqueue()
    engine.rpc("cancel_job", p_job_id=job_id)
    engine.rpc("cancel_job", p_job_id=job_id)
    assert engine.events(job_id) == ["job.created", "job.cancelled"]

    for end in ("completed", "failed"):
        ended = engine.enqueue()
        engine.run_all(end)
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("cancel_job", p_job_id=ended)
        assert refusal(refused.value) == ("PT409", "invalid_state", end)


def test_a_tree_is_cancelled_whole(engine: Engine) -> None:
    """Children and grandchildren, pending and running; finished ones stay, and theirs."""
    root = engine.enqueue()
    lease = engine.lease_one()
    child, done = engine.spawn(lease, "s", [{"job_type": "work"}, {"job_type": "work"}])
    first, second = engine.lease(2)
    running = first if first["job"]["id"] == child else second
    ending = second if running is first else first
    [outlives] = engine.spawn(ending, "s", [{"job_type": "work"}])
    engine.settle(ending)
    grandchildren = engine.spawn(running, "s", [{"job_type": "work"}] * 2)

    engine.rpc("cancel_job", p_job_id=root)

    for grandchild in grandchildren:
        assert engine.events(grandchild) == ["job.created", "job.cancelled"]
    counted = "select sum(jobs) from queue.stat_deltas where outcome = 'cancelled'"
    assert engine.one(counted) == 2
    assert (engine.status(done), engine.status(outlives)) == ("completed", "pending")
    assert {engine.report(running), engine.report(lease)} == {"cancel"}


def test_a_child_that_begins_to_run_meanwhile_is_asked_to_stop(engine: Engine) -> None:
    """Ended as one that waits, it would leave its worker with a lease."""
    root = engine.enqueue()
    engine.spawn(engine.lease_one(), "s", [{"job_type": "work"}])
    with engine.beside() as other, ThreadPoolExecutor(1) as threads:
        other.run("begin")
        [running] = other.lease(call=2)
        done = threads.submit(engine.rpc, "cancel_job", p_job_id=root)
        until_waiting(engine.database)
        other.run("commit")
        done.result(60)

    assert engine.report(running) == "cancel"


@pytest.mark.parametrize(("outcome", "end"), [("failed", "cancelled"), ("completed", "pending")])
def test_live_children_end_with_a_failed_parent_but_outlive_a_completed_one(
    engine: Engine, outcome: str, end: str
) -> None:
    """Work for a result that nobody will read stops; fire-and-forget goes on."""
    engine.enqueue(unique={"key": "k"})
    engine.enqueue()
    lease, other = engine.lease(2)
    [child] = engine.spawn(lease, "s", [{"job_type": "work"}])

    settled = ((lease, outcome), (other, "failed"))  # in one call
    engine.settle_all([{**handle(one), "outcome": how} for one, how in settled])
    engine.lease_call(0)

    assert engine.status(child) == end


def test_a_child_that_is_held_when_its_parent_ends_is_cancelled_later(engine: Engine) -> None:
    """Maintenance waits for no transaction, and comes back for what it had to leave."""
    engine.enqueue()
    lease = engine.lease_one()
    held, other = engine.spawn(lease, "s", [{"job_type": "work"}] * 2)
    engine.settle(lease, "failed")

    with engine.beside() as session, session.connection.transaction():
        session.run("select from public.jobs where id = %s for update", held)
        engine.maintain()
    assert (engine.status(held), engine.status(other)) == ("pending", "cancelled")
    engine.maintain()

    assert engine.status(held) == "cancelled"


def test_children_that_ended_with_their_parent_start_again_with_it(engine: Engine) -> None:
    """A redriven parent would gather nothing but cancelled children."""
    root = engine.enqueue()
    lease = engine.lease_one()
    child, done = engine.spawn(lease, "s", [{"job_type": "work"}, {"job_type": "work"}])
    engine.rpc("cancel_job", p_job_id=done)
    engine.settle(lease, "failed")
    engine.lease_call(0)
    engine.run("update public.jobs set created_at = '2020-01-01'")  # as of one call
    engine.run("update queue.ended set job_created_at = '2020-01-01'")

    engine.rpc("retry_job", p_job_id=root)

    assert (engine.status(root), engine.status(child), engine.status(done)) == (
        "pending",
        "pending",
        "cancelled",
    )
    assert engine.rows("select job_id::text from queue.ended") == [done]


def test_children_of_a_parent_that_is_retried_at_once_continue(engine: Engine) -> None:
    """Maintenance hears of its end when it has begun again, and would take them from it."""
    root = engine.enqueue()
    lease = engine.lease_one()
    [child] = engine.spawn(lease, "s", [{"job_type": "work"}])
    engine.settle(lease, "failed")

    engine.rpc("retry_job", p_job_id=root)
    engine.maintain()

    assert engine.status(child) == "pending"
    assert engine.one("select count(*) from queue.signals") == 0


def test_children_spawned_while_their_parent_is_cancelled_end_too(engine: Engine) -> None:
    """The tree was read before they existed."""
    root = engine.enqueue()
    lease = engine.lease_one()
    engine.rpc("cancel_job", p_job_id=root)
    [child] = engine.spawn(lease, "late", [{"job_type": "work"}])

    engine.settle(lease, "cancelled")
    engine.lease_call(0)

    assert engine.status(child) == "cancelled"


def test_cancels_and_leases_racing_end_each_job_once(engine: Engine) -> None:
    """The prototype without lock order ended 20 of 8,000 jobs twice."""
    ids = engine.enqueue_many(200)

    def work(other: Engine) -> None:
        for _ in range(12):
            leases = other.lease(25)
            other.settle_all([{**handle(lease), "outcome": "completed"} for lease in leases])

    def cancel(other: Engine) -> None:
        for start in range(0, 200, 20):
            other.operate("cancel", ids=ids[start : start + 20])

    answers = engine.race(work, work, work, cancel, cancel)

    assert answers == [None] * 5
    engine.run_all()
    ends = engine.one(
        "select count(*) from public.job_events where type in ('job.completed', 'job.cancelled')"
    )
    assert ends == 200
