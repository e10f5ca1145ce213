"""Starts that a lease leaves to later calls, because calls that lease jobs are frequent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support.engine import TICK, Engine, ids_of

STARTED = ["job.created", "job.leased"]
CANCEL = "update public.jobs set status = 'cancelled' where id = %s"


@pytest.fixture
def lease(engine: Engine) -> dict[str, Any]:
    """A lease whose start is not written."""
    engine.maintain()
    engine.stop_clock()
    for call in range(2, 8):
        engine.enqueue()
        lease = engine.lease_one(tick_id=TICK, call=call)
    assert engine.status(lease["job"]["id"]) == "pending"
    return lease


def expire(engine: Engine, _lease: dict[str, Any]) -> None:
    engine.elapse(61)


def run_on(engine: Engine, _lease: dict[str, Any]) -> None:
    engine.advance(0.3)
    engine.report_all([])


Act = Callable[[Engine, dict[str, Any]], Any]
#: For each act: the job's status after it, and the events after the start.
ACTS: dict[str, tuple[Act, str, list[str]]] = {
    "a later call of any worker": (run_on, "processing", []),
    "maintenance": (lambda engine, _: engine.elapse(1), "processing", []),
    "a report": (
        lambda engine, lease: engine.report(lease, progress={"percentage": 5}),
        "processing",
        ["job.progress"],
    ),
    "children": (
        lambda engine, lease: engine.spawn(lease, "c", [{"job_type": "work"}]),
        "processing",
        [],
    ),
    "a cancel": (
        lambda engine, lease: engine.cancel(lease["job"]["id"]),
        "processing",
        ["job.cancel_requested"],
    ),
    "a cancel by update": (
        lambda engine, lease: engine.run(CANCEL, lease["job"]["id"]),
        "processing",
        ["job.cancel_requested"],
    ),
    "a success": (Engine.settle, "completed", ["job.completed"]),
    "a retry": (lambda engine, lease: engine.settle(lease, "retry"), "pending", ["job.retried"]),
    "a wait": (
        lambda engine, lease: engine.settle(
            lease, "waiting", wait={"kind": "sleep", "delay_seconds": 9}
        ),
        "waiting",
        ["job.waiting"],
    ),
    "the end of the process": (expire, "pending", ["job.reclaimed", "job.released"]),
}


@pytest.mark.parametrize("act", ACTS)
def test_each_change_of_a_running_job_writes_its_start_first(
    engine: Engine, lease: dict[str, Any], act: str
) -> None:
    job_id, leased_at = lease["job"]["id"], engine.one("select queue.clock()")
    change, status, events = ACTS[act]

    change(engine, lease)

    found = engine.job(job_id)
    assert (found["status"], found["fence"]) == (status, 1)
    assert engine.one("select started_at from public.jobs where id = %s", job_id) == leased_at
    assert engine.events(job_id) == [*STARTED, *events]
    sent = "select type, unnest(seqs) from queue.feed where %s = any(job_ids) order by number, id"
    assert engine.rows(sent, job_id)[:2] == [("job.created", 1), ("job.leased", 2)]


def test_reads_of_a_job_and_repeated_calls_follow_its_lease(
    engine: Engine, lease: dict[str, Any]
) -> None:
    job_id = lease["job"]["id"]

    job = engine.rpc("get_job", p_job_id=job_id)

    assert (job["status"], job["attempts"], job["worker_id"]) == ("processing", 1, "w1")
    assert engine.explain(job_id)["reason"] == "running"
    again = engine.lease(tick_id=TICK, call=7)
    assert again == [lease]


def test_the_limits_of_a_key_can_change_before_a_start_is_written(
    engine: Engine, lease: dict[str, Any]
) -> None:
    engine.register("work", key_concurrency=1)

    assert engine.lease() == []
    assert engine.settle(lease)["outcome"] == "applied"


def test_a_rolled_back_settlement_leaves_the_start_to_the_next_one(
    engine: Engine, lease: dict[str, Any]
) -> None:
    engine.run("begin")
    engine.settle(lease)
    engine.run("rollback")

    assert engine.settle(lease)["outcome"] == "applied"
    assert engine.events(lease["job"]["id"]) == [*STARTED, "job.completed"]


def test_a_settlement_beside_an_open_cancel_keeps_all_events(
    engine: Engine, lease: dict[str, Any]
) -> None:
    job_id = lease["job"]["id"]
    with engine.open_transaction() as other:
        other.run(CANCEL, job_id)
        assert engine.settle(lease)["outcome"] == "busy"

    assert engine.settle(lease)["outcome"] == "applied"
    assert engine.events(job_id) == [*STARTED, "job.cancel_requested", "job.completed"]


def test_a_deleted_job_loses_its_lease_before_its_start_is_written(
    engine: Engine, lease: dict[str, Any]
) -> None:
    engine.delete(lease["job"]["id"])

    assert engine.report(lease) == "lost"
    assert engine.settle(lease)["outcome"] == "not_found"


@pytest.mark.usefixtures("lease")
def test_a_trigger_of_the_project_sees_each_start(engine: Engine) -> None:
    engine.add_trigger("before update", "return new;")
    engine.maintain()

    job_id = engine.enqueue()
    engine.lease()

    assert engine.status(job_id) == "processing"


def test_a_trigger_newer_than_the_last_maintenance_fails_one_call(engine: Engine) -> None:
    engine.maintain()
    engine.add_trigger("before update", "raise 'no';", "new.priority = 1")
    engine.enqueue(priority=1)
    job_id = engine.enqueue()
    with pytest.raises(psycopg.errors.RaiseException):
        engine.lease(call=2)

    assert ids_of(engine.lease(call=2)) == [job_id]
