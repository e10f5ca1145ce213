# ruff: noqa: E501 - rows stay on one line
"""Enqueue, lease, report, settle: the plain life of a job, and its history."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from minutehand.worker.testing import set_database_clock
from tests.support.engine import ACME, ADA, Engine, handle, ids_of, refusal

CARRIED = (
    "id", "workspace_id", "user_id", "session_id", "queue", "job_type", "payload", "schema_version", "priority",
    "attempts", "max_attempts", "created_at", "parent_id", "traceparent", "progress", "timeout_seconds", "deadline_at",
)  # fmt: skip


def test_a_job_is_leased_run_and_completed(engine: Engine) -> None:
    """The shortest story there is, told by its events."""
    job_id = engine.enqueue({"turn": 1})

    lease = engine.lease_one()
    answer = engine.settle(lease, "completed", result={"ok": True})

    assert answer == {**handle(lease), "outcome": "applied", "status": "completed"}
    job = engine.job(job_id)
    assert (job["status"], job["result"], job["attempts"]) == ("completed", {"ok": True}, 1)
    assert job["progress"]["percentage"] == 100
    assert engine.events(job_id) == ["job.created", "job.leased", "job.completed"]


def test_a_lease_carries_what_the_worker_needs(engine: Engine) -> None:
    """Workers read no table; what a lease leaves out is not there."""
    options: dict[str, Any] = {
        "timeout_seconds": 42.0,
        "priority": 7,
        "deadline_at": "2099-01-01T00:00:00Z",
    }
    job_id = engine.enqueue({"turn": 1}, session_id="s1", user_id=ADA, **options)
    tick = "00000000-0000-4000-8000-000000000001"

    lease = engine.lease_one(lease_seconds=90.0, tick_id=tick)

    row = engine.job(job_id)
    assert lease["job"] == {name: row[name] for name in CARRIED}
    assert (row["timeout_seconds"], row["user_id"], row["deadline_at"][:4]) == (42, ADA, "2099")
    [held] = engine.rows("select to_jsonb(l) from queue.leases as l")
    assert lease == {
        **{name: held[name] for name in ("fence", "lease_seconds", "ready_at")},
        "lease_expires_at": held["expires_at"], "steps": {}, "job": lease["job"],
    }  # fmt: skip
    assert (held["fence"], held["lease_seconds"]) == (1, 90)
    assert engine.lease(tick_id=tick) == [lease]


def test_jobs_of_a_tenant_run_by_priority_and_then_by_age(engine: Engine) -> None:
    """Smaller numbers first; equal ones in the order they came."""
    first = engine.enqueue()
    second = engine.enqueue()
    urgent = engine.enqueue(priority=1)
    idle = engine.enqueue(priority=900)

    assert [ids_of(engine.lease(1)) for _ in range(4)] == [[urgent], [first], [second], [idle]]


def test_a_lease_of_several_is_answered_in_the_order_they_run(engine: Engine) -> None:
    """A worker with one slot left takes the first of them."""
    last, third = engine.enqueue(priority=900), engine.enqueue()
    first, second = engine.enqueue(priority=1), engine.enqueue(priority=1)

    assert ids_of(engine.lease()) == [first, second, third, last]


def test_a_scheduled_job_waits_for_its_time(engine: Engine) -> None:
    """Deferred jobs are not seen by leases, and the lease says when to come back."""
    engine.stop_clock()
    job_id = engine.enqueue(delay_seconds=60)

    answer = engine.lease_call()

    assert answer["leases"] == []
    assert answer["next_due_in_ms"] == 60_000
    sleeper = engine.enqueue()
    [lease] = engine.lease()
    until = engine.one("select queue.clock() + interval '30 seconds'").isoformat()
    nap = {"kind": "sleep", "name": "nap", "until": until}
    engine.settle(lease, "waiting", wait=nap)
    assert engine.lease_call()["next_due_in_ms"] == 30_000
    late = "update queue.waits set timeout_at = queue.clock() + interval '1 day' where job_id = %s"
    engine.run(late, sleeper)
    engine.advance(61)
    answer = engine.lease_call()
    assert ids_of(answer["leases"]) == [job_id]
    assert answer["promoted"] == 1


def test_a_worker_leases_only_its_types_and_queues(engine: Engine) -> None:
    """A worker that cannot run a job must not hold it."""
    engine.register("other", queue="slow")
    work = engine.enqueue()
    other = engine.enqueue(job_type="other")

    assert ids_of(engine.lease(1, call=2, job_types=["nothing"])) == []
    assert ids_of(engine.lease(job_types=["other"], queues=["default"])) == []
    assert ids_of(engine.lease(job_types=["other"])) == [other]
    assert ids_of(engine.lease(queues=["default"])) == [work]


def test_progress_logs_and_steps_travel_with_a_report(engine: Engine) -> None:
    """One call carries all news; each line becomes an event in order."""
    job_id = engine.enqueue()
    lease = engine.lease_one()

    outcome = engine.report(
        lease,
        progress={"percentage": 40.04, "stage": "half", "message": "on it"},
        logs=[{"level": "info", "message": "one"}, {"level": "odd", "message": "two"}],
        steps=[{"name": "fetch", "result": {"n": 1}}, {"name": "", "result": 0}],
        tags=["t"],
    )

    assert outcome == "ok"
    job = engine.job(job_id)
    assert job["progress"] == {"percentage": 40, "stage": "half", "message": "on it"}
    assert job["tags"] == ["t"]
    assert engine.rows("select log_level, message from public.job_logs order by id") == [
        ("info", "one"),
        ("info", "two"),
    ]
    assert engine.events(job_id)[2:] == ["job.log", "job.log", "job.progress"]
    assert engine.step(job_id, "fetch") == {"n": 1}


def test_what_a_report_says_is_kept_within_bounds(engine: Engine) -> None:
    """A value out of them is cut or left out; the job is not failed for it."""
    engine.stop_clock()
    job_id = engine.enqueue()
    lease = engine.lease_one()
    engine.advance(100)
    lines = [
        {"level": "error", "message": "x" * 10_001, "metadata": {"n": 1}, "at": "2020-01-02T03:04:05Z"},
        {"message": None, "metadata": {"long": "".join(map(str, range(6000)))}, "at": "yesterday"},
    ]  # fmt: skip
    engine.report(
        lease,
        progress={"percentage": 150, "stage": "s" * 201, "message": "m" * 1001},
        logs=lines,
        steps=[{"name": "a" * 201, "result": 1, "took_ms": 2000}, {"name": "b", "result": 2, "took_ms": "x"}],
        step={"name": "now" * 67, "for_ms": 1500},
    )  # fmt: skip

    now = engine.one("select to_jsonb(queue.clock())")
    job = engine.job(job_id)
    assert job["progress"] == {"percentage": 100, "stage": "s" * 200, "message": "m" * 1000}
    assert job["updated_at"] == now
    columns = "attempt, log_level, message, metadata, created_at = queue.clock()"
    assert engine.rows(f"select {columns} from public.job_logs order by id") == [
        (1, "error", "x" * 10_000, {"n": 1}, False),
        (1, "info", "", {}, True),
    ]
    first, _, last = engine.rows(
        "select data from public.job_events where job_id = %s and seq > 2 order by seq", job_id
    )
    assert (first["log"]["message"], first["log"]["metadata"]) == ("x" * 2000, {"n": 1})
    assert (first["log"]["attempt"], first["log"]["at"][:19]) == (1, "2020-01-02T03:04:05")
    assert last == {"progress": job["progress"], "attempts": 1}
    ran = "extract(epoch from queue.clock() - started_at)::float"
    assert engine.rows(f"select name, {ran} from queue.steps order by created_at") == [
        ("a" * 200, 2),
        ("b", None),
    ]
    running = f"select name, fence, {ran} from queue.running_steps"
    assert engine.one(running) == (("now" * 67)[:200], 1, 1.5)

    for percentage, shown in ((-1, 0), ("x", 0), (12.34, 12.3), (None, 12.3)):
        engine.report(lease, progress={"percentage": percentage})
        assert engine.job(job_id)["progress"]["percentage"] == shown
    engine.report(lease, steps=[{"name": ("now" * 67)[:200], "result": 1}])
    assert engine.rows("select 1 from queue.running_steps") == []


@pytest.mark.parametrize("items", [None, {}, [{}] * 1001, [{"job_id": "x"}]])
@pytest.mark.parametrize("function", ["report_jobs", "settle_jobs"])
def test_what_is_no_list_of_items_is_refused(engine: Engine, function: str, items: Any) -> None:
    """Nothing of it is stored."""
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc(function, p_request={"items": items})
    assert refusal(refused.value) == ("PT400", "invalid_argument", "items")


def test_log_lines_of_a_repeated_report_are_stored_once(engine: Engine) -> None:
    """Its answer was lost, or it has more lines by now; a settle repeats them too."""
    job_id = engine.enqueue()
    lease = engine.lease_one()
    lines = [{"level": "info", "message": message} for message in "abcd"]

    for most in (2, 2, 3):
        engine.report(lease, logs=lines[:most], logs_from=0)
    engine.settle(lease, logs=lines[2:], logs_from=2)

    stored = "select string_agg(message, '' order by id) from public.job_logs where job_id = %s"
    assert engine.one(stored, job_id) == "abcd"


def test_a_finished_step_is_handed_to_the_next_attempt(engine: Engine) -> None:
    """A retry goes on after the last finished step; the first result stands."""
    engine.enqueue()
    lease = engine.lease_one()
    engine.settle(
        lease,
        "retry",
        retry_after_seconds=0,
        steps=[{"name": "a", "result": 1}, {"name": "a", "result": 2}],
    )

    again = engine.lease_one()

    assert again["steps"] == {"a": 1}
    assert again["job"]["attempts"] == 2


def test_a_settle_may_carry_the_next_lease(engine: Engine) -> None:
    """A busy worker needs one round trip per batch."""
    first, second = engine.enqueue(), engine.enqueue()
    lease = engine.lease_one(limit=1)

    answer = engine.rpc(
        "settle_jobs",
        p_request={
            "items": [{**handle(lease), "outcome": "completed"}],
            "lease": {
                "worker_id": "w1",
                "tick_id": "00000000-0000-4000-8000-000000000001",
                "call": 1,
                "limit": 5,
            },
        },
    )

    assert answer["results"][0]["job_id"] == first
    assert ids_of(answer["lease"]["leases"]) == [second]


def test_a_repeated_lease_call_returns_the_same_leases(engine: Engine) -> None:
    """A lost HTTP answer must not cost an attempt or a lease."""
    engine.register("work", timeout_seconds=77)
    engine.enqueue()
    engine.lease_one()  # the first call of another run
    engine.enqueue(priority=1)
    step = {"name": "s", "result": 1}
    engine.settle(engine.lease_one(), "retry", retry_after_seconds=0, steps=[step])
    engine.enqueue_many(4)
    tick = "00000000-0000-4000-8000-000000000001"

    first = engine.lease(3, tick_id=tick, call=1)
    again = engine.lease(3, tick_id=tick, call=1)
    more = engine.lease(3, tick_id=tick, call=2)
    engine.enqueue()
    late = engine.lease(3, tick_id=tick, call=1)  # it was on its way for long

    first_, again_, late_ = (
        {
            lease["job"]["id"]: (lease["fence"], lease["steps"], lease["job"]["timeout_seconds"])
            for lease in each
        }
        for each in (first, again, late)
    )
    assert first_ == again_ == late_
    assert (2, {"s": 1}, 77) in first_.values()
    assert len(more) == 2
    assert engine.one("select count(*) from queue.leases") == 6


def test_a_repeated_call_that_gave_nothing_is_no_word_on_what_came_since(engine: Engine) -> None:
    """It chooses nothing anew: a worker that believed it left what had come to the next minute."""
    tick = "00000000-0000-4000-8000-000000000001"
    assert engine.lease_call(call=2, tick_id=tick)["next_due_in_ms"] is None
    job = engine.enqueue()

    again = engine.lease_call(call=2, tick_id=tick)

    assert (again["leases"], again["next_due_in_ms"]) == ([], 0)
    assert ids_of(engine.lease(call=3, tick_id=tick)) == [job]


def test_leases_renew_and_an_idle_call_is_cheap_to_answer(engine: Engine) -> None:
    """Every report renews, with or without news."""
    engine.stop_clock()
    engine.enqueue()
    lease = engine.lease_one()
    engine.advance(50)

    for seconds, kept in ((0, 60), (43_201, 60), (43_200, 43_200), (60, 60)):
        assert engine.report(lease, lease_seconds=seconds) == "ok"
        assert engine.one("select lease_seconds from queue.leases") == kept
    assert engine.report(lease) == "ok"
    engine.advance(50)

    assert engine.lease_call()["reclaimed"] == 0
    assert engine.report(lease, lease_seconds=1.0) == "ok"
    engine.advance(1)
    assert engine.lease_call(limit=0)["reclaimed"] == 1


def test_types_with_minimal_events_write_none_for_creation_and_lease(engine: Engine) -> None:
    """Cheap types still tell how they end, without gaps."""
    engine.register("quiet", events="minimal")
    job_id = engine.enqueue(job_type="quiet")

    engine.settle(engine.lease_one(), logs=[{"level": "info", "message": "kept as a line"}])

    assert engine.events(job_id) == ["job.completed"]
    assert engine.one("select count(*) from public.job_logs") == 1


def test_due_jobs_beyond_the_lease_are_counted(engine: Engine) -> None:
    """The tick decides by it whether extra workers are worth starting."""
    engine.enqueue_many(25)

    assert engine.lease_call(5)["due"] == 20
    assert engine.lease_call(0)["due"] == 20
    assert engine.lease_call(10, call=2)["due"] == 1  # counted on request alone
    assert engine.lease_call(2, call=2, count_due=True)["due"] == 8
    assert engine.lease_call(8)["due"] == 0
    assert engine.lease_call(8, call=2)["due"] == 0


def test_a_job_exists_only_if_its_transaction_commits(engine: Engine) -> None:
    """Transactional enqueue is the reason to keep the queue in the database."""
    with engine.beside() as other:
        other.run("begin")
        other.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="work")
        assert engine.lease() == []
        other.run("rollback")
        assert engine.lease() == []

        other.run("begin")
        other.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="work")
        other.run("commit")
    assert len(engine.lease()) == 1


def test_enqueue_asks_for_one_worker_until_a_lease_answers(engine: Engine) -> None:
    """Wake-ups are debounced: a burst starts one worker."""
    engine.stop_clock()

    def enqueue() -> bool:
        return bool(engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="work")["wake"])

    assert [enqueue(), enqueue()] == [True, False]
    [lease] = engine.lease(1)
    assert enqueue() is True
    engine.lease_call(0)
    wait = {"kind": "event", "name": "e", "event": "e"}
    engine.settle(lease, "waiting", wait=wait)  # which maintenance is to look at
    assert enqueue() is False
    engine.advance(3)
    assert enqueue() is True


def test_a_test_of_ones_own_moves_days_without_waiting(engine: Engine) -> None:
    """`set_database_clock` stands still where it is told to, and lets go again."""
    job_id = engine.enqueue(delay_seconds=86_400)
    assert engine.lease(1) == []

    tomorrow = datetime.now(UTC) + timedelta(days=2)
    set_database_clock(engine.connection, tomorrow)
    assert engine.one("select queue.clock()") == tomorrow
    assert ids_of(engine.lease(1)) == [job_id]
    set_database_clock(engine.connection, None)
    assert engine.one("select queue.clock() < %s", tomorrow)
    with pytest.raises(ValueError, match="has no time zone"):
        set_database_clock(engine.connection, datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_job_never_starts_before_it_was_made(engine: Engine) -> None:
    """It may commit after the lease that takes it has read the clock."""
    job_id = engine.enqueue()
    engine.run("update public.jobs set created_at = queue.clock() + interval '1 second'")
    engine.run("update queue.ready set job_created_at = (select created_at from public.jobs)")

    engine.lease_one()

    job = engine.job(job_id)
    assert job["started_at"] >= job["created_at"]


def test_an_idle_worker_is_not_asked_to_lease_again(engine: Engine) -> None:
    """It sleeps until it is woken; a time, even 0, would have it ask for ever."""
    assert engine.lease_call()["next_due_in_ms"] is None
    engine.enqueue()
    engine.settle(engine.lease_one(), "completed")

    assert engine.lease_call()["next_due_in_ms"] is None


def test_a_completed_job_has_no_deadline_to_watch(engine: Engine) -> None:
    """Its row would be due for ever, and no idle worker would rest."""
    soon = engine.one("select queue.clock() + interval '1 hour'")
    engine.enqueue(deadline_at=soon.isoformat())
    engine.settle(engine.lease_one())

    assert engine.one("select count(*) from queue.deadlines") == 0


def test_a_job_costs_what_its_attempts_cost_and_nothing_otherwise(engine: Engine) -> None:
    """The bound of a cost is not the cost of a job that has none."""
    free = engine.enqueue()
    engine.settle(engine.lease_one(), "completed")
    paid = engine.enqueue()
    for cost in ({"cost_usd": 0.25}, {}):
        engine.settle(engine.lease_one(), "retry", retry_after_seconds=1, **cost)
        engine.advance(2)
        engine.maintain()
    engine.settle(engine.lease_one(), "completed", cost_usd=0.5)
    dear = engine.enqueue()
    for outcome in ("released", "completed"):
        engine.settle(engine.lease_one(), outcome, cost_usd=50_000)

    assert engine.job(free)["cost_usd"] is None
    assert engine.job(paid)["cost_usd"] == 0.75
    assert engine.job(dear)["cost_usd"] == 99_999


def test_an_end_is_recorded_with_its_times(engine: Engine) -> None:
    """People are shown them, and statistics count each wait and each run."""
    engine.stop_clock()
    job_id = engine.enqueue()
    engine.advance(2)
    lease = engine.lease_one()
    engine.advance(3)
    error = {"type": "E", "message": "no"}
    engine.settle(lease, "retry", error=error, retry_after_seconds=5, cost_usd=0.25)
    engine.advance(6)
    lease = engine.lease_one()
    engine.advance(1)
    engine.settle(lease, duration_ms=500)

    now = engine.one("select to_jsonb(queue.clock())")
    job = engine.job(job_id)
    assert {name: job[name] for name in ("queue_ms", "run_ms", "held_ms")} == {
        "queue_ms": 2000, "run_ms": 3500, "held_ms": 4000,
    }  # fmt: skip
    assert {job[name] for name in ("completed_at", "finished_at", "updated_at")} == {now}
    cleared = ("next_retry_at", "error_message", "error_data", "error_fingerprint")
    assert {job[name] for name in cleared} == {None}
    assert engine.rows(
        "select outcome, jobs, cost_usd::float, wait_bucket, run_bucket from queue.stat_deltas"
        " where wait_bucket is not null order by outcome"
    ) == [("completed", 1, 0, 0, 27), ("retry", 1, 0.25, 34, 35)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"worker_id": None}, "worker_id"),
        ({"worker_id": "w" * 201}, "worker_id"),
        ({"tick_id": None}, "worker_id"),
        ({"limit": -1}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"lease_seconds": 0}, "lease_seconds"),
        ({"lease_seconds": 43201}, "lease_seconds"),
        ({"limit": "many"}, "p_request"),
        ({"call": 2**31}, "p_request"),
        ({"worker_id": "w" * 200, "limit": 1000, "lease_seconds": 43200}, None),
        ({"limit": 0, "lease_seconds": 1}, None),
    ],
)
def test_a_lease_is_asked_for_within_bounds(
    engine: Engine, request_: dict[str, Any], field: str | None
) -> None:
    """Each bound is itself allowed."""
    tick = "00000000-0000-4000-8000-000000000001"
    request = {"worker_id": "w1", "tick_id": tick, **request_}

    if field is None:
        assert engine.rpc("lease_jobs", p_request=request)["leases"] == []
        return
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("lease_jobs", p_request=request)

    assert refusal(refused.value) == ("PT400", "invalid_argument", field)


def test_a_worker_run_is_kept_with_what_it_serves_and_got(engine: Engine) -> None:
    """Who runs what is read from here; of calls that found nothing one a second is noted."""
    engine.stop_clock()
    tick = "00000000-0000-4000-8000-000000000001"
    request = {"version": "1.0", "job_types": ["work"], "queues": ["default"], "tick_id": tick}

    def known(*names: str) -> dict[str, Any]:
        row = engine.one("select to_jsonb(t) from queue.ticks as t where tick_id = %s", tick)
        return {name: row[name] for name in names}

    engine.lease(5, **request)
    began = engine.one("select to_jsonb(queue.clock())")
    assert known("worker_id", *request, "started_at", "seen_at", "last_call", "leased", "leased_at", "free_slots") == {
        "worker_id": "w1", **request, "started_at": began, "seen_at": began, "last_call": 1, "leased": 0,
        "leased_at": None, "free_slots": 5,
    }  # fmt: skip
    engine.advance(0.9)
    engine.lease(5, call=2, **request)
    assert known("last_call", "seen_at") == {"last_call": 1, "seen_at": began}
    engine.lease(0, **{**request, "tick_id": str(uuid.uuid4()), "version": "v" * 201})
    assert engine.one("select to_jsonb(w) from queue.workers as w") == {
        "worker_id": "w1", "job_types": ["work"], "queues": ["default"], "version": "v" * 200, "origin": None, "runs": 2, "started_at": began,
        "seen_at": engine.one("select to_jsonb(queue.clock())"),
    }  # fmt: skip
    engine.enqueue_many(2)
    for call in (3, 4):
        engine.lease(1, call=call, free_slots=5, **request)
    later = engine.one("select to_jsonb(queue.clock())")
    assert known("last_call", "seen_at", "leased", "leased_at", "free_slots") == {
        "last_call": 4, "seen_at": later, "leased": 2, "leased_at": later, "free_slots": 5,
    }  # fmt: skip
    engine.advance(1)
    engine.lease(1, call=5, free_slots=5, **request)
    assert known("last_call", "leased", "leased_at") == {
        "last_call": 5, "leased": 2, "leased_at": later,
    }  # fmt: skip
    assert engine.rpc("tick_finished", p_request={"tick_id": tick, "summary": {"n": 1}}) == {
        "known": True
    }
    assert engine.one("select count(ended_at) from queue.ticks") == 1
    now = engine.one("select to_jsonb(queue.clock())")
    assert known("ended_at", "seen_at", "free_slots", "summary") == {
        "ended_at": now, "seen_at": now, "free_slots": 0, "summary": {"n": 1},
    }  # fmt: skip
