"""Registration of job types, and the limits for what a worker may register."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.contract.observed import later, refused
from tests.support.engine import Engine, Json, ids_of


def publish(engine: Engine, *types: Json) -> Any:
    """Register several job types in one call."""
    return engine.rpc("register_job_types", p_types=list(types))


def known(engine: Engine, job_type: str) -> Any:
    """Return a job type as `list_job_types` shows it."""
    return engine.rpc("list_job_types", p_job_type=job_type)["types"][0]


@pytest.mark.parametrize(
    "bad",
    [
        {"schedules": [{"name": "n", "cron": "0 0 30 2 *"}]},
        {"schedules": [{"name": "n", "cron": "* * * * *", "timezone": "Mars/Base"}]},
        {"max_concurrency": 0},
        {"lease_seconds": "long"},
        {"unknown": 1},
        {"backoff": {"factor": 0}},
        {"rate_limit": {"limit": 1}},
        {"events": "some"},
    ],
)
def test_a_type_that_is_refused_stops_no_other(engine: Engine, bad: Json) -> None:
    """If one job type of a registration is rejected, the other types are registered.

    The rejected type keeps its earlier options and shows the rejection.
    """
    engine.register("bad", max_concurrency=7)
    names = ("first", "bad", "last")
    answer = publish(engine, *({"job_type": n, **(bad if n == "bad" else {})} for n in names))

    assert [each["job_type"] for each in answer["refused"]] == ["bad"]
    assert [known(engine, name)["refusal"] is None for name in names] == [True, False, True]
    assert known(engine, "bad")["max_concurrency"] == 7
    found = engine.findings()["refused_type"]
    assert found["sentence"].endswith(" of bad.")
    [act] = found["next"]
    assert act["command"] == "minutehand types bad"
    for name in names:
        engine.enqueue(job_type=name)
    engine.register("bad")
    assert known(engine, "bad")["refusal"] is None


def test_a_module_that_loads_again_ends_the_failure_of_all_its_types(engine: Engine) -> None:
    """Another worker may have registered one of the types. The failure begins at its report."""
    for name in ("day", "night"):
        engine.register(name, source=f"zero:{name}")
    engine.advance(600)
    began = engine.now()
    for failure in ("SyntaxError", "NameError"):
        publish(engine, {"module": "zero", "failure": failure})
        engine.advance(60)
    found = engine.findings()["refused_type"]
    assert (found["cause"], found["sentence"][-15:]) == ("NameError", " of day, night.")
    assert 0 <= (datetime.fromisoformat(found["since"]) - began).total_seconds() < 30
    engine.register("day", source="zero:day")
    assert "refused_type" not in engine.findings()
    assert known(engine, "night")["refusal"] is None


def test_an_older_worker_that_waited_for_a_newer_one_sees_what_it_published(engine: Engine) -> None:
    """A worker with an older schema version registers while a newer worker does.

    The newer worker's options stay.
    """
    engine.run("update queue.job_types set in_order = true")
    with engine.open_transaction() as newer:
        newer.register("work", schema_version=2)
        older = engine.blocked(engine.register, "work", max_concurrency=1)
    older.result()

    work = known(engine, "work")
    assert (work["schema_version"], work["max_concurrency"], work["in_order"]) == (2, None, True)
    engine.register(schema_version=2, max_concurrency=2)
    assert known(engine, "work")["max_concurrency"] == 2


def test_limits_that_change_hold_for_jobs_that_wait_and_run(engine: Engine) -> None:
    """A changed concurrency limit of a job type applies immediately to waiting jobs."""

    def leased_with(**limits: int) -> int:
        engine.register("work", **limits)
        return len(engine.lease(4))

    assert leased_with(key_concurrency=1) == 0
    engine.enqueue_many(4, concurrency_key="k")
    assert [leased_with(key_concurrency=most) for most in (1, 3)] == [1, 2]
    assert leased_with() == 1

    engine.enqueue_many(4)
    assert [leased_with(max_concurrency=most) for most in (5, 4)] == [1, 0]
    assert leased_with() == 3


def test_a_rate_that_comes_back_counts_no_job_that_ended_without_it(engine: Engine) -> None:
    """A rate limit that was removed and added again does not count jobs that ran without it."""
    rate = {"limit": 1, "per_seconds": 60, "per_key": True}
    engine.register(rate_limit=rate)
    with engine.open_transaction() as other:
        other.enqueue()
        engine.register()
    engine.complete(engine.lease())
    engine.register(rate_limit=rate)
    assert engine.enqueue() in ids_of(engine.lease())


def test_held_jobs_start_without_a_limit_that_went(engine: Engine) -> None:
    """Jobs that waited for a concurrency key start when the limit is removed.

    A rolled-back cancel of the jobs changes nothing.
    """
    engine.register(key_concurrency=1)
    jobs = engine.enqueue_many(3, concurrency_key="k")
    engine.lease_call(0)
    with engine.open_transaction() as other:
        for job_id in jobs:
            other.cancel(job_id)
        engine.register()
        other.run("rollback")

    leases = engine.lease(3, call=2)
    assert ids_of(leases) == jobs
    engine.complete(leases)


SCHEMA = """{"type": "object", "required": ["to"], "additionalProperties": false, "properties": {
  "to": {"type": "string", "minLength": 2, "pattern": "@"}, "kind": {"enum": ["a", "b"]},
  "n": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
  "many": {"type": "array", "items": {"$ref": "#/$defs/one"}, "maxItems": 2}},
  "$defs": {"one": {"type": "object", "properties": {
    "x": {"type": "number", "exclusiveMaximum": 5}}}}}"""


@pytest.mark.parametrize(
    ("path", "payloads"),
    [
        ("payload.to", [{}, {"to": "a"}]),
        ("payload.n", [{"to": "a@", "n": 0}, {"to": "a@", "n": 1.5}]),
        ("payload.kind", [{"to": "a@", "kind": "c"}]),
        ("payload.more", [{"to": "a@", "more": 1}]),
        ("payload.many[1].x", [{"to": "a@", "many": [{}, {"x": 5}]}]),
        ("payload.many", [{"to": "a@", "many": [{}, {}, {}]}]),
    ],
)
def test_a_payload_is_checked_against_its_types_schema(
    engine: Engine, path: str, payloads: list[Json]
) -> None:
    """An enqueue checks the payload against the JSON schema of the job type.

    The error names the path in the payload.
    """
    engine.register("mail", payload_schema=json.loads(SCHEMA))
    engine.enqueue({"to": "a@b", "n": None, "kind": "a", "many": [{"x": 4.9}]}, job_type="mail")
    for payload in payloads:
        response = refused(engine.enqueue, payload, job_type="mail")
        assert response == ("PT422", "payload_invalid", path)


def test_a_queue_exists_once_a_type_or_a_worker_names_it(engine: Engine) -> None:
    """An enqueue into a queue that no job type and no worker has named is rejected."""
    lanes = "select count(*) from queue.lanes"
    bulk: Json = {"options": {"queue": "bulk"}}

    before = engine.one(lanes)
    for response in (
        refused(engine.enqueue, queue="bulk"),
        refused(engine.enqueue_many, 1, queue="bulk"),
        refused(engine.put_schedule, **bulk),
    ):
        assert response[:2] == ("PT422", "unknown_queue")
    assert engine.one(lanes) == before

    engine.lease_call(0, queues=["bulk"])
    engine.put_schedule(**bulk)
    own = engine.enqueue(queue="bulk")
    assert ids_of(engine.lease(queues=["bulk"])) == [own]
    engine.lease_call(0, queues=["bulk", "slow"])
    engine.run("set lock_timeout = '500ms'")
    with engine.open_transaction() as other:
        both = {other.enqueue(queue="slow"), engine.enqueue(queue="slow")}
    assert engine.rpc("queue_health")["backlog"]["jobs"] == 2
    assert set(ids_of(engine.lease(queues=["slow"]))) == both

    nightly = {"name": "n", "cron": "@daily", "options": {"queue": "night"}}
    moved = [{"job_type": "work", "queue": f"q{number}"} for number in range(101)]
    answer = publish(engine, {"job_type": "nightly", "schedules": [nightly]}, *moved)
    assert answer == {"registered": 102, "refused": []}


def test_between_two_deploys_the_younger_one_holds(engine: Engine) -> None:
    """If workers of two deploys register a job type, the options of the later deploy apply.

    A worker without a deploy time counts as older, and a deploy time in the future counts as now.
    """
    engine.stop_clock()
    schedules = {"schedules": [{"name": "n", "cron": "0 7 * * *"}]}
    runs = "select next_at, last_slot_at from queue.schedules"
    young = {"job_type": "t", "deployed_at": "2026-02-01T00:00:00Z", "commit": "b"}
    publish(engine, {**young, **schedules, "max_concurrency": 5, "schema_version": 2})
    [(next_at, _)] = engine.rows(runs)

    for older in ({}, {"deployed_at": "2026-01-01T00:00:00Z"}, {**young, "schema_version": 1}):
        changed = {"max_concurrency": 1, "schema_version": 3, "schedules": []}
        answer = publish(engine, {**changed, **older, "job_type": "t"})
        assert answer == {"registered": 0, "refused": []}
    assert known(engine, "t")["max_concurrency"] == 5
    assert engine.rows(runs) == [(next_at, None)]
    for version in ("+a", "+b", "+c"):
        # projects that share a database serve the internal type too
        types = ["t", "webhook_delivery"]
        engine.lease_call(0, worker=version, job_types=types, version=version)
    found = engine.findings()["two_codes"]
    assert found["cause"] == "they serve t"
    assert found["sentence"].endswith("+a and +b and +c; +b is of the newest deploy.")

    back = {"job_type": "t", "deployed_at": "9999-01-01T00:00:00Z", "max_concurrency": 2}
    assert publish(engine, {**back, "schedules": []})["registered"] == 1
    assert engine.rows(runs) == []
    engine.advance((next_at - engine.now()).total_seconds() + 60)
    again = {**back, **schedules, "deployed_at": later(engine, 0), "max_concurrency": 3}
    assert publish(engine, again)["registered"] == 1
    assert (known(engine, "t")["max_concurrency"], known(engine, "t")["schema_version"]) == (3, 1)
    engine.maintain()
    assert engine.rows(runs) == [(next_at + timedelta(days=1), next_at)]
    assert engine.count("jobs") == 1
    engine.rpc("revoke_worker_keys", p_before="2026-01-01T00:00:00Z")
    assert (
        engine.rows("select deployed_at from queue.job_types where deployed_at is not null") == []
    )


def test_a_job_whose_type_is_gone_waits_for_one_and_leaves_nothing(engine: Engine) -> None:
    """A due job whose type was deleted waits until a worker registers the type.

    When the job is cancelled, it leaves no row of queue.unpublished.
    """
    engine.register()
    job_id = engine.enqueue(delay_seconds=10)
    engine.run("delete from queue.job_types where job_type = 'work'")
    engine.run("delete from queue.lanes where job_type = 'work'")
    engine.elapse(20)
    assert engine.rows("select job_id::text from queue.unpublished") == [job_id]
    engine.cancel(job_id)
    assert engine.rows("select job_id from queue.unpublished") == []
