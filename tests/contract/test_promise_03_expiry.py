"""A lease expires on the database's clock alone; attempts count at lease, and end."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.contract.observed import ask, later, refused, started
from tests.support.engine import Engine, ids_of

ERROR = {"type": "ValueError", "message": "no such account 17"}


def attempts_of(engine: Engine, job_id: str) -> list[str]:
    found = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
    return [each["outcome"] for each in found]


def reason_of(engine: Engine, job_id: str) -> str:
    return str(engine.job(job_id)["error_data"]["reason"])


def test_every_report_renews_and_silence_does_not(engine: Engine) -> None:
    """With or without news, for as long as the report says; then the job is offered again."""
    engine.stop_clock()
    lease = started(engine)
    assert (lease["lease_seconds"], lease["job"]["attempts"]) == (60, 1)

    for seconds, news in ((59, {}), (59, {"progress": {"percentage": 5}}), (59, {})):
        engine.advance(seconds)
        assert engine.lease() == []
        assert engine.report(lease, **news) == "ok"
    engine.report(lease, lease_seconds=300)
    engine.advance(299)
    assert engine.lease() == []
    engine.advance(1)
    [again] = engine.lease()
    assert (again["fence"], again["job"]["attempts"]) == (2, 2)
    assert engine.report(lease) == "lost"


def test_a_failing_job_fails_after_its_last_attempt(engine: Engine) -> None:
    """Five attempts by default, or as many as it was given; kept with its error for a person."""
    given: dict[int, dict[str, Any]] = {5: {}, 2: {"max_attempts": 2}}
    for most, options in given.items():
        job_id = engine.enqueue(**options)
        for _ in range(most):
            status = engine.settle(engine.lease_one(), "retry", error=ERROR)["status"]
            engine.advance(7200)
        assert status == "failed"
        job = engine.job(job_id)
        assert (job["attempts"], job["error_message"]) == (most, ERROR["message"])
        assert job["error_data"]["reason"] == "attempts_spent"
        assert attempts_of(engine, job_id) == ["retry"] * (most - 1) + ["failed"]
        assert engine.events(job_id)[-1] == "job.failed"
    [group] = engine.rpc("dead_letters", p_workspace_id=job["workspace_id"])["groups"]
    assert (group["latest_id"], group["jobs"]) == (job_id, 2)


def test_an_attempt_that_a_worker_dies_in_counts(engine: Engine) -> None:
    job_id = engine.enqueue(max_attempts=2)
    for _ in range(2):
        engine.lease_one(worker="mortal")
        engine.advance(61)
        engine.maintain()

    job = engine.job(job_id)
    assert (job["status"], job["attempts"]) == ("failed", 2)
    assert attempts_of(engine, job_id) == ["lost", "lost"]
    assert "mortal" in job["error_message"]
    assert engine.events(job_id)[-2:] == ["job.reclaimed", "job.failed"]


def test_a_job_whose_workers_keep_dying_fails_with_attempts_left(engine: Engine) -> None:
    """Recovery must end; retried by hand, it has all of its attempts again."""
    job_id = engine.enqueue(max_attempts=50)
    for _ in range(5):
        engine.lease_one()
        engine.advance(61)

    assert engine.lease() == []
    job = engine.job(job_id)
    assert (job["status"], job["attempts"]) == ("failed", 5)
    assert job["error_data"]["reason"] == "worker_lost"
    engine.rpc("retry_job", p_job_id=job_id)
    engine.lease_one()
    engine.advance(61)
    assert engine.lease_one()["job"]["attempts"] == 2


@pytest.mark.parametrize("outcome", ["snoozed", "released", "waiting"])
def test_giving_back_spends_no_attempt(engine: Engine, outcome: str) -> None:
    job_id = engine.enqueue(max_attempts=1)
    nap = {"kind": "sleep", "name": "s", "until": "2020-01-01T00:00:00Z"}
    for fence in (1, 2, 3):
        lease = engine.lease_one()
        assert (lease["fence"], lease["job"]["attempts"]) == (fence, 1)
        engine.settle(lease, outcome, delay_seconds=0, wait=nap)
        engine.advance(1.1)  # the least pause of what spends no attempt
    engine.settle(engine.lease_one())

    assert (engine.status(job_id), engine.job(job_id)["attempts"]) == ("completed", 1)


def test_a_processors_own_fail_is_not_retried(engine: Engine) -> None:
    """Not retryable is a decision of the code that knows, and may give its own reason."""
    for said, reason in (({}, "not_retryable"), ({"reason": "closed"}, "closed")):
        job_id = engine.enqueue()
        engine.settle(engine.lease_one(), "failed", error={**ERROR, **said})
        assert (engine.status(job_id), reason_of(engine, job_id)) == ("failed", reason)


def test_work_past_its_deadline_is_not_run(engine: Engine) -> None:
    engine.stop_clock()
    given: dict[str, Any] = {"deadline_at": later(engine, 30)}
    running = engine.enqueue(**given)
    held = engine.lease_one()
    ids = [engine.enqueue(**given), engine.enqueue(delay_seconds=100, **given)]
    engine.advance(30)

    assert engine.lease(1, call=2) == []
    assert engine.lease() == []
    for job_id in ids:
        assert reason_of(engine, job_id) == "deadline_passed"
    assert engine.settle(held)["status"] == "completed"
    assert engine.status(running) == "completed"


@pytest.mark.parametrize("way", ["retry", "lost", "asking"])
def test_no_attempt_begins_after_the_deadline(engine: Engine, way: str) -> None:
    """It failed, asks, or its worker died; retried by hand, it has no deadline any more."""
    engine.stop_clock()
    job_id = engine.enqueue(deadline_at=later(engine, 30))
    lease = engine.lease_one(lease_seconds=30)
    if way == "asking":
        engine.settle(lease, "waiting", wait=ask())
    engine.maintain()
    engine.advance(30)
    if way == "retry":
        assert engine.settle(lease, "retry", error=ERROR)["status"] == "failed"
    else:
        assert engine.lease_call(1, call=2)["maintenance"] is True
        engine.maintain()

    assert reason_of(engine, job_id) == "deadline_passed"
    engine.rpc("retry_job", p_job_id=job_id)
    assert ids_of(engine.lease()) == [job_id]


def test_a_dead_letter_starts_again_on_retry(engine: Engine) -> None:
    """Attempts from zero; fence and events continue, so nothing old is mistaken for new."""
    engine.stop_clock()
    job_id = engine.enqueue(max_attempts=1, scheduled_for="2000-01-01T00:00:00Z")
    zombie = engine.lease_one()
    engine.settle(zombie, "retry", error=ERROR)
    engine.advance(5)

    job = engine.rpc("retry_job", p_job_id=job_id)

    assert (job["id"], job["status"], job["attempts"]) == (job_id, "pending", 0)
    assert {job[name] for name in ("finished_at", "result", "next_retry_at")} == {None}
    lease = engine.lease_one()
    assert (lease["fence"], lease["job"]["attempts"]) == (2, 1)
    engine.settle(zombie, "completed")
    assert engine.status(job_id) == "processing"
    engine.settle(lease)
    assert engine.events(job_id)[-3:] == ["job.redriven", "job.leased", "job.completed"]


def test_a_replay_keeps_the_steps_before_the_chosen_one(engine: Engine) -> None:
    """In the order they finished in; it is a job of its own, and a key makes one of it."""
    origin = engine.enqueue({"n": 1}, priority=7, session_id="s")
    steps = [{"name": name, "result": name} for name in ("read", "price", "write")]
    engine.settle(engine.lease_one(), steps=steps, result=1)
    replay = partial(engine.rpc, "replay_job", p_job_id=origin)
    request = {"from_step": "write", "idempotency_key": "k"}

    made, again = (replay(p_request=request)["job"] for _ in range(2))

    assert again["id"] == made["id"] != origin
    assert (made["replay_of"], made["priority"], made["session_id"]) == (origin, 7, "s")
    [lease] = engine.lease()
    assert lease["steps"] == {"read": "read", "price": "price"}
    assert refused(replay, p_request={"from_step": "nothing"})[0] == "PT400"
    engine.advance(1)
    second = engine.rpc("replay_job", p_job_id=made["id"], p_request={})["job"]
    assert (second["replay_of"], second["replay_from"]) == (made["id"], None)
