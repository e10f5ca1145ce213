"""A job can be cancelled in every state before its end.

A running processor learns of it from the response to its next report.
"""

import time
from functools import partial

import psycopg
import pytest

from tests.contract.observed import ask, later, refused
from tests.support.engine import ACME, ADA, ERROR, Engine, Json, handle, ids_of, remedy

CHILD = [{"job_type": "work"}]
#: The states of a job in which each function accepts the job.
MAY = {
    "cancel_job": {"pending", "delayed", "processing", "waiting", "cancelled"},
    "cancel_job, retry": {"pending", "delayed", "processing", "waiting", "cancelled"},
    "retry_job": {"delayed", "failed", "cancelled"},
    "answer_job": {"waiting"},
}
STATES = ["pending", "delayed", "processing", "waiting", "completed", "failed", "cancelled"]


def cancel(engine: Engine, job_id: str, way: str = "function", retry: bool = False) -> None:
    with engine.member(ADA) as ada:
        if way == "function":
            ada.rpc("cancel_job", p_job_id=job_id, p_retry=retry)
        else:
            ada.run("update jobs set status = 'cancelled' where id = %s", job_id)


@pytest.mark.parametrize("way", ["function", "update"])
def test_what_does_not_run_ends_at_once(engine: Engine, way: str) -> None:
    """A cancel ends a ready, delayed, retrying or waiting job at once.

    The job keeps the error of its last attempt.
    """
    retrying, asking = engine.enqueue(priority=1), engine.enqueue(priority=2)
    first, second = engine.lease(2)
    engine.settle(first, "retry", error=ERROR)
    engine.suspend(second, **ask())
    ids = [retrying, asking, engine.enqueue(), engine.enqueue(delay_seconds=100)]

    for job_id in ids:
        cancel(engine, job_id, way)

    assert [engine.status(job_id) for job_id in ids] == ["cancelled"] * 4
    assert {engine.job(job_id)["next_retry_at"] for job_id in ids} == {None}
    assert engine.events(ids[2]) == ["job.created", "job.cancelled"]
    assert engine.job(retrying)["error_message"] == "no"
    late = refused(engine.rpc, "answer_job", p_job_id=asking, p_answer={"answer": 1})
    assert late == ("PT409", "invalid_state", "cancelled")
    engine.advance(4000)
    assert engine.lease() == []


@pytest.mark.parametrize("way", ["function", "update"])
def test_a_running_job_is_asked_to_stop(engine: Engine, way: str) -> None:
    """After a cancel, each report of a running job returns `cancel`.

    If the processor then requests a retry, the job is cancelled instead.
    """
    job_id, lease = engine.start()

    for _ in range(2):
        cancel(engine, job_id, way)
    assert engine.status(job_id) == "processing"
    assert [engine.report(lease), engine.report(lease, progress={"percentage": 5})] == [
        "cancel"
    ] * 2
    assert engine.settle(lease, "retry", error=ERROR)["outcome"] == "cancelled"
    assert engine.events(job_id).count("job.cancel_requested") == 1
    assert engine.events(job_id)[-1] == "job.cancelled"
    assert engine.lease() == []
    assert engine.retry(job_id)["status"] == "pending"
    assert engine.report(engine.lease_one()) == "ok"


@pytest.mark.parametrize("function", MAY)
@pytest.mark.parametrize("state", STATES)
def test_what_a_state_does_not_allow_is_refused(engine: Engine, function: str, state: str) -> None:
    job_id = engine.enqueue()
    if state != "pending":
        lease = engine.lease_one()
        if state != "processing":
            outcome = "retry" if state == "delayed" else state
            engine.settle(lease, outcome, wait=ask(), error=ERROR)
    more: dict[str, Json] = {
        "answer_job": {"p_answer": {"answer": 1}},
        "cancel_job, retry": {"p_retry": True},
    }
    call = partial(
        engine.rpc, function.partition(",")[0], p_job_id=job_id, **more.get(function, {})
    )

    if state in MAY[function]:
        assert call()["id"] == job_id
    else:
        assert refused(call)[:2] == ("PT409", "invalid_state")


def test_a_completion_beats_a_cancel_that_came_too_late(engine: Engine) -> None:
    """A job that completes after a cancel request keeps the status `completed` and its result."""
    job_id, lease = engine.start()
    cancel(engine, job_id)

    assert engine.settle(lease, "completed", result=1)["status"] == "completed"


def test_a_cancelled_job_whose_worker_dies_is_not_run_again(engine: Engine) -> None:
    job_id, _ = engine.start()
    cancel(engine, job_id)
    engine.advance(61)

    assert engine.lease() == []
    job = engine.job(job_id)
    assert (job["status"], job["error_message"]) == ("cancelled", None)


@pytest.mark.parametrize("end", ["cancelled", "failed", "released", "died", "completed"])
def test_a_running_job_is_retried_once_its_cancellation_ends_it(engine: Engine, end: str) -> None:
    """The parent of the job does not see it ended. A job that completes first is not retried."""
    parent, lease = engine.start(unique={"key": "p"})
    [job_id] = engine.spawn(lease, "s", [{"job_type": "work", "max_attempts": 1}])
    engine.suspend(lease, kind="children", job_ids=[job_id])
    running = engine.lease_one()

    for _ in range(2):
        cancel(engine, job_id, retry=True)
    assert engine.report(running) == "cancel"
    assert "The request also asks for a retry." in engine.explain(job_id)["sentence"]
    if end == "died":
        engine.advance(61)
    else:
        for _ in range(2):
            settled = engine.settle(running, end, error=ERROR)
            assert settled["outcome"] == ("applied" if end == "completed" else "cancelled")
    engine.maintain()

    assert engine.events(job_id).count("job.redriven") == (end != "completed")
    if end != "completed":
        assert engine.status(parent) == "waiting"
        assert engine.events(job_id)[-2:] == ["job.cancelled", "job.redriven"]
        again = engine.lease_one()
        assert (again["job"]["id"], again["job"]["attempts"]) == (job_id, 1)
        # the retry belongs to the request, not to the job
        assert engine.settle(again, "cancelled")["status"] == "cancelled"
        assert engine.status(job_id) == "cancelled"


def test_a_job_whose_result_is_too_large_is_not_retried(engine: Engine) -> None:
    job_id, lease = engine.start()
    cancel(engine, job_id, retry=True)

    assert engine.settle(lease, "completed", result="x" * 1_000_000)["status"] == "failed"
    assert engine.events(job_id)[-1] == "job.failed"


def test_the_last_cancel_decides_whether_a_running_job_is_retried(engine: Engine) -> None:
    engine.enqueue_many(2)
    withdrawn, added = engine.lease(2)
    for lease, retry in ((withdrawn, True), (added, False)):
        for each in (retry, not retry, not retry):
            cancel(engine, lease["job"]["id"], retry=each)

    engine.settle_all([{**handle(each), "outcome": "cancelled"} for each in (withdrawn, added)])

    assert [engine.status(each["job"]["id"]) for each in (withdrawn, added)] == [
        "cancelled",
        "pending",
    ]
    asked = engine.events(added["job"]["id"]).count("job.cancel_requested")
    assert asked == 2


def test_jobs_that_do_not_run_are_cancelled_and_retried_at_once(engine: Engine) -> None:
    """A bulk cancel with a retry keeps finished steps, and starts a delayed job now."""
    asking, lease = engine.start()
    engine.report(lease, steps=[{"name": "s", "result": 1}])
    engine.suspend(lease, **ask())
    running, lease = engine.start()
    delayed = engine.enqueue(delay_seconds=900)

    many = {"p_workspace_id": ACME, "p_filter": {"job_type": "work"}, "p_retry": True}
    assert engine.rpc("cancel_jobs", **many)["count"] == 3
    assert engine.rpc("cancel_jobs", **{**many, "p_filter": {"state": ["running"]}})["count"] == 0

    again = {each["job"]["id"]: each for each in engine.lease()}
    assert set(again) == {asking, delayed}
    assert again[asking]["steps"]["s"] == 1
    engine.settle(lease, "cancelled")
    assert engine.status(running) == "pending"
    engine.cancel(running)
    assert engine.rpc("cancel_job", p_job_id=running, p_retry=True)["status"] == "pending"


def test_children_are_retried_with_their_parent(engine: Engine) -> None:
    """Running children may end after their parent, and some children are cancelled later."""
    parent, lease = engine.start()
    running, last = engine.spawn(lease, "s", CHILD * 2)
    child = next(each for each in engine.lease(2) if each["job"]["id"] == running)
    engine.spawn(lease, "t", CHILD * 150)

    cancel(engine, parent, retry=True)
    engine.maintain()
    assert engine.count("jobs where status = 'cancelled'") == 150
    engine.settle(lease, "cancelled")
    engine.settle(child, "cancelled")
    engine.maintain()

    assert engine.count("jobs where status = 'cancelled'") == 0
    assert [engine.status(each) for each in (parent, running)] == ["pending"] * 2
    cancel(engine, parent)
    engine.maintain()
    engine.elapse(61)
    assert engine.status(last) == "cancelled"


@pytest.mark.parametrize("end", ["cancelled", "completed"])
def test_a_child_is_not_retried_after_its_parent_has_ended(engine: Engine, end: str) -> None:
    """The parent completes, or another cancel withdraws its retry."""
    parent, lease = engine.start()
    [job_id] = engine.spawn(lease, "s", CHILD)
    child = engine.lease_one()
    cancel(engine, parent, retry=True)
    if end == "cancelled":
        cancel(engine, parent, "update")

    for each, outcome in ((lease, end), (child, "cancelled")):
        engine.settle(each, outcome)
        engine.maintain()

    assert [engine.status(each) for each in (parent, job_id)] == [end, "cancelled"]


def test_a_retry_that_cannot_be_done_leaves_the_job_cancelled(engine: Engine) -> None:
    """One job's key has another job, and a trigger of the project rejects the other's retry.

    Both settle with a third one, which is retried.
    """
    unique = {"key": "u", "until": "leased"}
    keyed, rejected, other = (
        engine.enqueue(unique=unique),
        engine.enqueue(priority=9),
        engine.enqueue(priority=8),
    )
    leases = engine.lease(3)
    owner = engine.enqueue(unique=unique, delay_seconds=900)
    engine.add_trigger(
        "before update", "raise 'no';", "new.priority = 9 and new.generation > old.generation"
    )
    for each in (keyed, rejected, other):
        cancel(engine, each, retry=True)

    engine.settle_all([{**handle(each), "outcome": "cancelled"} for each in leases])
    engine.maintain()

    states = [engine.status(each) for each in (keyed, rejected, other, owner)]
    assert states == ["cancelled", "cancelled", "pending", "pending"]
    for each in (keyed, rejected):
        assert "asked for a retry, which was not done" in engine.explain(each)["sentence"]


def settle(engine: Engine, leases: tuple[Json, ...], is_lost: bool) -> None:
    """Settle two cancelled jobs and one that completed, or lose their worker."""
    if is_lost:
        engine.elapse(61)
        return
    outcomes = zip(leases, ("cancelled", "cancelled", "completed"), strict=False)
    engine.settle_all([{**handle(each), "outcome": outcome} for each, outcome in outcomes])


@pytest.mark.parametrize("code", ["40P01", "55P03", "XX000"])
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_temporary_error_does_not_lose_a_requested_retry(
    engine: Engine, code: str, is_lost: bool
) -> None:
    """Other jobs end in the meantime, also if the error never ends."""
    (job_id, other, done), leases = zip(*(engine.start() for _ in range(3)), strict=True)
    cancel(engine, job_id, retry=True)
    cancel(engine, other, retry=True)
    error = f"raise 'no' using errcode = '{code}';"
    engine.add_trigger(
        "before update", error, f"new.generation > old.generation and new.id = '{job_id}'"
    )
    settle(engine, leases, is_lost)
    states = [engine.status(each) for each in (job_id, other, done)]
    assert states == ["processing", "pending", "pending" if is_lost else "completed"]
    if is_lost:
        assert engine.explain(job_id)["cause"] == f"no ({code})"
    engine.run("drop trigger z_own on jobs")
    settle(engine, leases, is_lost)

    assert engine.status(job_id) == "pending"
    assert engine.events(job_id).count("job.reclaimed") == is_lost


def test_many_locked_keys_do_not_delay_a_settlement(engine: Engine) -> None:
    """A call of a worker may take 8 seconds, and each wait for a lock 0.1 seconds."""
    jobs = [engine.start(unique={"key": f"u{n}", "until": "leased"}) for n in range(30)]
    for job_id, _ in jobs:
        cancel(engine, job_id, retry=True)

    with engine.open_transaction() as user:
        for n in range(30):
            user.enqueue(unique={"key": f"u{n}", "until": "leased"})
        began = time.monotonic()
        engine.settle_all([{**handle(lease), "outcome": "cancelled"} for _, lease in jobs])
        assert time.monotonic() - began < 1.5
        began = time.monotonic()
        engine.elapse(61)
        assert time.monotonic() - began < 1.5
        assert {engine.status(job_id) for job_id, _ in jobs} == {"processing"}


@pytest.mark.parametrize(("end", "state"), [("rollback", "pending"), ("commit", "cancelled")])
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_requested_retry_waits_for_a_transaction_that_takes_its_key(
    engine: Engine, end: str, state: str, is_lost: bool
) -> None:
    """Other jobs end in the meantime, also after their worker was lost."""
    unique = {"key": "u", "until": "leased"}
    job_id, lease = engine.start(unique=unique)
    other, free = engine.start()
    for each in (job_id, other):
        cancel(engine, each, retry=True)

    with engine.open_transaction() as user:
        user.enqueue(unique=unique)
        settle(engine, (lease, free), is_lost)
        assert [engine.status(each) for each in (job_id, other)] == ["processing", "pending"]
        ends_transaction = remedy(engine.explain(job_id)).startswith("End the transaction")
        assert ends_transaction == is_lost
        user.run(end)
    settle(engine, (lease, free), is_lost)

    assert engine.status(job_id) == state
    assert engine.events(job_id).count("job.reclaimed") == is_lost


def test_a_tree_is_cancelled_whole(engine: Engine) -> None:
    """A cancel of a job also cancels its pending and running descendants.

    Descendants that have ended, and the jobs that they spawned, do not change.
    """
    root, lease = engine.start()
    child, done = engine.spawn(lease, "s", CHILD * 2)
    by_id = {each["job"]["id"]: each for each in engine.lease(2)}
    [outlives] = engine.spawn(by_id[done], "s", CHILD)
    engine.settle(by_id[done])
    grandchildren = engine.spawn(by_id[child], "s", CHILD * 2)

    cancel(engine, root)
    engine.maintain()

    assert [engine.status(each) for each in grandchildren] == ["cancelled"] * 2
    assert (engine.status(done), engine.status(outlives)) == ("completed", "pending")
    assert {engine.report(by_id[child]), engine.report(lease)} == {"cancel"}


def test_a_child_that_begins_to_run_meanwhile_is_asked_to_stop(engine: Engine) -> None:
    """A child job that is leased during its parent's cancel gets `cancel` at its next report."""
    root = engine.enqueue()
    engine.spawn(engine.lease_one(), "s", CHILD)
    with engine.open_transaction() as other:
        [running] = other.lease(call=2)
        done = engine.blocked(engine.cancel, root)
    done.result(60)
    engine.maintain()

    assert engine.report(running) == "cancel"


@pytest.mark.parametrize("outcome", ["failed", "cancelled", "completed"])
def test_children_end_with_a_parent_that_fails(engine: Engine, outcome: str) -> None:
    """When a job fails or is cancelled, all its child jobs are cancelled, also late ones."""
    parent = engine.enqueue()
    engine.enqueue()
    lease, other = engine.lease(2)
    [early] = engine.spawn(lease, "early", CHILD)
    if outcome == "cancelled":
        cancel(engine, parent)
    [late] = engine.spawn(lease, "late", CHILD)

    settled = ((lease, outcome), (other, "failed"))  # one call settles these two jobs
    engine.settle_all([{**handle(one), "outcome": how} for one, how in settled])
    engine.maintain()

    end = "pending" if outcome == "completed" else "cancelled"
    assert [engine.status(late), engine.status(early)] == [end, end]


def test_deleting_a_job_ends_what_depends_on_it(engine: Engine) -> None:
    """When a running job is deleted, its worker's next report returns `lost`.

    A parent that waited for the job continues, and the children of a deleted job are cancelled.
    """
    parent, lease = engine.start()
    [child] = engine.spawn(lease, "s", CHILD)
    engine.suspend(lease, "all", kind="children", job_ids=[child])
    running = engine.lease_one()
    engine.delete(child)

    assert engine.report(running) == "lost"
    again = engine.lease_one()
    assert ids_of([again]) == [parent]
    assert [each["status"] for each in again["steps"]["all"]["children"]] == ["cancelled"]
    [orphan] = engine.spawn(again, "t", CHILD)
    engine.delete(parent)
    engine.maintain()
    assert engine.status(orphan) == "cancelled"


def bulk(engine: Engine, function: str, criteria: Json, limit: int) -> list[int]:
    """Return the number of jobs that each call of a bulk function changed, until none are left."""
    counts, cursor = [], None
    while True:
        answer = engine.rpc(
            function, p_workspace_id=ACME, p_filter=criteria, p_limit=limit, p_cursor=cursor
        )
        counts.append(answer["count"])
        cursor = answer["cursor"]
        assert answer["more"] is (cursor is not None)
        if cursor is None:
            return counts


def test_a_bulk_passes_over_what_cannot_change_and_ends(engine: Engine) -> None:
    """A bulk cancel or retry skips jobs that it cannot change.

    These jobs do not stop it from reaching later jobs.
    """
    older = engine.enqueue_many(4)
    engine.enqueue_many(3)
    for lease in engine.lease():
        if lease["job"]["id"] not in older:
            cancel(engine, lease["job"]["id"])

    assert bulk(engine, "cancel_jobs", {"job_type": "work"}, 2)[:2] == [2, 2]
    assert sum(bulk(engine, "cancel_jobs", {"job_type": "work"}, 2)) == 0
    for _ in range(3):
        cancel(engine, engine.enqueue(unique={"key": "u"}))
    engine.enqueue(unique={"key": "u"})
    assert sum(bulk(engine, "retry_jobs", {"status": ["cancelled"]}, 2)) == 0


def test_a_bulk_runs_delayed_jobs_now(engine: Engine) -> None:
    engine.enqueue_many(2, delay_seconds=3600)
    engine.enqueue(unique={"key": "u"})
    engine.settle(engine.lease_one(), "retry", error={"message": "no"}, retry_after_seconds=3600)
    assert engine.lease() == []

    states = ["scheduled", "retrying"]
    assert sum(bulk(engine, "retry_jobs", {"state": states}, 2)) == 3

    assert len(engine.lease()) == 3
    assert sum(bulk(engine, "retry_jobs", {"state": states}, 2)) == 0


def test_a_large_family_ends_and_runs_again_in_slices(engine: Engine) -> None:
    """Maintenance cancels and retries 1,200 child jobs in limited groups.

    A child job that a person cancelled does not run again with its parent.

    One statement for all of them would exceed the database's statement timeout.
    """
    parent, lease = engine.start()
    deep, own = engine.spawn(lease, "deep", CHILD * 2)
    cancel(engine, own)
    engine.settle(lease, "failed", error=ERROR)
    engine.run(
        "insert into jobs (workspace_id, job_type, parent_id, scheduled_for)"
        " select %s, 'work', %s, '2100-01-01' from generate_series(1, 1200)",
        ACME,
        parent,
    )
    with engine.open_transaction() as other:  # another transaction locks one of the child jobs
        other.run("select from jobs where id = %s for update", deep)
        engine.maintain()
        assert engine.count("jobs where finished_at is null") == 1
    engine.maintain()
    assert engine.status(deep) == "cancelled"

    engine.retry(parent)
    engine.maintain()

    assert engine.count("jobs where finished_at is not null") == 1
    assert engine.status(own) == "cancelled"


def test_one_job_may_be_cancelled_and_retried_by_many_at_once(engine: Engine) -> None:
    """Four sessions cancel and retry one job concurrently.

    Each call succeeds or returns PT409, and no call deadlocks.
    """
    job_id = engine.enqueue(delay_seconds=900)

    def steer(other: Engine) -> list[str]:
        other.run("set deadlock_timeout = '50ms'")
        states = []
        retry = {"p_retry": True}
        for function, more in [("cancel_job", {}), ("retry_job", {}), ("cancel_job", retry)] * 15:
            try:
                other.rpc(function, p_job_id=job_id, **more)
            except psycopg.Error as error:
                states.append(str(error.sqlstate))
        return states

    assert {state for one in engine.race(*[steer] * 4) for state in one} <= {"PT409"}


def test_a_deadline_outlives_a_replacement_of_a_start_at_the_same_time(engine: Engine) -> None:
    at = later(engine, 50)
    unique = {"key": "u", "on_conflict": "replace"}
    job_id = engine.enqueue(deadline_at=at, scheduled_for=at, unique=unique)
    assert engine.enqueue(delay_seconds=0, unique=unique) == job_id
    engine.advance(60)

    assert engine.lease() == []
    assert engine.status(job_id) == "failed"
