"""Jobs that wait for a concurrency key, a rate limit or a pause, with concurrent transactions.

Such jobs are rows of queue.gated, and a gate is all rows of one key.
"""

import pytest

from tests.support.engine import ACME, GLOBEX, Engine, Json, handle, ids_of

HOLD = "select from queue.gated where job_id = %s for update"


def wait_for_a_rate(engine: Engine, limit: int, jobs: int) -> None:
    """Enqueue jobs of one key whose job type may start `limit` jobs of a key per minute."""
    engine.stop_clock()
    engine.register(rate_limit={"limit": limit, "per_seconds": 60, "per_key": True})
    engine.enqueue_many(jobs, concurrency_key="k")


def test_a_gate_opens_beside_a_settlement_and_charges_each_start_once(engine: Engine) -> None:
    """A settlement does not wait for a locked row of another job of its key.

    Each start of the key's jobs counts once for the rate limit.
    """
    wait_for_a_rate(engine, 2, jobs=4)
    first, second = engine.lease(2)
    with engine.open_transaction(HOLD, second["job"]["id"]):
        assert engine.settle(first)["outcome"] == "applied"

    assert engine.lease(call=2) == []
    engine.advance(30)
    assert len(engine.lease(call=2)) == 1


def test_a_job_that_is_deleted_while_it_runs_has_been_charged(engine: Engine) -> None:
    wait_for_a_rate(engine, 1, jobs=3)
    for _ in range(2):
        [lease] = engine.lease(call=2)
        engine.delete(lease["job"]["id"])
        assert engine.lease(call=2) == []
        engine.advance(60)


def test_a_start_that_is_committed_late_does_not_refill_the_rate_of_its_key(engine: Engine) -> None:
    wait_for_a_rate(engine, 4, jobs=10)
    engine.complete(engine.lease(4))
    engine.advance(30)
    engine.lease_call(0)
    with engine.open_transaction() as other:
        [late] = other.lease(1, call=2)
        engine.advance(15)
        engine.settle(engine.lease_one(limit=1, call=2))
    engine.settle(late)

    assert len(engine.lease(call=2)) == 1


def test_a_start_whose_settlement_commits_while_its_gate_opens_is_charged(engine: Engine) -> None:
    """A job's start counts for its key's rate limit.

    This is true even if the settlement commits while a lease checks the key.
    """
    wait_for_a_rate(engine, 4, jobs=8)
    engine.settle(engine.lease(1)[0])
    first, second = engine.lease(2, call=2)
    with engine.open_transaction() as third, engine.open_transaction() as other:
        other.run(HOLD, first["job"]["id"])
        third.run("select from queue.buckets where name like 'k:%' for update")
        settled = engine.blocked(engine.settle, second)
        other.settle(first)
    settled.result()

    assert len([job for call in (2, 3) for job in engine.lease(4, call=call)]) == 1


def test_a_job_put_off_while_its_gate_opens_passes_it_later(engine: Engine) -> None:
    """A job that is released while its key is checked is leased by one of the next calls."""
    engine.register(lease_seconds=60, key_concurrency=3)
    engine.enqueue_many(3, concurrency_key="k")
    first, second, _ = engine.lease(3)
    with engine.open_transaction("select queue.try_lock(%s)", f"gate {ACME}/work/k"):
        engine.settle(first)  # the row is deleted by the next check of the key
    text = engine.one("select pg_get_functiondef('queue.open_gate'::regproc)")
    counted = "v_count := queue.free_of_key(v_type, p_workspace_id, p_key);"
    assert counted in text
    paused = text.replace(counted, f"{counted} perform pg_advisory_xact_lock(1);")
    engine.run(paused.replace("%", "%%"))
    with engine.another_session() as opener, engine.open_transaction() as other:
        other.run("select pg_advisory_xact_lock(1)")
        opening = engine.blocked(opener.lease, 1, call=2)
        engine.settle(second, "released")
        other.run("commit")
        leases = opening.result()

    leases += engine.lease(1, call=2)
    assert ids_of(leases) == [second["job"]["id"]]


@pytest.mark.parametrize(
    "policy",
    [{"key_concurrency": 1}, {"rate_limit": {"limit": 5, "per_seconds": 1, "per_key": True}}],
)
def test_a_rolled_back_cancel_leaves_no_job_behind(engine: Engine, policy: Json) -> None:
    """A job whose cancellation is rolled back is still leased when its key is free."""
    engine.register(**policy)
    engine.enqueue(concurrency_key="k")
    first = engine.lease_one()
    second = engine.enqueue(concurrency_key="k")
    with engine.open_transaction() as other:
        other.cancel(second)
        engine.settle(first)
        assert engine.lease(call=2) == []
        other.run("rollback")
    engine.advance(1)

    assert ids_of(engine.lease(call=2)) == [second]


def test_what_is_resumed_beside_a_lease_that_saw_the_pause_starts(engine: Engine) -> None:
    """A job starts after a resume, even if a concurrent lease still saw the pause."""
    job_id = engine.enqueue()
    engine.lease_call(0)
    engine.pause("workspace")
    with engine.open_transaction() as other:
        assert other.lease(1, call=2) == []
        engine.resume("workspace")  # the resume does not wait for the lease
    engine.maintain()

    assert ids_of(engine.lease(1, call=2)) == [job_id]


def test_a_pause_that_begins_and_ends_within_a_lease_strands_nothing(engine: Engine) -> None:
    """All jobs are leased although a pause began and ended during a lease call."""
    jobs = [engine.enqueue(), engine.enqueue(workspace=GLOBEX)]
    engine.lease_call(0)
    with engine.open_transaction() as other, engine.open_transaction() as third:
        third.run("lock table queue.leases in access exclusive mode")
        leased = engine.blocked(other.lease, 2, call=2)
        engine.pause("workspace", GLOBEX)
        third.run("commit")
        found = ids_of(leased.result())
        engine.resume("workspace", GLOBEX)

    assert sorted(found + ids_of(engine.lease(2, call=2))) == sorted(jobs)


def test_where_another_lease_takes_the_jobs_a_worker_asks_again(engine: Engine) -> None:
    """A lease whose jobs another lease has locked asks the worker to call again."""
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace)
    engine.lease_call(0)
    with engine.open_transaction() as other:
        [taken] = other.lease(1, call=2)
        assert engine.lease_call(1, call=2)["next_due_in_ms"] == 0
    [rest] = engine.lease(1, call=2)
    assert taken != rest


def test_a_rate_of_days_keeps_no_worker_busy_after_its_queue(engine: Engine) -> None:
    """After its queue was deleted, a key with a rate limit of days no longer makes leases due."""
    rate = {"limit": 1, "per_seconds": 5 * 86_400, "per_key": True}
    engine.register(queue="old", rate_limit=rate)
    _, waits = engine.enqueue_many(2, concurrency_key="k")
    engine.settle(engine.lease_one())
    engine.cancel(waits)
    engine.register(rate_limit=rate)
    for seconds in (7300, 7300, 90_000, 90_000, 400_000):
        engine.advance(seconds)
        engine.lease()
    assert engine.lease_call(call=2)["next_due_in_ms"] is None


def test_a_full_key_with_a_rate_is_looked_at_when_its_job_ends(engine: Engine) -> None:
    """Leases do not check a key whose concurrency is used up.

    The settlement of its job makes the next lease check the key.
    """
    rate = {"limit": 100, "per_seconds": 60, "per_key": True}
    engine.register(key_concurrency=1, rate_limit=rate)
    engine.enqueue_many(2, concurrency_key="k")
    [first] = engine.lease(2)
    engine.lease_call(2, call=2)

    assert engine.rows("select look_at from queue.notes") == []
    engine.settle(first)
    assert len(engine.lease(2, call=2)) == 1


def test_settlements_of_many_jobs_take_them_in_one_order(engine: Engine) -> None:
    """Settlements lock their jobs in the order of the ids, whatever the order in the request.

    Two settlements therefore cannot deadlock.
    """
    engine.enqueue_many(2)
    first, second = sorted(engine.lease(2), key=lambda lease: str(lease["job"]["id"]))
    items = [{**handle(lease), "outcome": "completed"} for lease in (second, first)]
    lock = "select from queue.leases where job_id = %s for update nowait"
    with engine.open_transaction() as other:
        other.report(first, progress={"percentage": 7})
        settling = engine.blocked(engine.settle_all, items)
        other.run(lock, second["job"]["id"])
    assert {result["outcome"] for result in settling.result()} == {"applied"}
    assert engine.rows("select 1 from queue.leases") == []


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_job_that_may_not_run_holds_no_slot_of_its_key(engine: Engine, is_paused: bool) -> None:
    """A job in a paused or unserved queue does not use up its concurrency key.

    Jobs of the key in other queues run.
    """
    engine.register(key_concurrency=1)
    engine.declare("slow")
    served: Json = {"queues": None if is_paused else ["default"]}
    held = [engine.enqueue(concurrency_key=key, queue="slow") for key in "abd"]
    free = [engine.enqueue(concurrency_key="d")]
    engine.lease_call(0)
    held.append(engine.enqueue(concurrency_key="c", queue="slow"))
    if is_paused:
        engine.pause("queue", "slow")
    engine.lease_call(0, **served)
    free += [engine.enqueue(concurrency_key=key) for key in "abc"]

    leases = engine.lease(10, **served)
    assert sorted(ids_of(leases)) == sorted(free)
    engine.complete(leases)
    if is_paused:
        engine.resume("queue", "slow")
    assert sorted(ids_of(engine.lease(10))) == sorted(held)


def test_a_tenants_keys_hold_up_no_other_tenants_first_job(engine: Engine) -> None:
    """While one tenant has 2,000 jobs with keys, the first lease returns another tenant's jobs."""
    engine.register("keyed", key_concurrency=1)
    items = [{"job_type": "keyed", "concurrency_key": f"k{n}"} for n in range(1000)]
    for _ in range(2):
        engine.enqueue_all(items)
    others = [engine.enqueue(workspace=GLOBEX, job_type=name) for name in ("work", "keyed")]

    leased = [set(ids_of(engine.lease(100, call=call))) for call in (1, 2, 3)]
    assert set(others) <= leased[0]
    assert all(leased)


def test_keys_that_no_worker_serves_delay_no_other_keys(engine: Engine) -> None:
    """Jobs with keys of a job type without workers do not delay jobs with keys of another type."""
    engine.register("mine", key_concurrency=1)
    engine.register("theirs", key_concurrency=1)
    for job_type, count in (("theirs", 500), ("mine", 5)):
        jobs = [{"job_type": job_type, "concurrency_key": str(n)} for n in range(count)]
        engine.enqueue_all(jobs)

    assert len(engine.lease(10, job_types=["mine"])) == 5
    assert len(engine.lease(100, job_types=["theirs"], worker="w2")) == 100


def test_keys_without_jobs_cost_the_next_leases_nothing(engine: Engine) -> None:
    """After the jobs of 899 keys were deleted, one lease removes the rows of all these keys."""
    engine.register("keyed", key_concurrency=1)
    engine.lease(1)
    items = [{"job_type": "keyed", "concurrency_key": str(number)} for number in range(900)]
    engine.enqueue_all(items)
    engine.run("delete from jobs where concurrency_key <> '7'")

    [kept] = engine.rows("select id::text from jobs")

    assert ids_of(engine.lease(10)) == [kept]
    assert engine.count("queue.notes") == 0


def test_a_lease_waits_for_no_one_who_deletes_a_job_of_its_key(engine: Engine) -> None:
    """A lease does not wait for a transaction that deletes another job of the concurrency key."""
    engine.register(key_concurrency=1)
    first = engine.enqueue(concurrency_key="k")
    second, lease = engine.start(concurrency_key="k")
    with engine.open_transaction("select queue.try_lock(%s)", f"gate {ACME}/work/k"):
        engine.settle(lease, "retry", retry_after_seconds=60)
    with engine.open_transaction() as user:
        user.delete(first)
        assert engine.lease() == []
        user.run("rollback")
        user.run("begin")
    engine.advance(2)
    assert ids_of(engine.lease()) == [second]


def test_a_job_that_comes_while_the_only_other_of_its_key_is_deleted(engine: Engine) -> None:
    """A job enqueued while the only other job of its key is being deleted is leased afterwards."""
    engine.register(key_concurrency=1)
    first = engine.enqueue(concurrency_key="k")
    assert ids_of(engine.lease()) == [first]
    with engine.open_transaction() as other:
        other.delete(first)
        second = engine.enqueue(concurrency_key="k")
        assert engine.lease() == []
    assert ids_of(engine.lease()) == [second]


def test_a_job_that_is_deleted_while_its_gate_admits_it_leaves_nothing(engine: Engine) -> None:
    """A delete of a job waits for a settlement that makes the job ready.

    It then also deletes the job's row of queue.ready.
    """
    engine.register(key_concurrency=1)
    first, second, third = engine.enqueue_many(3, concurrency_key="k")
    lease = engine.lease_one()
    with engine.open_transaction() as other:
        other.settle(lease)  # makes the second job ready
        deleting = other.blocked(engine.delete, second)
    deleting.result()
    assert ids_of([lease]) == [first]
    assert engine.rows("select job_id from queue.ready where job_id = %s", second) == []
    assert ids_of(engine.lease()) == [third]


def test_a_job_cancelled_while_its_gate_opens_keeps_no_place(engine: Engine) -> None:
    """A job cancelled while a lease checks its key can be retried and leased."""
    engine.register(key_concurrency=2)
    first, second = engine.enqueue_many(2, concurrency_key="k")
    with engine.open_transaction() as other:
        assert ids_of(other.lease(1)) == [first]
        cancelled = other.blocked(engine.cancel, second)
    cancelled.result()
    engine.retry(second)
    assert ids_of(engine.lease()) == [second]
