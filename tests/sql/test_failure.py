# ruff: noqa: E501 - queries stay on one line
"""Retries, backoff, lost workers, deadlines, dead letters and their second life."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.support.engine import Engine, refusal

ERROR = {"type": "ValueError", "message": "no such account 17"}


def test_a_failing_job_backs_off_and_fails_after_its_last_attempt(engine: Engine) -> None:
    """Five attempts by default, about 60, 120, 240, 480 seconds apart."""
    job_id = engine.enqueue()
    waits = []
    for _ in range(4):
        answer = engine.settle(engine.lease_one(), "retry", error=ERROR)
        assert answer["status"] == "pending"
        waits.append(
            engine.one(
                "select extract(epoch from next_retry_at - updated_at)::float from public.jobs where id = %s",
                job_id,
            )
        )
        engine.advance(waits[-1] + 1)

    answer = engine.settle(engine.lease_one(), "retry", error=ERROR)

    assert answer["status"] == "failed"
    for wait, nominal in zip(waits, (60, 120, 240, 480), strict=True):
        assert 0.9 * nominal <= wait <= 1.1 * nominal
    job = engine.job(job_id)
    assert job["attempts"] == 5
    assert job["error_message"] == ERROR["message"]
    assert job["error_data"] == {"type": "ValueError", "reason": "attempts_spent"}
    outcomes = [line["outcome"] for line in engine.rpc("job_attempts", p_job_id=job_id)["attempts"]]
    assert outcomes == ["retry"] * 4 + ["failed"]


def test_a_job_that_completes_in_the_end_shows_no_error(engine: Engine) -> None:
    """Lists by error would name what went well; its attempts keep what happened."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "retry", error=ERROR)
    failed = engine.job(job_id)
    engine.advance(70)
    engine.settle(engine.lease_one())
    completed = engine.job(job_id)

    columns = ("error_message", "error_data", "error_fingerprint")
    assert None not in [failed[column] for column in columns]
    assert [completed[column] for column in columns] == [None] * 3
    [before, _] = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
    assert before["error_message"] == ERROR["message"]


def test_backoff_grows_is_capped_and_spreads(engine: Engine) -> None:
    """For every policy and attempt: within its bounds, never above the cap."""

    @given(
        attempt=st.integers(1, 50),
        first=st.floats(0, 86400),
        cap=st.floats(0, 604800),
        factor=st.floats(1, 10),
    )
    def check(attempt: int, first: float, cap: float, factor: float) -> None:
        delay = engine.one("select queue.retry_delay(%s, %s, %s, %s)", attempt, first, cap, factor)
        nominal = min(cap, first * factor ** (attempt - 1))
        assert 0 <= delay <= cap
        assert 0.79 * nominal <= delay <= 1.11 * nominal

    check()
    for attempt in (3, 30):  # below the cap, and at it
        delay = f"select queue.retry_delay({attempt}, 60, 3600, 2)"
        assert len({engine.one(delay) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("outcome", "asked", "seconds"),
    [
        ("retry", {"retry_after_seconds": 777}, 777),
        ("retry", {"retry_after_seconds": 1e9}, 604_800),
        ("retry", {"retry_after_seconds": -1}, 0),
        ("snoozed", {}, 60),
        ("snoozed", {"delay_seconds": 1e9}, 31_536_000),
        ("snoozed", {"delay_seconds": -1}, 0),
    ],
)
def test_retry_after_of_a_foreign_service_wins(
    engine: Engine, outcome: str, asked: dict[str, float], seconds: int
) -> None:
    """They know better when they will answer again; within bounds, as a snooze is."""
    job_id = engine.enqueue(backoff={"first_seconds": 1, "cap_seconds": 5})
    engine.settle(engine.lease_one(), outcome, error=ERROR, **asked)

    wait = (
        "select extract(epoch from next_retry_at - updated_at)::int from public.jobs where id = %s"
    )
    assert engine.one(wait, job_id) == seconds


def test_an_error_is_kept_within_bounds(engine: Engine) -> None:
    """What is too long or of another form is cut or left out; the attempt ends all the same."""
    job_id = engine.enqueue()
    long = {**ERROR, "message": "x" * 10_001, "traceback": {"frames": []}, "origin": [1]}
    engine.settle(engine.lease_one(), "retry", error=long, retry_after_seconds=0)
    last = "select data ->> 'error_message' from public.job_events where job_id = %s order by seq desc limit 1"
    assert engine.one(last, job_id) == "x" * 1000
    assert engine.job(job_id)["error_message"] == "x" * 10_000

    bare = {"type": "E", "traceback": {"frames": "".join(map(str, range(9000)))}, "origin": {"commit": "a"}}  # fmt: skip
    engine.settle(engine.lease_one(), "retry", error=bare, retry_after_seconds=0)

    assert engine.job(job_id)["error_message"] == "no reason given"
    assert engine.rows("select traceback, origin from queue.attempts order by fence") == [
        ({"frames": []}, None),
        (None, {"commit": "a"}),
    ]


def test_a_jobs_own_backoff_wins_over_its_types(engine: Engine) -> None:
    """Policy of the type is a default."""
    engine.register("work", backoff={"first_seconds": 1000, "cap_seconds": 5000, "factor": 2})
    engine.enqueue(backoff={"first_seconds": 2})
    engine.enqueue(backoff={"first_seconds": 900, "cap_seconds": 100})
    engine.enqueue(backoff={"factor": 10}, max_attempts=3)
    for lease in engine.lease():
        engine.settle(lease, "retry", error=ERROR)
    wait = (
        "select extract(epoch from next_retry_at - updated_at)::float from public.jobs order by id"
    )

    first, capped, typical = engine.rows(wait)

    assert (1.8 <= first <= 2.2, 80 <= capped <= 100, 900 <= typical <= 1100) == (True,) * 3
    engine.advance(1200)
    engine.settle(engine.lease(10)[-1], "retry", error=ERROR)
    assert 4000 <= engine.rows(wait)[-1] <= 5000


def test_a_processors_own_fail_is_not_retried(engine: Engine) -> None:
    """Not retryable is a decision of the code that knows, and may give its own reason."""
    for said, reason in (({}, "not_retryable"), ({"reason": "closed"}, "closed")):
        job_id = engine.enqueue()

        answer = engine.settle(engine.lease_one(), "failed", error={**ERROR, **said})

        assert answer["status"] == "failed"
        assert engine.job(job_id)["error_data"]["reason"] == reason


def test_a_job_whose_workers_keep_dying_fails_with_the_reason(engine: Engine) -> None:
    """Recovery must end: no special half-state, no endless loop."""
    job_id = engine.enqueue(max_attempts=50)
    for _ in range(5):
        engine.lease_one(worker="mortal")
        engine.advance(61)

    assert engine.lease() == []
    job = engine.job(job_id)
    assert (job["status"], job["attempts"], job["lost_attempts"]) == ("failed", 5, 5)
    assert job["error_data"]["reason"] == "worker_lost"
    assert "mortal" in job["error_message"]
    assert engine.events(job_id)[-2:] == ["job.reclaimed", "job.failed"]


def test_an_expiry_at_the_last_attempt_fails_the_job(engine: Engine) -> None:
    """Attempts count at lease, so a dead worker spends one; all of it is recorded."""
    engine.stop_clock()
    job_id = engine.enqueue(max_attempts=2)
    times = []
    for _ in range(2):
        lease = engine.lease_one(lease_seconds=60)
        engine.advance(10)
        engine.report(lease)  # the last that is heard of the worker
        engine.advance(80)
        engine.maintain()
        job = engine.job(job_id)
        times.append([job[name] for name in ("run_ms", "held_ms", "lost_attempts")])
        assert job["updated_at"] == engine.one("select to_jsonb(queue.clock())")

    assert times == [[10_000, 90_000, 1], [20_000, 180_000, 2]]
    assert (job["status"], job["outcome"], job["finished_at"]) == (
        "failed",
        "failed",
        job["updated_at"],
    )
    assert job["error_fingerprint"] == engine.one("select queue.fingerprint('WorkerLost', '')")
    lost = "attempt {} was lost: worker w1 stopped answering 00:01:20 earlier"
    attempts = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
    assert [(one["outcome"], one["error_message"]) for one in attempts] == [
        ("lost", lost.format(1)),
        ("lost", lost.format(2)),
    ]
    assert engine.rows(
        "select data - 'worker_id' from public.job_events where job_id = %s and type <> 'job.leased' order by seq",
        job_id,
    )[1:] == [
        {"status": "pending", "attempts": 1},
        {"status": "processing", "attempts": 2},
        {"status": "failed", "attempts": 2, "error_message": lost.format(2)},
    ]


def test_a_lease_expires_on_what_was_stored_at_lease(engine: Engine) -> None:
    """A later change of the type's policy must not end running leases."""
    engine.enqueue()
    engine.lease_one(lease_seconds=100)
    engine.register("work", lease_seconds=1)
    engine.advance(50)

    assert engine.lease_call()["reclaimed"] == 0


@pytest.mark.parametrize("outcome", ["snoozed", "released", "waiting"])
def test_handing_back_does_not_spend_an_attempt(engine: Engine, outcome: str) -> None:
    """Only trying counts."""
    job_id = engine.enqueue(max_attempts=1)
    for _ in range(3):
        engine.settle(
            engine.lease_one(),
            outcome,
            delay_seconds=0,
            wait={"kind": "sleep", "name": "s", "until": "2020-01-01T00:00:00Z"},
        )

    engine.settle(engine.lease_one())

    job = engine.job(job_id)
    assert (job["status"], job["attempts"], job["fence"]) == ("completed", 1, 4)


def test_a_snooze_lasts_until_the_instant_it_names(engine: Engine) -> None:
    """And not the minute of one that names none; it counts as a snooze and as no attempt."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "snoozed", delay_seconds=0)
    until = engine.one("select queue.clock() + interval '2 hours'").isoformat()
    engine.settle(engine.lease_one(), "snoozed", until=until)

    job = engine.job(job_id)
    assert (job["snoozes"], job["attempts"]) == (2, 0)
    engine.advance(7100)
    assert engine.lease() == []
    engine.advance(101)
    assert engine.lease_one()["job"]["id"] == job_id


def test_a_released_job_keeps_its_place(engine: Engine) -> None:
    """What a tick hands back at its deadline is the next to run, below the watermark too."""
    first, *_ = engine.enqueue_many(10)
    leases = engine.lease(5)
    engine.settle(leases[0], "released", duration_ms=9)

    assert engine.job(first)["run_ms"] == 0
    assert engine.lease(1)[0]["job"]["id"] == first


def test_work_past_its_deadline_is_not_run(engine: Engine) -> None:
    """Expired work is failed with its reason, waiting or not."""
    soon = engine.one("select queue.clock() + interval '30 seconds'")
    pending = engine.enqueue(deadline_at=soon.isoformat())
    deferred = engine.enqueue(deadline_at=soon.isoformat(), delay_seconds=100)
    engine.advance(31)

    assert engine.lease() == []
    for job_id in (pending, deferred):
        assert engine.job(job_id)["error_data"]["reason"] == "deadline_passed"


def test_a_job_that_begins_again_keeps_its_first_start_and_its_last_error(engine: Engine) -> None:
    """Until it completes people read what went wrong; while it runs there is no next run."""
    engine.stop_clock()
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "retry", retry_after_seconds=5, error={"type": "E"})
    before = engine.job(job_id)
    engine.advance(6)

    lease = engine.lease_one()

    job = engine.job(job_id)
    assert (job["started_at"], job["next_retry_at"]) == (before["started_at"], None)
    engine.settle(lease, "released")
    job = engine.job(job_id)
    assert before["error_data"]["type"] == "E"
    for name in ("error_data", "error_message", "error_fingerprint"):
        assert job[name] == before[name]


@pytest.mark.parametrize("limit", [1, 10])
def test_a_lease_looks_at_deadlines_that_maintenance_has_not_come_to(
    engine: Engine, limit: int
) -> None:
    """It would run a job that is to fail."""
    engine.stop_clock()
    soon = engine.one("select queue.clock() + interval '30 seconds'")
    job_id = engine.enqueue(deadline_at=soon.isoformat())
    engine.advance(30)

    assert engine.lease(limit, call=2) == []
    assert engine.status(job_id) == "failed"


def test_running_jobs_past_their_deadline_hold_up_no_others(engine: Engine) -> None:
    """They end by their worker; who waits behind them expires meanwhile."""
    engine.stop_clock()
    soon = engine.one("select queue.clock() + interval '30 seconds'")
    engine.enqueue_many(3, deadline_at=soon.isoformat())
    assert len(engine.lease(3)) == 3
    waiting = engine.enqueue(deadline_at=soon.isoformat())

    engine.advance(30)

    assert engine.maintain()["expire"] == 1
    assert engine.status(waiting) == "failed"


def test_a_retry_past_the_deadline_fails(engine: Engine) -> None:
    """No attempt would start in time."""
    engine.stop_clock()
    soon = engine.one("select queue.clock() + interval '30 seconds'")
    job_id = engine.enqueue(deadline_at=soon.isoformat())
    lease = engine.lease_one()
    engine.advance(30)

    assert engine.settle(lease, "retry", error=ERROR)["status"] == "failed"
    assert engine.job(job_id)["error_data"]["reason"] == "deadline_passed"


def test_a_job_retried_by_hand_has_no_deadline_any_more(engine: Engine) -> None:
    """Its deadline is what failed it: kept, it would fail it again at once."""
    soon = engine.one("select queue.clock() + interval '30 seconds'")
    job_id = engine.enqueue(deadline_at=soon.isoformat())
    engine.advance(31)
    assert engine.lease() == []
    assert engine.status(job_id) == "failed"

    engine.rpc("retry_job", p_job_id=job_id)

    assert engine.job(job_id)["deadline_at"] is None
    assert [lease["job"]["id"] for lease in engine.lease()] == [job_id]


def test_a_job_retried_after_lost_workers_gets_all_its_attempts_again(engine: Engine) -> None:
    """Workers lost before the retry no longer count: the next one would fail the job."""
    job_id = engine.enqueue()
    for _ in range(5):
        engine.lease_one(lease_seconds=10)
        engine.advance(11)
        engine.lease_call(0)
        engine.advance(3600)
    assert engine.job(job_id)["lost_attempts"] == 5

    engine.rpc("retry_job", p_job_id=job_id)
    engine.lease_one(lease_seconds=10)
    engine.advance(11)
    engine.lease_call(0)

    assert engine.job(job_id)["lost_attempts"] == 1
    assert engine.status(job_id) == "pending"


def test_an_outcome_of_no_known_name_fails_and_names_the_reason(engine: Engine) -> None:
    """A worker of another version must not leave its job leased for ever."""
    job_id = engine.enqueue()

    engine.settle(engine.lease_one(), "paused" * 100)

    job = engine.job(job_id)
    assert (job["status"], job["error_data"]) == (
        "failed",
        {"type": "UnknownOutcome", "reason": "unknown_outcome"},
    )
    assert job["error_message"] == "unknown outcome " + ("paused" * 100)[:80]


def test_a_result_too_large_fails_instead_of_hanging(engine: Engine) -> None:
    """The worker's settle must always end the attempt."""
    engine.enqueue_many(2)
    lease, other = engine.lease(2)
    largest = "x" * (262_144 - engine.one("select pg_column_size('\"\"'::jsonb)"))

    answer = engine.settle(lease, "completed", result=largest + "x")

    assert answer["status"] == "failed"
    assert engine.settle(lease, "completed", result=largest + "x") == answer
    assert engine.settle(other, "completed", result=largest)["status"] == "completed"


def test_an_unknown_outcome_fails_the_job_not_the_batch(engine: Engine) -> None:
    """A newer worker's word must not hang its whole batch."""
    engine.enqueue_many(2)
    first, second = engine.lease(2)

    answers = engine.settle_all([
        {"job_id": first["job"]["id"], "fence": 1, "outcome": "exploded"},
        {"job_id": second["job"]["id"], "fence": 1, "outcome": "completed"},
    ])  # fmt: skip

    assert {answer["status"] for answer in answers} == {"failed", "completed"}


def test_errors_that_differ_in_numbers_and_ids_share_a_fingerprint(engine: Engine) -> None:
    """Dead letters are grouped by it."""
    some_id = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
    texts = ["account 17 of 20", "account 99 of 5", f"account {some_id} of {some_id.upper()}"]
    long = "x" * 2000

    def prints(*texts: str, error: str = "E") -> set[str]:
        return {engine.one("select queue.fingerprint(%s, %s)", error, text) for text in texts}

    assert len(prints(*texts)) == 1
    assert not prints(*texts) & (prints("else") | prints(*texts, error="F"))
    assert len(prints(long + "a", long + "b")) == 1
    assert len(prints(long[1:] + "a", long[1:] + "b")) == 2


def test_a_dead_letter_starts_again_on_retry(engine: Engine) -> None:
    """Attempts from zero; fence and events go on, so nothing old is mistaken for new."""
    engine.stop_clock()
    job_id = engine.enqueue(max_attempts=1, scheduled_for="2000-01-01T00:00:00Z")
    engine.settle(engine.lease_one(), "snoozed", delay_seconds=0)
    engine.settle(engine.lease_one(), "retry", error=ERROR)
    engine.advance(5)

    job = engine.rpc("retry_job", p_job_id=job_id)

    row = engine.job(job_id)
    fresh = {"status": "pending", "attempts": 0, "snoozes": 0, "lost_attempts": 0, "generation": 2}
    cleared = ("outcome", "finished_at", "completed_at", "result", "next_retry_at", "scheduled_for")
    assert {name: row[name] for name in (*fresh, *cleared)} == fresh | dict.fromkeys(cleared)
    assert row["updated_at"] == engine.one("select to_jsonb(queue.clock())")
    assert job["id"] == job_id
    last = "select data from public.job_events where job_id = %s order by seq desc limit 1"
    assert engine.one(last, job_id) == {"status": "pending", "attempts": 0}
    counted = "select jobs from queue.stat_deltas where outcome = 'redriven'"
    assert engine.rows(counted) == [1]
    lease = engine.lease_one()
    assert lease["fence"] == 3
    engine.settle(lease)
    assert engine.events(job_id)[-3:] == ["job.redriven", "job.leased", "job.completed"]


def test_retry_of_a_job_in_backoff_runs_it_now(engine: Engine) -> None:
    """The person has fixed the cause and does not want to wait an hour."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "retry", error=ERROR)
    assert engine.lease() == []

    engine.rpc("retry_job", p_job_id=job_id)

    assert engine.events(job_id)[-1] == "job.redriven"
    job = engine.job(job_id)
    assert (job["next_retry_at"], job["scheduled_for"]) == (None, None)
    assert engine.lease_one()["job"]["attempts"] == 2


def test_retry_of_a_scheduled_job_runs_it_now(engine: Engine) -> None:
    """Its time was for a run that is not wanted any more; also where it was cancelled."""
    for cancelled in (False, True):
        job_id = engine.enqueue(delay_seconds=3600)
        if cancelled:
            engine.rpc("cancel_job", p_job_id=job_id)

        job = engine.rpc("retry_job", p_job_id=job_id, p_payload=Jsonb(None))

        assert job["scheduled_for"] is None
        assert engine.lease_one()["job"]["id"] == job_id


@pytest.mark.parametrize("state", ["ready", "processing", "completed"])
def test_what_cannot_be_retried_is_refused_with_its_state(engine: Engine, state: str) -> None:
    """409 with the present state."""
    job_id = engine.enqueue()
    if state != "ready":
        lease = engine.lease_one()
    if state == "completed":
        engine.settle(lease)

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("retry_job", p_job_id=job_id)

    expected = "pending" if state == "ready" else state
    assert refusal(refused.value) == ("PT409", "invalid_state", expected)


def test_a_worker_lost_after_the_deadline_was_the_last(engine: Engine) -> None:
    """A reclaimed job that may not run any more must not wait for a worker to find that out."""
    engine.stop_clock()
    soon = engine.one("select queue.clock() + interval '30 seconds'")
    job_id = engine.enqueue(deadline_at=soon.isoformat())
    engine.lease_one(lease_seconds=30)
    engine.advance(30)
    engine.maintain()

    job = engine.job(job_id)
    assert (job["status"], job["error_data"]["type"]) == ("failed", "WorkerLost")
    assert job["error_data"]["reason"] == "deadline_passed"
