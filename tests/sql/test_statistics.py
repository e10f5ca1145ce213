"""Statistics, waiting jobs by cause, readiness, and job types as people see them."""

import re
from typing import Any

from tests.contract.observed import refused, started
from tests.support.engine import ACME, GLOBEX, Engine, Json

#: Seconds after which maintenance has read the event feed for the statistics again.
READ_SECONDS = 6


def stats(engine: Engine, workspace: str | None = ACME) -> Json:
    return engine.rpc("queue_stats", p_workspace_id=workspace)["types"]["work"]


def live_some(engine: Engine) -> None:
    """Create two completed jobs, and one failed, one cancelled and one lost job."""
    engine.enqueue_many(5)
    first, second, third, fourth, _ = engine.lease(5)
    engine.advance(2)
    engine.settle(first, duration_ms=1000)
    engine.settle(second, "retry", retry_after_seconds=0)
    engine.settle(third, "failed")
    engine.settle(fourth, "cancelled")
    engine.advance(1)
    engine.settle(engine.lease_one(), duration_ms=1000)
    engine.advance(70)  # the fifth job's lease expires
    engine.maintain()


def test_each_outcome_is_counted_once_with_its_times(engine: Engine) -> None:
    """Statistics count each outcome of a job once, even if maintenance runs repeatedly.

    The total is the sum of all workspaces.
    """
    live_some(engine)
    engine.enqueue(workspace=GLOBEX)
    for _ in range(3):
        engine.elapse(READ_SECONDS)

    mine = stats(engine)
    result = {"enqueued": 5, "completed": 2, "failed": 1, "cancelled": 1, "retried": 1, "lost": 1}
    assert {name: mine[name] for name in result} == result
    assert stats(engine, GLOBEX)["enqueued"] == 1
    assert stats(engine, None)["enqueued"] == 6


def test_the_feed_is_read_in_parts_of_some_20000_jobs(engine: Engine) -> None:
    """Maintenance reads rows of the event feed for statistics in parts of limited size."""
    engine.run(
        "insert into queue.feed (number, at, workspace_id, type, data, job_ids)"
        " select 1e9, queue.clock(), %s, 'job.created', '{}', array_fill(%s::uuid, array[jobs])"
        " from unnest(array[9000, 30000, 9000]) as jobs",
        ACME,
        engine.enqueue(),
    )
    engine.run("update queue.feed set number = (select min(number) from queue.feed)")

    part = "select queue.do_statistics(queue.clock(), '-infinity')"
    assert [engine.one(part) for _ in range(4)] == [9001, 30_000, 9000, 0]


def test_a_series_has_points_of_its_step_and_drops_what_is_old(engine: Engine) -> None:
    """`queue_series` returns points of a fixed step. Points older than eight days are deleted."""

    def completed(minutes: int) -> int:
        series = engine.rpc("queue_series", p_workspace_id=ACME, p_minutes=minutes)
        return sum(point["completed"] for point in series["points"])

    engine.stop_clock()
    engine.advance(3540 - engine.now().timestamp() % 3600)
    kept = "select from queue.stats where counts ->> 'completed' > '0'"
    engine.settle(started(engine))
    engine.elapse(READ_SECONDS)
    assert engine.rpc("queue_series", p_workspace_id=ACME)["step_seconds"] == 300
    assert completed(60) == 1
    [point] = engine.rpc("queue_series", p_workspace_id=ACME, p_minutes=1440)["points"]
    assert point["at"][14:19] == "45:00"
    for days, is_kept in ((2, True), (8, False)):
        engine.advance(days * 86400)
        engine.enqueue()
        engine.elapse(READ_SECONDS)
        assert completed(1440) == 0
        assert completed(10080) == is_kept
        assert bool(engine.rows(kept)) == is_kept


def test_the_backlog_says_what_keeps_each_due_job(engine: Engine) -> None:
    """`queue_health` counts waiting jobs by the cause of their wait.

    Causes are a pause, a limit or a missing worker.
    """
    engine.register("other")
    engine.register("full", max_concurrency=1)
    engine.register("keyed", key_concurrency=1)
    engine.register("paused")
    assert engine.rpc("queue_health")["backlog"]["verdict"] == "pass"
    engine.enqueue_many(2, job_type="full")
    engine.enqueue_many(3, job_type="keyed", concurrency_key="k")
    engine.lease(10, lease_seconds=3000)
    engine.enqueue(job_type="paused")
    engine.run("insert into queue.pauses (kind, name) values ('job_type', 'paused')")
    engine.enqueue(job_type="other")
    engine.advance(70)
    engine.lease_call(3, job_types=["full", "keyed", "paused"], lease_seconds=3000)

    backlog = engine.rpc("queue_health")["backlog"]
    causes = {"unserved": 1, "paused": 1, "at_limit": 1, "blocked": 2, "ready": 0}
    assert {cause: backlog[cause]["jobs"] for cause in causes} == causes
    assert (backlog["jobs"], backlog["verdict"]) == (5, "warn")
    assert "1 waiting: no worker serves other; 1 paused: paused" in backlog["detail"]
    lanes = engine.count("queue.lanes")
    engine.enqueue_many(max(100, 10_000 // lanes), job_type="other")
    detail = engine.rpc("queue_health")["backlog"]["detail"]
    assert re.search(r"\d\+ waiting: no worker serves", detail)


def test_types_show_who_serves_them_their_day_and_a_refusal(engine: Engine, ada: Engine) -> None:
    """`list_job_types` returns each type's workers, its counts of a day and its rejection.

    Internal types are listed only on request.
    """
    engine.register("other", source="app:other", description="Does it.", key_concurrency=2)
    engine.register("other", schedules=[{"name": "n", "cron": "never"}])
    live_some(engine)
    for worker in ("w8", "w9"):
        engine.lease_call(0, worker=worker, job_types=["work"], version="v7")
        engine.advance(1)
    engine.elapse(READ_SECONDS)

    def types(who: Engine, **asked: Any) -> Json:
        return {line["job_type"]: line for line in who.rpc("list_job_types", **asked)["types"]}

    lines = types(engine, p_workspace_id=ACME)
    assert set(lines) == {"work", "other"}
    assert lines["work"]["day"]["enqueued"] == 5
    assert lines["other"]["refusal"] is not None
    detail = types(engine, p_workspace_id=ACME, p_job_type="other")["other"]
    assert (detail["key_concurrency"], detail["source"]) == (2, "app:other")
    serving = lines["work"]["serving"]
    assert ("alive", "v7") in {(worker["state"], worker["version"]) for worker in serving}
    died = {"worker_id": "w9", "evidence": {"signal": "SIGSEGV"}}
    engine.finish(**died)
    alive, dead, *_ = types(engine)["work"]["serving"]  # the ended one was seen last
    assert (alive["worker_id"], dead["worker_id"]) == ("w8", "w9")
    assert (dead["state"], dead["process_end"]) == ("gone", " (SIGSEGV)")
    assert "webhook_delivery" in types(engine, p_internal=True)
    missing = refused(types, ada, p_workspace_id=ACME, p_job_type="wrok")
    assert missing[1] == "unknown_job_type"


def test_figures_that_stand_still_say_since_when(engine: Engine) -> None:
    """If an open transaction stops the statistics, `queue_stats` returns since when.

    A workspace gets a finding, because its webhooks are late too.
    """
    engine.lease(1)
    with engine.open_transaction("create table another (n integer)"):
        engine.enqueue()
        engine.run_all()
        engine.maintain()
        engine.advance(90)
        assert engine.rpc("queue_stats")["late_since"] is not None
        engine.advance(90)
        engine.lease_call(0)
        assert "late_events" in engine.findings(ACME)
    engine.elapse(READ_SECONDS)
    assert engine.rpc("queue_stats")["late_since"] is None
    assert "late_events" not in engine.findings(ACME)
