# ruff: noqa: E501 - requests stay on one line
"""explain_job: one sentence and data for every reason a job is not running."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine


def explain(engine: Engine, job_id: str) -> dict[str, Any]:
    """What a member of the workspace is told."""
    with engine.member(ADA) as ada:
        said: dict[str, Any] = ada.rpc("explain_job", p_job_id=job_id)
    assert said["job_id"] == job_id
    assert said["sentence"].endswith((".", ".)")) or said["reason"] in {"failed", "asking"}
    return said


def reason(engine: Engine, job_id: str) -> str:
    """The stable word."""
    return str(explain(engine, job_id)["reason"])


def starts_in(engine: Engine, job_id: str) -> timedelta:
    """How far off its estimated start is, while the clock stands."""
    at = explain(engine, job_id)["estimated_start_at"]
    return timedelta(
        seconds=engine.one("select extract(epoch from %s::timestamptz - queue.clock())::float", at)
    )


def test_the_life_of_a_job_in_reasons(engine: Engine) -> None:
    """From scheduled to failed."""
    job_id = engine.enqueue(delay_seconds=60, max_attempts=2)
    said = explain(engine, job_id)
    assert (said["reason"], said["estimated_start_at"]) == ("scheduled", said["data"]["run_at"])
    engine.advance(61)
    assert reason(engine, job_id) == "due"
    engine.lease_call(0)
    assert reason(engine, job_id) == "next_in_line"
    lease = engine.lease_one(worker="w7")
    assert "w7" in explain(engine, job_id)["sentence"]
    engine.settle(lease, "snoozed", delay_seconds=30)
    assert reason(engine, job_id) == "snoozed"
    engine.advance(31)
    engine.settle(engine.lease_one(), "retry", error={"type": "E", "message": "no route"})
    said = explain(engine, job_id)
    assert said["reason"] == "backing_off"
    assert "no route" in said["sentence"]
    assert said["estimated_start_at"] == engine.job(job_id)["next_retry_at"]
    engine.advance(200)
    lease = engine.lease_one()
    engine.advance(61)
    assert reason(engine, job_id) == "lease_expired"
    engine.rpc("cancel_job", p_job_id=job_id)
    engine.report(lease)
    assert reason(engine, job_id) == "cancelling"
    engine.settle(lease, "cancelled")
    assert reason(engine, job_id) == "cancelled"


def test_each_kind_of_waiting_is_named(engine: Engine) -> None:
    """With what it waits for."""
    expected = {
        "sleeping": {"kind": "sleep", "name": "s", "until": "2099-01-01T00:00:00Z"},
        "asking": {"kind": "ask", "name": "s", "question": "Go on?"},
        "waiting_for_event": {"kind": "event", "name": "s", "event": "paid"},
        "waiting_for_children": {
            "kind": "children",
            "name": "s",
            "job_ids": [engine.enqueue(delay_seconds=99)],
        },
    }
    for word, wait in expected.items():
        job_id = engine.enqueue()
        engine.settle(engine.lease_one(), "waiting", wait=wait)
        assert reason(engine, job_id) == word


def test_an_end_says_how_it_came_about(engine: Engine) -> None:
    """Of a job's own, and of one that ended with another."""
    for outcome, attempts, end in (
        ("completed", 1, "UTC."), ("failed", 1, "UTC on its only attempt: E: m"), ("failed", 2, "UTC after 1 of 2 attempts: E: m")
    ):  # fmt: skip
        job_id = engine.enqueue(max_attempts=attempts)
        engine.settle(engine.lease_one(), outcome, error={"type": "E", "message": "m"})
        said = explain(engine, job_id)
        assert (said["reason"], said["sentence"].endswith(end)) == (outcome, True)
    engine.enqueue()
    lease = engine.lease_one()
    [child] = engine.spawn(lease, "s", [{"job_type": "work"}])
    engine.settle(lease, "failed", error={"type": "E", "message": "m"})
    engine.maintain()
    assert explain(engine, child)["sentence"].endswith(" because its parent ended.")


def test_pauses_say_who_and_why(engine: Engine) -> None:
    """The four kinds, and no other's."""
    engine.register("other")
    job_id = engine.enqueue()
    for pause in (
        {"kind": "job_type", "name": "other"}, {"kind": "queue", "name": "other"}, {"kind": "workspace", "name": GLOBEX},
        {"kind": "workspace_type", "name": "work", "workspace_id": GLOBEX}, {"kind": "workspace_type", "name": "other", "workspace_id": ACME},
    ):  # fmt: skip
        engine.rpc("pause_jobs", p_request=pause)
    assert reason(engine, job_id) == "no_worker"
    for pause, word in (
        ({"kind": "job_type", "name": "work"}, "type_paused"), ({"kind": "queue", "name": "default"}, "queue_paused"),
        ({"kind": "workspace", "name": ACME}, "workspace_paused"),
        ({"kind": "workspace_type", "name": "work", "workspace_id": ACME}, "workspace_type_paused"),
    ):  # fmt: skip
        engine.rpc("pause_jobs", p_request={**pause, "by": "ops", "reason": "new keys"})
        said = explain(engine, job_id)
        assert said["reason"] == word
        assert said["sentence"].endswith("by ops: new keys.")
        engine.rpc("pause_jobs", p_request={**pause, "paused": False})
    own = {"kind": "workspace", "name": ACME}
    with engine.member(ADA) as ada:
        ada.rpc("pause_jobs", p_request=own)
    assert " by ada@acme.test" in explain(engine, job_id)["sentence"]
    engine.rpc("pause_jobs", p_request={**own, "paused": False})


def test_missing_workers_and_processors_are_distinguished(engine: Engine) -> None:
    """'Nothing runs' and 'nothing runs this' need different hands."""
    engine.stop_clock()
    job_id = engine.enqueue()
    assert explain(engine, job_id)["sentence"] == "No worker has ever been seen."
    engine.run(
        "insert into queue.ticks (tick_id, worker_id, started_at, seen_at) select gen_random_uuid(), 'w', at, at"
        " from generate_series(queue.clock() - interval '3 hours', queue.clock() - interval '1 hour', '1 minute') as at"
    )
    engine.lease_call(0, job_types=["other"])
    engine.lease_call(0, queues=["other"])
    assert reason(engine, job_id) == "no_processor"
    engine.lease_call(0, queues=["default"], job_types=["work"])
    engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits={"max_running": 1})
    assert reason(engine, job_id) == "next_in_line"
    engine.advance(400)
    assert explain(engine, job_id)["sentence"] == "No worker has been seen for 6 minutes."


def test_each_limit_is_named_with_its_numbers(engine: Engine) -> None:
    """2 of 2 of key k, whatever runs of other keys, types and workspaces."""
    engine.stop_clock()
    beside: dict[str, Any] = {"workspace": GLOBEX, "concurrency_key": "k"}
    rate = {"limit": 2, "per_seconds": 600}
    policies: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
        ("key_limit", {"key_concurrency": 2}, [beside, {"concurrency_key": "o"}]),
        ("workspace_type_limit", {"workspace_concurrency": 2}, [beside]),
        ("type_limit", {"max_concurrency": 2}, []),
        ("rate_limited", {"rate_limit": rate}, []),
        ("rate_limited", {"rate_limit": {**rate, "per_key": True}}, [beside]),
    ]
    engine.register("earlier")
    engine.enqueue(job_type="earlier", concurrency_key="k")
    engine.lease_one()
    engine.advance(1)
    for number, (word, policy, others) in enumerate(policies):
        name = f"t{number}"
        engine.register(name, **policy)
        engine.run("update queue.job_types set run_p95_ms = 5000 where job_type = %s", name)
        for other in others:
            engine.enqueue(job_type=name, **other)
        assert len(engine.lease(10)) == len(others)
        engine.advance(1)
        jobs = engine.enqueue_many(3, job_type=name, concurrency_key="k")
        [begun] = engine.lease(1)
        jobs.remove(begun["job"]["id"])
        assert reason(engine, jobs[0]) in {"next_in_line", "behind_others"}
        assert len(engine.lease(10)) == 1
        [left] = engine.rows(
            "select id::text from public.jobs where status = 'pending' and job_type = %s", name
        )
        said = explain(engine, left)
        assert said["reason"] == word
        if word != "rate_limited":
            assert said["data"] == {"running": 2, "limit": 2}
        assert starts_in(engine, left) == timedelta(seconds=300 if word == "rate_limited" else 5)

    engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits={"max_running": 12})
    said = explain(engine, engine.enqueue())
    assert (said["reason"], said["data"]) == ("workspace_limit", {"running": 12, "limit": 12})


def test_a_place_in_the_line_is_counted_and_estimated(engine: Engine) -> None:
    """Seven before it, at the pace of the last ten minutes, by its own workspace alone."""
    engine.stop_clock()
    engine.enqueue_many(60)
    engine.enqueue_many(30, workspace=GLOBEX)
    engine.run_all()
    engine.enqueue_many(5)
    engine.enqueue_many(5, workspace=GLOBEX)
    engine.enqueue_many(2, priority=5)
    lower = engine.enqueue(priority=900)
    engine.advance(1)
    last = engine.enqueue()

    for _ in range(2):  # before and after the counts are rolled up
        assert explain(engine, last)["sentence"] == "It is behind 7 jobs of its workspace."
        assert starts_in(engine, last) == timedelta(seconds=70)
        engine.run("select queue.roll_up(queue.clock())")
    assert "behind 8 jobs" in explain(engine, lower)["sentence"]
    engine.enqueue_many(1001, priority=5)
    assert "behind more than 1000 jobs" in explain(engine, lower)["sentence"]
    engine.enqueue(workspace=GLOBEX, priority=1)
    second = engine.enqueue(workspace=GLOBEX, priority=2)
    with engine.member(EVE) as eve:
        said = eve.rpc("explain_job", p_job_id=second)
        with pytest.raises(psycopg.Error) as refused:
            eve.rpc("explain_job", p_job_id=last)
    assert said["sentence"] == "It is behind 1 job of its workspace."
    assert refused.value.sqlstate == "PT404"


def test_nothing_is_promised_while_nothing_is_leased(engine: Engine) -> None:
    """A worker is there and asks, but its leases bring nothing: waiting more will not help."""
    engine.stop_clock()
    job_id = engine.enqueue()
    engine.lease_call(0)
    assert reason(engine, job_id) == "next_in_line"

    engine.advance(40)
    engine.lease_call(0)

    said = explain(engine, job_id)
    assert said["reason"] == "not_leased"
    assert "next lease call" not in said["sentence"]
    assert "since it became ready 40" in said["sentence"]
    engine.register("other")
    engine.enqueue(job_type="other", workspace=GLOBEX)
    assert engine.lease(job_types=["other"])
    assert reason(engine, job_id) == "next_in_line"
