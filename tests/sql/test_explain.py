# ruff: noqa: E501 - requests stay on one line
"""explain_job: one sentence and data for every reason a job is not running."""

from __future__ import annotations

from typing import Any

from tests.support.engine import ACME, ADA, Engine


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
    first = engine.enqueue(delay_seconds=99)
    said = explain(engine, engine.enqueue(after=[first]))
    assert (said["reason"], said["data"]["live"]) == ("waiting_for_jobs", 1)


def test_pauses_say_who_and_why(engine: Engine) -> None:
    """The four kinds, and the engine's own."""
    job_id = engine.enqueue()
    for pause, word in (
        ({"kind": "job_type", "name": "work"}, "type_paused"), ({"kind": "queue", "name": "default"}, "queue_paused"),
        ({"kind": "workspace", "name": ACME}, "workspace_paused"),
        ({"kind": "workspace_type", "name": "work", "workspace_id": ACME}, "workspace_type_paused"),
    ):  # fmt: skip
        engine.rpc("pause_jobs", p_request={**pause, "by": "ops", "reason": "new keys"})
        said = explain(engine, job_id)
        assert said["reason"] == word
        assert "by ops: new keys" in said["sentence"]
        engine.rpc("pause_jobs", p_request={**pause, "paused": False})


def test_missing_workers_and_processors_are_distinguished(engine: Engine) -> None:
    """'Nothing runs' and 'nothing runs this' need different hands."""
    engine.stop_clock()
    job_id = engine.enqueue()
    assert explain(engine, job_id)["sentence"] == "No worker has ever been seen."
    engine.lease_call(0, job_types=["other"])
    assert reason(engine, job_id) == "no_processor"
    engine.advance(400)
    assert explain(engine, job_id)["sentence"] == "No worker has been seen for 6 minutes."


def test_each_limit_is_named_with_its_numbers(engine: Engine) -> None:
    """3 of 3 of key k."""
    policies: dict[str, dict[str, Any]] = {
        "key_limit": {"key_concurrency": 2}, "workspace_type_limit": {"workspace_concurrency": 2},
        "type_limit": {"max_concurrency": 2}, "rate_limited": {"rate_limit": {"limit": 2, "per_seconds": 600}},
    }  # fmt: skip
    for number, (word, policy) in enumerate(policies.items()):
        engine.register(f"t{number}", **policy)
        engine.enqueue_many(3, job_type=f"t{number}", concurrency_key="k")
        assert len(engine.lease(10)) == 2
        [left] = engine.rows(
            "select id::text from public.jobs where status = 'pending' and job_type = %s",
            f"t{number}",
        )
        said = explain(engine, left)
        assert said["reason"] == word
        if word != "rate_limited":
            assert said["data"] == {"running": 2, "limit": 2}
        else:
            assert said["estimated_start_at"] is not None

    engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits={"max_running": 8})
    assert reason(engine, engine.enqueue()) == "workspace_limit"


def test_a_place_in_the_line_is_counted_and_estimated(engine: Engine) -> None:
    """Seven before it, at the pace of the last ten minutes."""
    engine.enqueue_many(60)
    engine.run_all()
    engine.enqueue_many(5)
    engine.enqueue_many(2, priority=5)
    engine.enqueue(priority=900)
    last = engine.enqueue()

    said = explain(engine, last)

    assert said["sentence"] == "It is behind 7 jobs of its workspace."
    assert said["estimated_start_at"] is not None


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
