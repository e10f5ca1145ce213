"""A job whose enqueue was committed is never lost.

However many concurrent callers use one idempotency key, they create one job.
"""

from functools import partial
from typing import Any

import pytest

from tests.contract.observed import ask, refused
from tests.support.engine import ACME, ADA, BOB, GLOBEX, Engine, Json, ids_of


def count(engine: Engine) -> int:
    return engine.count("jobs")


def bulk(engine: Engine, items: list[Json]) -> list[Json]:
    jobs = [{"job_type": "work", **item} for item in items]
    return list(engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=jobs)["jobs"])


def test_what_commits_late_is_found_below_what_was_leased_meanwhile(engine: Engine) -> None:
    """A job whose transaction commits late is leased, even after younger jobs were leased."""
    with engine.open_transaction() as slow:
        late = slow.enqueue()
        engine.advance(10)
        engine.enqueue_many(5)
        assert len(engine.lease(3)) == 3
    engine.advance(61)

    assert late in ids_of(engine.lease(10, lease_seconds=999, suspects=False))


def test_a_users_open_transaction_holds_up_no_one(engine: Engine) -> None:
    engine.run("set lock_timeout = '500ms'")
    with engine.open_transaction() as slow:
        late = slow.enqueue()
        job_id, lease = engine.start()
        assert lease["job"]["id"] == job_id
        engine.suspend(lease, kind="sleep", until="2020-01-01T00:00:00Z")
        engine.advance(1)
        engine.settle(engine.lease_one(), "released")
        engine.settle(engine.lease_one())
    assert ids_of(engine.lease()) == [late]


def test_sixteen_racing_callers_of_one_key_get_one_job(engine: Engine) -> None:
    answers = engine.race(*[lambda other: other.enqueue(idempotency_key="k")] * 16)

    assert len(set(answers)) == 1
    assert count(engine) == 1


@pytest.mark.parametrize("ends", ["deleted", "kept"])
def test_a_key_that_was_answered_with_another_job_ends_with_that_one(
    engine: Engine, ends: str
) -> None:
    """An idempotency key may return an existing unique job.

    When that job is deleted, the next call with the key creates a new job.
    """
    first = engine.enqueue(unique={"key": "u"})
    assert engine.enqueue(unique={"key": "u"}, idempotency_key="k") == first
    engine.run("delete from jobs where id = %s and %s = 'deleted'", first, ends)

    again = engine.enqueue(idempotency_key="k")
    [line] = bulk(engine, [{"idempotency_key": "k"}])

    assert (line["job"]["id"], line["created"]) == (again, False)
    assert (again == first) is (ends == "kept")


@pytest.mark.parametrize("options", [{"debounce_seconds": 60}, {}])
def test_racing_callers_of_one_key_replace_its_job_one_after_another(
    engine: Engine, options: Json
) -> None:
    """Concurrent callers that replace the job of one unique key change one job in turn.

    No caller deadlocks.
    """

    def replace(other: Engine) -> str:
        other.run("set deadlock_timeout = '50ms'")
        unique = {"key": "u", "on_conflict": "replace"}
        return [other.enqueue({"n": n}, unique=unique, **options) for n in range(20)][-1]

    [only] = set(engine.race(*[replace] * 4))

    assert count(engine) == 1
    assert engine.events(only).count("job.replaced") == 79


def test_another_payload_under_the_same_key_is_a_conflict(engine: Engine) -> None:
    """A caller that repeats an idempotency key with another payload gets `idempotency_conflict`.

    Other workspaces and job types may use the same idempotency key.
    """
    job_id = engine.enqueue({"a": 1}, idempotency_key="k")
    engine.register("other")

    conflict = ("PT409", "idempotency_conflict", job_id)
    assert refused(engine.enqueue, {"a": 2}, idempotency_key="k") == conflict
    others: list[Json] = [{"workspace": GLOBEX}, {"job_type": "other"}]
    ids = {engine.enqueue({"a": 2}, idempotency_key="k", **other) for other in others}
    assert len(ids | {job_id}) == 3


def test_a_key_lasts_as_long_as_its_job(engine: Engine) -> None:
    job_id = engine.enqueue(idempotency_key="k")
    engine.run_all()
    engine.elapse(86_400 * 29)
    assert engine.enqueue(idempotency_key="k") == job_id
    engine.run("delete from jobs")
    assert engine.enqueue({"n": 3}, idempotency_key="k") != job_id


def test_a_plain_insert_takes_a_key_as_a_call_does(engine: Engine) -> None:
    insert = "insert into jobs (workspace_id, job_type, idempotency_key) values (%s, %s, %s)"
    engine.run(insert, ACME, "work", "k")
    job_id = engine.enqueue(idempotency_key="k")

    assert refused(engine.run, insert, ACME, "work", "k") == ("PT409", "duplicate_job", job_id)
    assert count(engine) == 1


def test_a_bulk_means_what_its_items_would_mean_one_after_another(engine: Engine) -> None:
    answer = bulk(engine, [{"idempotency_key": key} for key in ("a", "b", "a")])

    assert [line["created"] for line in answer] == [True, True, False]
    assert answer[0]["job"]["id"] == answer[2]["job"]["id"]
    assert [ids_of(engine.lease(1)) for _ in range(2)] == [[one["job"]["id"]] for one in answer[:2]]
    unique = {"key": "k", "on_conflict": "replace"}
    answer = bulk(engine, [{"payload": {"v": v}, "unique": unique} for v in (1, 2, 3)])
    [only] = {line["job"]["id"] for line in answer}
    assert engine.job(only)["payload"] == {"v": 3}
    page = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor="1:1:")
    assert [event["seq"] for event in page["events"] if event["job_id"] == only] == [1, 2, 3]


def test_a_key_of_a_bulk_whose_unique_job_is_an_earlier_one_is_that_job_everywhere(
    engine: Engine,
) -> None:
    job_id = engine.enqueue(unique={"key": "b"})
    items = [{"unique": {"key": "b"}}, {"unique": {"key": "a"}}, {}]
    answer = bulk(engine, [{"idempotency_key": "k", **item} for item in items])
    assert [(line["job"]["id"], line["created"]) for line in answer] == [(job_id, False)] * 3


def test_two_bulks_with_the_same_keys_in_opposite_order_do_not_deadlock(engine: Engine) -> None:
    keys = [f"k{number}" for number in range(60)]

    def bulk_of(order: list[str]) -> Any:
        return lambda other: bulk(other, [{"idempotency_key": key} for key in order])

    answers = engine.race(*[bulk_of(keys), bulk_of(keys[::-1])] * 3)

    found = {frozenset(line["job"]["id"] for line in answer) for answer in answers}
    assert len(found) == 1
    assert count(engine) == 60


def test_a_bulk_is_all_or_nothing_and_names_the_bad_item(engine: Engine) -> None:
    bad: list[tuple[Json, str, str]] = [
        ({"priority": 5000}, "invalid_argument", "priority"),
        ({"prio": 1}, "invalid_argument", "prio"),
        ({"job_type": "x" * 101}, "unknown_job_type", "job_type"),
        ({"payload": [1]}, "payload_invalid", "payload"),
        ({"payload": {"x": "y" * 262_136}}, "payload_too_large", "payload"),
    ]
    for item, hint, field in bad:
        assert refused(bulk, engine, [{}, item])[1:] == (hint, f"jobs[1].{field}")
    assert count(engine) == 0


def test_unique_jobs_skip_until_the_first_has_finished(engine: Engine) -> None:
    """Until a job ends, an enqueue with its unique key returns that job.

    With `on_conflict` "raise", the enqueue fails and its error names the job.
    """
    unique = {"key": "daily"}
    [first] = {*engine.race(*[lambda other: other.enqueue(unique=unique)] * 8)}
    loud = {**unique, "on_conflict": "raise"}

    assert refused(engine.enqueue, unique=loud) == ("PT409", "duplicate_job", first)
    lease = engine.lease_one()
    assert engine.enqueue(unique=unique) == first
    assert engine.enqueue(unique=unique, workspace=GLOBEX) != first
    engine.settle(lease)
    assert engine.enqueue(unique=unique) != first

    # With `until` "leased", an enqueue during a run means "run once more after the present run".
    rebuild = {"key": "rebuild", "until": "leased"}
    first = engine.enqueue(unique=rebuild)
    lease = next(each for each in engine.lease() if each["job"]["id"] == first)
    second, again = (engine.enqueue(unique=rebuild) for _ in range(2))
    assert second == again != first
    engine.settle(lease)
    assert engine.enqueue(unique=rebuild) == second


def test_unique_with_replace_changes_a_pending_holder_only(engine: Engine) -> None:
    """An enqueue with `on_conflict` "replace" replaces the payload of a pending job.

    A running or waiting job with the unique key keeps its payload.
    """
    unique = {"key": "k", "on_conflict": "replace"}
    first = engine.enqueue({"v": 1}, unique=unique)
    engine.register(lease_seconds=60, schema_version=2)

    assert engine.enqueue({"v": 2}, unique=unique, priority=7) == first
    lease = engine.lease_one()
    assert (lease["job"]["payload"], lease["job"]["priority"]) == ({"v": 2}, 7)
    assert lease["job"]["schema_version"] == 2
    assert engine.enqueue({"v": 3}, unique=unique) == first
    engine.suspend(lease, **ask())
    assert engine.enqueue({"v": 4}, unique=unique) == first
    assert engine.job(first)["payload"] == {"v": 2}
    assert engine.events(first) == ["job.created", "job.replaced", "job.leased", "job.waiting"]


def test_debounce_runs_once_after_the_last_call(engine: Engine) -> None:
    engine.stop_clock()
    options: Json = {"unique": {"key": "save"}, "debounce_seconds": 30}
    first = engine.enqueue({"v": 1}, **options)
    engine.advance(20)
    assert engine.enqueue({"v": 2}, **options) == first
    engine.advance(20)
    assert engine.lease() == []
    engine.advance(11)

    lease = engine.lease_one()
    assert lease["job"]["payload"] == {"v": 2}
    engine.settle(lease, "failed")
    engine.retry(first)
    lease = engine.lease_one()
    second = engine.enqueue({"v": 3}, **options)
    assert (lease["job"]["id"], second == first) == (first, False)  # also after a person's retry
    assert engine.enqueue({"v": 4}, **options) == second


def test_a_retried_job_takes_its_unique_key_back_or_stays(engine: Engine) -> None:
    first = engine.enqueue(unique={"key": "k"})
    engine.settle(engine.lease_one(), "failed")
    second = engine.enqueue(unique={"key": "k"})

    retry = partial(engine.retry, first)
    assert refused(retry) == ("PT409", "duplicate_job", second)
    engine.run_all()
    retry()
    assert engine.enqueue(unique={"key": "k"}) == first


def test_jobs_of_a_tenant_run_by_priority_and_then_by_age(engine: Engine) -> None:
    idle, second = engine.enqueue(priority=900), engine.enqueue()
    third, urgent = engine.enqueue(), engine.enqueue(priority=1)

    assert ids_of(engine.lease(1)) == [urgent]
    assert ids_of(engine.lease()) == [second, third, idle]


def test_a_tenants_due_jobs_do_not_wait_behind_anothers_flood_of_them(engine: Engine) -> None:
    """A tenant's due job is leased soon after 3,000 due jobs of another tenant."""
    engine.enqueue_many(3000, delay_seconds=1)
    theirs = engine.enqueue(workspace=GLOBEX, delay_seconds=2)
    engine.elapse(3)

    assert theirs in ids_of(engine.lease(10, call=2))


def test_no_one_enqueues_in_anothers_name(engine: Engine, ada: Engine) -> None:
    """A signed-in person cannot set the `user_id` of a job. The job gets the caller's own id."""
    ada.enqueue(user_id=BOB)
    ada.enqueue_many(1, user_id=BOB)

    assert engine.rows("select user_id::text from jobs") == [ADA] * 2


def test_a_workspace_has_as_many_pending_jobs_as_its_quota(engine: Engine) -> None:
    engine.limit(max_pending=5)

    def enqueue(other: Engine, jobs: int = 1) -> None:
        with other.member(ADA) as ada:
            ada.enqueue_many(jobs)

    engine.race(*[enqueue] * 8)  # a call that meets a lock may be retried
    assert count(engine) <= 5
    while count(engine) < 5:
        enqueue(engine)
    for jobs in (1, 2):
        assert refused(enqueue, engine, jobs)[:2] == ("PT429", "quota_exceeded")
    assert count(engine) == 5
    engine.enqueue()
