"""Job types: each is registered for itself, and what a worker publishes is bounded."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.contract.observed import complete, refused
from tests.support.engine import ACME, Engine, ids_of


def publish(engine: Engine, *types: dict[str, Any]) -> Any:
    """Register types in one call."""
    return engine.rpc("register_job_types", p_types=list(types))


def known(engine: Engine, job_type: str) -> Any:
    """The type as people see it."""
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
def test_a_type_that_is_refused_stops_no_other(engine: Engine, bad: dict[str, Any]) -> None:
    """The refusal is stored with the type and shown; its policy of before holds."""
    publish(engine, {"job_type": "bad", "max_concurrency": 7})
    answer = publish(
        engine, {"job_type": "first"}, {"job_type": "bad", **bad}, {"job_type": "last"}
    )

    assert [refused["job_type"] for refused in answer["refused"]] == ["bad"]
    assert {known(engine, name)["refusal"] for name in ("first", "last")} == {None}
    shown = known(engine, "bad")
    assert shown["refusal"]
    assert shown["max_concurrency"] == 7
    for name in ("first", "bad", "last"):
        engine.enqueue(job_type=name)
    publish(engine, {"job_type": "bad"})
    assert known(engine, "bad")["refusal"] is None


def test_jobs_of_a_type_refused_at_its_first_registration_wait(engine: Engine) -> None:
    """As those of a type that was never published, with the reason."""
    publish(engine, {"job_type": "bad", "max_concurrency": 0})
    job = engine.enqueue(job_type="bad")

    said = engine.rpc("explain_job", p_job_id=job)
    assert (said["reason"], said["data"]["published"]) == ("no_processor", False)
    assert "concurrency is at least 1" in said["cause"].replace("_", " ")
    assert engine.lease() == []


def test_an_older_worker_that_waited_for_a_newer_one_sees_what_it_published(engine: Engine) -> None:
    """It does not take the type for one that no one has published."""
    engine.run("update queue.job_types set in_order = true")
    with engine.beside() as newer, ThreadPoolExecutor(1) as threads:
        newer.run("begin")
        publish(newer, {"job_type": "work", "schema_version": 2})
        waiting = threads.submit(publish, engine, {"job_type": "work", "max_concurrency": 1})
        engine.until_waiting()
        newer.run("commit")
        waiting.result()

    work = known(engine, "work")
    assert (work["schema_version"], work["max_concurrency"], work["in_order"]) == (2, None, True)
    publish(engine, {"job_type": "work", "schema_version": 2, "max_concurrency": 2})
    assert known(engine, "work")["max_concurrency"] == 2


def test_limits_that_change_hold_for_jobs_that_wait_and_run(engine: Engine) -> None:
    """In both directions, gates of keys too."""
    publish(engine, {"job_type": "work", "key_concurrency": 1})
    engine.enqueue_many(4, concurrency_key="k")
    assert len(engine.lease(4)) == 1
    publish(engine, {"job_type": "work", "key_concurrency": 3})
    assert len(engine.lease(4)) == 2
    publish(engine, {"job_type": "work"})
    assert len(engine.lease(4)) == 1

    engine.enqueue_many(4)
    publish(engine, {"job_type": "work", "max_concurrency": 5})
    assert len(engine.lease(4)) == 1
    publish(engine, {"job_type": "work", "max_concurrency": 4})
    assert engine.lease(4) == []
    publish(engine, {"job_type": "work"})
    assert len(engine.lease(4)) == 3


def test_jobs_that_are_held_while_the_limit_of_their_key_goes_start_without_it(
    engine: Engine,
) -> None:
    """A person who cancels them thinks again: the gate must neither keep nor count them."""
    publish(engine, {"job_type": "work", "key_concurrency": 1})
    jobs = engine.enqueue_many(3, concurrency_key="k")
    engine.lease_call(0)
    with engine.beside() as other:
        other.run("begin")
        for job_id in jobs:
            other.rpc("cancel_job", p_job_id=job_id)
        publish(engine, {"job_type": "work"})
        other.run("rollback")

    leases = engine.lease(3, call=2)
    assert ids_of(leases) == jobs
    complete(engine, leases)


SCHEMA = """{"type": "object", "required": ["to"], "additionalProperties": false, "properties": {
  "to": {"type": "string", "minLength": 2, "pattern": "@"}, "kind": {"enum": ["a", "b"]},
  "n": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
  "many": {"type": "array", "items": {"$ref": "#/$defs/one"}, "maxItems": 2}},
  "$defs": {"one": {"type": "object", "properties": {
    "x": {"type": "number", "exclusiveMaximum": 5}}}}}"""


@pytest.mark.parametrize(
    ("path", "payloads"),
    [
        (None, [{"to": "a@b", "n": None, "kind": "a", "many": [{"x": 4.9}]}]),
        ("payload.to", [{}, {"to": "a"}]),
        ("payload.n", [{"to": "a@", "n": 0}, {"to": "a@", "n": 1.5}]),
        ("payload.kind", [{"to": "a@", "kind": "c"}]),
        ("payload.more", [{"to": "a@", "more": 1}]),
        ("payload.many[1].x", [{"to": "a@", "many": [{}, {"x": 5}]}]),
        ("payload.many", [{"to": "a@", "many": [{}, {}, {}]}]),
    ],
)
def test_a_payload_is_checked_against_its_types_schema(
    engine: Engine, path: str | None, payloads: list[dict[str, Any]]
) -> None:
    """As pydantic writes schemas; the refusal names the path."""
    publish(engine, {"job_type": "mail", "payload_schema": json.loads(SCHEMA)})
    for payload in payloads:
        if path is None:
            engine.enqueue(payload, job_type="mail")
        else:
            said = refused(engine.enqueue, payload, job_type="mail")
            assert said == ("PT422", "payload_invalid", path)


def test_a_queue_exists_once_a_type_or_a_worker_names_it(engine: Engine) -> None:
    """An option makes none; to declare one is never refused, whatever others named."""
    lanes = "select count(*) from queue.lanes"
    schedule = {"name": "s", "cron": "@daily", "job_type": "work", "options": {"queue": "bulk"}}

    engine.register("work")
    before = engine.one(lanes)
    for function, arguments in (
        ("enqueue_job", {"p_job_type": "work", "p_options": {"queue": "bulk"}}),
        ("enqueue_jobs", {"p_jobs": [{"job_type": "work", "queue": "bulk"}]}),
        ("put_schedule", {"p_schedule": schedule}),
    ):
        said = refused(engine.rpc, function, p_workspace_id=ACME, **arguments)
        assert said[:2] == ("PT422", "unknown_queue")
    assert engine.one(lanes) == before

    engine.lease_call(0, queues=["bulk"])
    engine.rpc("put_schedule", p_workspace_id=ACME, p_schedule=schedule)
    own = engine.enqueue(queue="bulk")
    assert ids_of(engine.lease(queues=["bulk"])) == [own]

    nightly = {"name": "n", "cron": "@daily", "options": {"queue": "night"}}
    moved = [{"job_type": "work", "queue": f"q{number}"} for number in range(101)]
    answer = publish(engine, {"job_type": "nightly", "schedules": [nightly]}, *moved)
    assert answer == {"registered": 102, "refused": []}
