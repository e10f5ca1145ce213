"""A lease expires by the database's clock only.

Each lease counts as an attempt, up to the job's maximum.
"""

from functools import partial

import pytest

from tests.contract.observed import ask, later, refused, started
from tests.support.engine import ACME, Engine, Json, ids_of

ERROR = {"type": "ValueError", "message": "no such account 17"}


def attempts_of(engine: Engine, job_id: str) -> list[str]:
    found = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
    return [each["outcome"] for each in found]


def reason_of(engine: Engine, job_id: str) -> str:
    return str(engine.job(job_id)["error_data"]["reason"])


def test_every_report_renews_and_silence_does_not(engine: Engine) -> None:
    """Every report renews a job's lease, whether it contains progress or not.

    A job without reports is leased again after its lease time.
    """
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
    """A job fails for good after five attempts, or after its own `max_attempts`.

    The failed job keeps its error and is listed among the dead letters.
    """
    given: dict[int, Json] = {5: {}, 2: {"max_attempts": 2}}
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


@pytest.mark.parametrize(("max_attempts", "deaths"), [(2, 2), (50, 5)])
def test_an_attempt_that_a_worker_dies_in_counts(
    engine: Engine, max_attempts: int, deaths: int
) -> None:
    """A job whose worker disappears in its last attempt fails.

    A job whose worker disappears five times fails, even if it has attempts left. After a manual
    retry, the job has all its attempts again.
    """
    job_id = engine.enqueue(max_attempts=max_attempts)
    for _ in range(deaths):
        engine.lease_one(worker="mortal")
        engine.elapse(61)

    job = engine.job(job_id)
    assert (job["status"], job["attempts"]) == ("failed", deaths)
    assert attempts_of(engine, job_id) == ["lost"] * deaths
    assert job["error_data"]["reason"] == "worker_lost"
    assert "mortal" in job["error_message"]
    assert engine.events(job_id)[-2:] == ["job.reclaimed", "job.failed"]
    engine.retry(job_id)
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
        engine.advance(1.1)  # one second is the shortest delay after such an outcome
    engine.settle(engine.lease_one())

    assert (engine.status(job_id), engine.job(job_id)["attempts"]) == ("completed", 1)


def test_a_processors_own_fail_is_not_retried(engine: Engine) -> None:
    """A job that its processor fails for good is not retried. The processor may give a reason."""
    for response, reason in (({}, "not_retryable"), ({"reason": "closed"}, "closed")):
        job_id = engine.enqueue()
        engine.settle(engine.lease_one(), "failed", error={**ERROR, **response})
        assert (engine.status(job_id), reason_of(engine, job_id)) == ("failed", reason)


def test_work_past_its_deadline_is_not_run(engine: Engine) -> None:
    engine.stop_clock()
    given: Json = {"deadline_at": later(engine, 30)}
    running, held = engine.start(**given)
    ids = [engine.enqueue(**given), engine.enqueue(delay_seconds=100, **given)]
    engine.advance(30)

    assert engine.lease(1, call=2) == []
    assert engine.lease() == []
    for job_id in ids:
        assert reason_of(engine, job_id) == "deadline_passed"
    assert engine.settle(held)["status"] == "completed"
    assert engine.status(running) == "completed"


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("retry", ERROR["message"]),
        ("lost", "attempt 1 was lost: its lease expired; the last recorded call of worker w1"),
        ("backing off", "its deadline passed before it ended"),
        ("asking", "its deadline passed while it waited for an answer"),
        ("asking late", "its deadline passed while it waited for an answer"),
    ],
)
def test_no_attempt_begins_after_the_deadline(engine: Engine, way: str, message: str) -> None:
    """A job that was retried, asked a question or lost its worker does not start past its deadline.

    Its error says for what it waited. A manual retry removes the deadline.
    """
    engine.stop_clock()
    job_id = engine.enqueue(deadline_at=later(engine, 30))
    lease = engine.lease_one(lease_seconds=900 if way == "asking late" else 30)
    if way == "asking":
        engine.suspend(lease, **ask())
    if way == "backing off":
        engine.settle(lease, "retry", error=ERROR)
    engine.maintain()
    engine.advance(30)
    if way == "asking late":
        engine.maintain()  # maintenance does not end a running job
        engine.suspend(lease, **ask())
    if way == "retry":
        assert engine.settle(lease, "retry", error=ERROR)["status"] == "failed"
    else:
        assert engine.lease_call(1, call=2)["maintenance"] is True
        engine.maintain()

    assert reason_of(engine, job_id) == "deadline_passed"
    assert engine.job(job_id)["error_message"].startswith(message)
    engine.retry(job_id)
    assert ids_of(engine.lease()) == [job_id]


def test_a_job_that_has_not_started_in_time_is_cancelled(engine: Engine) -> None:
    """A job that has not started within `start_by_seconds` is cancelled.

    The seconds count from the job's creation or its scheduled time, whichever is later.
    """
    engine.stop_clock()
    for name, policy in {"few": {"max_concurrency": 1}, "keyed": {"key_concurrency": 1}}.items():
        engine.register(name, **policy)
        engine.enqueue(job_type=name, concurrency_key="k")
    held = engine.lease(2)
    engine.pause("job_type", "work")
    late = [
        engine.enqueue(start_by_seconds=30),
        engine.enqueue(job_type="few", start_by_seconds=30),
        engine.enqueue(job_type="keyed", concurrency_key="k", start_by_seconds=30),
        engine.enqueue(job_type="unknown", start_by_seconds=30),
        engine.enqueue(start_by_seconds=30, scheduled_for="2000-01-01T00:00:00Z"),
        engine.one(
            "insert into jobs (workspace_id, job_type, start_by_seconds)"
            " values (%s, 'work', 30) returning id::text",
            ACME,
        ),
    ]
    until = engine.job(late[0])["start_by_at"]
    response = engine.explain(late[0])["sentence"]
    assert f"if it has not started by {until[:19].replace('T', ' ')}" in response
    later_one = engine.enqueue(start_by_seconds=30, delay_seconds=10)
    engine.advance(30)

    engine.complete(held)
    engine.resume("job_type", "work")
    assert engine.lease(10, call=2) == []
    engine.maintain()
    for job_id in late:
        job, response = engine.job(job_id), engine.explain(job_id)
        assert (job["status"], reason_of(engine, job_id)) == ("cancelled", "start_by_passed")
        assert job["error_message"] == "it had not started within start_by_seconds"
        assert f"not started by {until[:19].replace('T', ' ')}" in response["sentence"]
        assert engine.events(job_id)[-1] == "job.cancelled"
    engine.advance(9)
    assert ids_of(engine.lease()) == [later_one]
    tomorrow = engine.enqueue(delay_seconds=86400, start_by_seconds=30)
    for job_id in (late[0], tomorrow):
        engine.retry(job_id)
        assert ids_of(engine.lease()) == [job_id]
        assert engine.job(job_id)["start_by_seconds"] is None


def test_what_has_started_is_not_late_to_start(engine: Engine) -> None:
    """A job that was leased once within `start_by_seconds` is not cancelled later for its start."""
    engine.stop_clock()
    ids = engine.enqueue_many(4, start_by_seconds=30, scheduled_for="2000-01-01T00:00:00Z")
    leases = engine.lease(4)
    engine.settle(leases[0], "retry", error=ERROR, retry_after_seconds=1)
    engine.settle(leases[1], "released")
    engine.suspend(leases[2], **ask())
    engine.elapse(2)
    engine.elapse(31)

    assert [engine.status(job_id) for job_id in ids] == [
        "pending",
        "pending",
        "waiting",
        "processing",
    ]
    engine.settle(leases[3])
    engine.advance(100)
    assert sorted(ids_of(engine.lease(4))) == sorted(ids[:2])


@pytest.mark.parametrize(
    ("options", "replaced", "last"),
    [
        # A job with debounce counts `start_by_seconds` from its postponed start.
        ({"debounce_seconds": 20, "start_by_seconds": 5}, [15, 15, 15], 20 + 5),
        # A replaced job counts `start_by_seconds` from the time of its replacement.
        ({"delay_seconds": 10, "start_by_seconds": 60}, [50], 60),
    ],
)
def test_a_replacement_keeps_the_limit_and_counts_from_its_own_time(
    engine: Engine, options: Json, replaced: list[int], last: int
) -> None:
    engine.stop_clock()
    unique = {"key": "k"}
    unique |= {} if "debounce_seconds" in options else {"on_conflict": "replace"}
    job_id = engine.enqueue(unique=unique, **options)
    again = {name: options[name] for name in options if name == "debounce_seconds"}
    for seconds in replaced:
        engine.elapse(seconds)
        assert engine.enqueue(unique=unique, **again) == job_id
    engine.elapse(last - 1)
    assert engine.status(job_id) == "pending"
    engine.elapse(2)
    assert reason_of(engine, job_id) == "start_by_passed"


def test_a_job_is_started_or_cancelled_never_both(engine: Engine) -> None:
    """A lease that begins before a job's `start_by_seconds` pass gets the job.

    A lease that begins later does not.
    """
    engine.stop_clock()
    first = engine.enqueue(start_by_seconds=30)
    with engine.open_transaction() as other:
        [lease] = other.lease()
        engine.elapse(31)
    engine.maintain()
    assert engine.status(first) == "processing"
    engine.settle(lease, "retry", error=ERROR, retry_after_seconds=0)
    assert ids_of(engine.lease()) == [first]

    second = engine.enqueue(start_by_seconds=30)
    engine.advance(31)
    with engine.open_transaction() as other:
        other.maintain()
        assert engine.lease(call=2) == []
    assert engine.lease(call=3) == []
    assert engine.events(second) == ["job.created", "job.cancelled"]


def test_a_dead_letter_starts_again_on_retry(engine: Engine) -> None:
    """After a manual retry, a failed job's attempts count from zero.

    Its fence and event numbers continue, so that its old lease stays invalid.
    """
    engine.stop_clock()
    job_id, zombie = engine.start(max_attempts=1, scheduled_for="2000-01-01T00:00:00Z")
    engine.settle(zombie, "retry", error=ERROR)
    engine.advance(5)

    job = engine.retry(job_id)

    assert (job["id"], job["status"], job["attempts"]) == (job_id, "pending", 0)
    assert {job[name] for name in ("finished_at", "result", "next_retry_at")} == {None}
    lease = engine.lease_one()
    assert (lease["fence"], lease["job"]["attempts"]) == (2, 1)
    engine.settle(zombie)
    assert engine.status(job_id) == "processing"
    engine.settle(lease)
    assert engine.events(job_id)[-3:] == ["job.redriven", "job.leased", "job.completed"]


def test_a_replay_keeps_the_steps_before_the_chosen_one(engine: Engine) -> None:
    """A replay of a job is a new job that has the results of all steps before the chosen step.

    A repeated idempotency key returns the existing replay.
    """
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
