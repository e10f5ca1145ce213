"""States, next runs and times: one derivation, the same in lists, a job, the view and the count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from minutehand.queue.models import Lease
from tests.support.engine import ACME, ADA, EVE, Engine, refusal


def facts(engine: Engine, job_id: str) -> dict[str, Any]:
    """A job as its member reads it; the view must say the same."""
    with engine.member(ADA) as ada:
        job: dict[str, Any] = ada.rpc("get_job", p_job_id=job_id)
        [row] = ada.rows("select to_jsonb(s) from public.job_states s where id = %s", job_id)
        [listed] = [j for j in ada.rpc("list_jobs", p_filter={"id_prefix": job_id})["jobs"]]
    assert row["state"] == job["state"] == listed["state"]
    assert row["next_run_at"] == job["next_run_at"] == listed["next_run_at"]
    assert row["runs"] == job["times"]["runs"] == listed["times"]["runs"]
    return job


def states(engine: Engine, *words: str) -> list[str]:
    """The ids of the jobs in these states."""
    page = engine.rpc("list_jobs", p_filter={"workspace_id": ACME, "state": list(words)})
    return [job["id"] for job in page["jobs"]]


def test_a_job_is_named_as_people_look_for_it(engine: Engine) -> None:
    """Scheduled, queued, running, retrying, suspended, and its end."""
    engine.stop_clock()
    job_id = engine.enqueue(delay_seconds=60)
    assert facts(engine, job_id)["state"] == "scheduled"
    assert states(engine, "scheduled") == [job_id]
    assert states(engine, "retrying", "queued", "running") == []

    engine.advance(60)
    engine.lease_call(0)
    assert facts(engine, job_id)["state"] == "queued"
    assert states(engine, "queued") == [job_id]

    lease = engine.lease_one(worker="w7")
    job = facts(engine, job_id)
    assert (job["state"], job["worker_id"], job["next_run_at"]) == ("running", "w7", None)
    assert states(engine, "running") == [job_id]

    engine.settle(lease, "retry", error={"type": "E", "message": "no route"})
    job = facts(engine, job_id)
    assert (job["state"], job["next_run_at"]) == ("retrying", job["next_retry_at"])
    assert states(engine, "retrying") == [job_id]
    assert states(engine, "scheduled") == []

    engine.advance(120)
    wait = {
        "kind": "ask",
        "name": "which",
        "question": "Which?",
        "options": ["a"],
        "timeout_at": "2199-01-01T00:00:00Z",
        "default": {"answer": "a"},
    }
    engine.settle(engine.lease_one(), "waiting", wait=wait)
    job = facts(engine, job_id)
    assert (job["state"], job["next_run_at"]) == ("suspended", "2199-01-01T00:00:00+00:00")
    assert (job["waiting_for"]["kind"], job["waiting_for"]["question"]) == ("ask", "Which?")
    assert states(engine, "suspended") == [job_id]

    engine.rpc("answer_job", p_job_id=job_id, p_answer={"answer": "a"})
    engine.settle(engine.lease_one())
    assert facts(engine, job_id)["state"] == "completed"
    assert states(engine, "completed") == [job_id]


def test_a_snoozed_job_is_scheduled_and_not_retrying(engine: Engine) -> None:
    """Nothing went wrong with it."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "snoozed", delay_seconds=60)

    assert facts(engine, job_id)["state"] == "scheduled"


def test_the_first_start_is_kept_and_times_add_up(engine: Engine) -> None:
    """A job of three runs must not look as if it took as long as the last."""
    engine.stop_clock()
    job_id = engine.enqueue(delay_seconds=100, max_attempts=3)
    never = engine.enqueue()
    engine.rpc("cancel_job", p_job_id=never)
    engine.advance(100)
    engine.maintain()
    engine.advance(5)
    assert facts(engine, job_id)["times"]["queue_ms"] == 5_000
    assert facts(engine, never)["times"]["queue_ms"] is None
    lease = engine.lease_one()
    waits = [Lease.model_validate(lease).queued_seconds]
    first = engine.job(job_id)["started_at"]
    engine.advance(7)
    times = facts(engine, job_id)["times"]
    assert (times["run_ms"], times["held_ms"], times["wait_ms"]) == (7_000, 7_000, 100_000)
    engine.settle(
        lease,
        "retry",
        error={"type": "E", "message": "no"},
        duration_ms=6000,
        retry_after_seconds=50,
    )
    engine.advance(50)
    assert facts(engine, job_id)["times"]["queue_ms"] == 5_000
    lease = engine.lease_one()
    waits.append(Lease.model_validate(lease).queued_seconds)
    engine.advance(3)
    engine.settle(lease, "completed", duration_ms=3000)
    engine.advance(9)

    job = facts(engine, job_id)
    assert job["started_at"] == first
    assert waits == [5, 0]  # what a worker measures is without the delay and the backoff
    assert job["times"] == {
        "queue_ms": 5_000,
        "run_ms": 9_000,
        "held_ms": 10_000,
        "runs": 2,
        "wait_ms": 150_000,
        "total_ms": 165_000,
    }
    assert job["finished_at"] == job["completed_at"]


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_a_job_that_did_not_complete_has_an_end_and_no_completion(
    engine: Engine, outcome: str
) -> None:
    """completed_at is for completed jobs alone."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), outcome, error={"type": "E", "message": "no"})

    job = engine.job(job_id)
    assert job["finished_at"] is not None
    assert job["completed_at"] is None


def test_a_lost_worker_counts_until_its_last_report(engine: Engine) -> None:
    """An outage of the workers is no run time of the job."""
    engine.stop_clock()
    job_id = engine.enqueue()
    lease = engine.lease_one()
    engine.advance(20)
    engine.report(lease)  # renews
    engine.advance(3600)
    engine.lease_call(0)

    times = facts(engine, job_id)["times"]
    assert times["run_ms"] == 20_000
    assert times["runs"] == 1


def test_a_type_with_minimal_events_keeps_each_attempt_after_the_first(engine: Engine) -> None:
    """The job's row tells of one attempt only."""
    engine.register("small", events="minimal")
    job_id = engine.enqueue(job_type="small")
    engine.settle(
        engine.lease_one(), "retry", error={"type": "E", "message": "no"}, retry_after_seconds=0
    )
    engine.settle(engine.lease_one(), "completed")

    attempts = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
    assert [a["outcome"] for a in attempts] == ["retry", "completed"]
    assert attempts[1]["leased_at"] > attempts[0]["leased_at"]


def test_an_attempt_names_its_own_worker_and_while_it_runs_its_lease(engine: Engine) -> None:
    """Also what completed at its first lease, and has no row of its own."""
    for worker in ("w1", "w2"):
        job_id = engine.enqueue()
        lease = engine.lease_one(worker=worker)
        [running] = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
        engine.settle(lease)
        [ended] = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]

        assert running["worker_id"] == ended["worker_id"] == worker
        assert ("lease_expires_at" in running, "lease_expires_at" in ended) == (True, False)


def test_only_the_latest_attempts_are_read(engine: Engine) -> None:
    """A job that is snoozed each minute has thousands."""
    job_id = engine.enqueue()
    lease = {**engine.lease_one(), "fence": 1001}
    for fence, more in ((1000, False), (1001, True)):
        engine.run("update public.jobs set fence = %s where id = %s", fence, job_id)
        engine.run("update queue.leases set fence = %s where job_id = %s", fence, job_id)
        engine.run(
            "insert into queue.attempts"
            " (job_id, fence, attempt, worker_id, leased_at, ended_at, outcome)"
            " select %s, n, 1, 'w', queue.clock(), queue.clock(), 'snoozed'"
            " from generate_series(1, %s) n on conflict do nothing",
            job_id,
            fence - 1,
        )

        found = engine.rpc("job_attempts", p_job_id=job_id)

        fences = [attempt["fence"] for attempt in found["attempts"]]
        assert (found["more"], fences) == (more, list(range(fence - 999, fence + 1)))
    engine.settle(lease)
    assert engine.rpc("job_attempts", p_job_id=job_id)["attempts"][-1]["outcome"] == "completed"


def test_the_next_to_run_come_first(engine: Engine) -> None:
    """Whatever was enqueued last."""
    later = engine.enqueue(delay_seconds=500)
    sooner = engine.enqueue(delay_seconds=100)
    latest = engine.enqueue(delay_seconds=900)

    page = engine.rpc(
        "sort_jobs",
        p_filter={"workspace_id": ACME, "state": ["scheduled"]},
        p_by="next_run_at",
        p_descending=False,
        p_limit=2,
    )
    assert [job["id"] for job in page["jobs"]] == [sooner, later]
    assert page["more"]
    rest = engine.rpc(
        "sort_jobs",
        p_filter={"workspace_id": ACME, "state": ["scheduled"]},
        p_by="next_run_at",
        p_descending=False,
        p_limit=2,
        p_offset=2,
    )
    assert [job["id"] for job in rest["jobs"]] == [latest]
    assert not rest["more"]


def test_the_longest_runs_are_found(engine: Engine) -> None:
    """By duration, over states."""
    ids = [engine.enqueue() for _ in range(3)]
    for lease, ms in zip(engine.lease(3), [5, 50, 20], strict=True):
        engine.settle(lease, "completed", duration_ms=ms)
    by_run = {
        job["id"]: job["run_ms"]
        for job in engine.rpc("list_jobs", p_filter={"workspace_id": ACME})["jobs"]
    }

    page = engine.rpc("sort_jobs", p_filter={"workspace_id": ACME}, p_by="run_ms")
    assert [job["id"] for job in page["jobs"]] == sorted(ids, key=lambda i: -by_run[i])
    found = engine.rpc(
        "list_jobs", p_filter={"workspace_id": ACME, "min_run_ms": 15, "max_run_ms": 30}
    )
    assert [job["run_ms"] for job in found["jobs"]] == [20]


def test_an_unknown_state_or_order_is_refused_by_name(engine: Engine) -> None:
    """A typo must not match nothing."""
    calls: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: engine.rpc("list_jobs", p_filter={"workspace_id": ACME, "state": ["quiet"]}),
            "state",
        ),
        (lambda: engine.rpc("sort_jobs", p_filter={"workspace_id": ACME}, p_by="mood"), "sort"),
    ]
    for call, field in calls:
        with pytest.raises(psycopg.Error) as refused:
            call()
        assert refusal(refused.value) == ("PT400", "invalid_argument", field)


def test_states_of_others_jobs_are_not_shown(engine: Engine) -> None:
    """The view is under row level security, and asks membership once more for what it derives."""
    job_id = engine.enqueue()
    with engine.member(EVE) as eve:
        assert eve.rows("select id from public.job_states where id = %s", job_id) == []
        assert eve.rpc("sort_jobs", p_filter={"ids": [job_id]})["jobs"] == []
