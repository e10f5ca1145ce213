"""What the clock starts and what is told to others: once, in order, and by its own workspace."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.engine import ACME, Engine, handle

SEALED = "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="
OF = {"p_workspace_id": ACME}


def put(engine: Engine, **schedule: Any) -> None:
    """Make a schedule that is due every minute, unless given."""
    made = {"name": "s", "cron": "* * * * *", "job_type": "work", **schedule}
    engine.rpc("put_schedule", **OF, p_schedule=made)


def made(engine: Engine) -> int:
    return int(engine.one("select count(*) from public.jobs where job_type = 'work'"))


def to_next_minute(engine: Engine, minutes: int = 1) -> None:
    left = engine.one("select 61 - extract(second from queue.clock())::float")
    engine.advance(left + 60 * (minutes - 1))


def test_racing_ticks_fire_a_slot_once(engine: Engine) -> None:
    """No leader: the schedule decides."""
    put(engine, payload={"from": "clock"})
    to_next_minute(engine)

    engine.race(*[lambda other: other.lease_call(0)] * 8)

    assert made(engine) == 1
    assert engine.lease_one()["job"]["payload"] == {"from": "clock"}
    to_next_minute(engine)
    engine.maintain()
    assert made(engine) == 2


@pytest.mark.parametrize(("missed", "jobs"), [("skip", 0), ("once", 1), ("all", 60)])
def test_missed_runs_are_made_up_for_by_policy(engine: Engine, missed: str, jobs: int) -> None:
    """And then it continues at the next minute."""
    put(engine, missed=missed)
    to_next_minute(engine, 60)
    for _ in range(2):
        engine.maintain()
    assert jobs <= made(engine) <= jobs + 1

    before = made(engine)
    to_next_minute(engine)
    engine.maintain()
    assert made(engine) == before + 1


# --- Webhooks ---


def subscribe(engine: Engine, **webhook: Any) -> dict[str, Any]:
    """Make a webhook of Acme's."""
    hook = {"url": "https://hooks.example.com/in", "sealed_secret": SEALED, **webhook}
    return dict(engine.rpc("put_webhook", **OF, p_webhook=hook))


def deliver(engine: Engine, *, ok: bool = True) -> list[dict[str, Any]]:
    """Let a worker send everything that is due; return what it sent, in order."""
    sent: list[dict[str, Any]] = []
    engine.advance(2)
    while leases := engine.lease(50, job_types=["webhook_delivery"]):
        for lease in leases:
            message = engine.rpc("webhook_to_send", p_request=handle(lease))
            sent.append(message)
            if message["send"]:
                told = {"ok": ok, "status": 200 if ok else 503, "message": "503 from upstream"}
                engine.rpc("webhook_sent", p_request={**handle(lease), **told})
            engine.settle(lease, "completed" if ok else "retry", error={"type": "E"})
    return sent


def listed(engine: Engine) -> dict[str, Any]:
    [hook] = engine.rpc("list_webhooks", **OF)["webhooks"]
    return dict(hook)


def test_each_state_change_is_delivered_in_order_per_job(engine: Engine) -> None:
    """Also when one has to be tried again: the next waits for it."""
    subscribe(engine)
    engine.enqueue()
    first = deliver(engine, ok=False)
    assert [message["body"]["type"] for message in first] == ["job.created"]
    engine.settle(engine.lease_one(job_types=["work"]))
    engine.advance(60)

    told = [message["body"]["type"] for message in deliver(engine)]
    assert told == ["job.created", "job.leased", "job.completed"]


def test_a_delivery_that_failed_for_good_does_not_fail_the_next(engine: Engine) -> None:
    """What the receiver refused once is not the fault of what follows."""
    subscribe(engine)
    engine.enqueue()
    engine.advance(2)
    [refused] = engine.lease(1, job_types=["webhook_delivery"])
    engine.settle(engine.lease_one(job_types=["work"]))
    engine.lease(0)
    engine.maintain()
    engine.settle(refused, "failed", error={"type": "HTTPStatus", "message": "400"})

    told = [message["body"]["type"] for message in deliver(engine)]
    assert told == ["job.leased", "job.completed"]


def test_a_webhook_that_keeps_failing_is_disabled_and_may_be_enabled_again(engine: Engine) -> None:
    """With all of its tries."""
    engine.rpc("set_settings", p_settings={"webhook_failures_max": 3})
    hook = subscribe(engine)
    engine.enqueue_many(4)
    for _ in range(4):
        deliver(engine, ok=False)
    assert (listed(engine)["enabled"], "503" in listed(engine)["disabled_reason"]) == (False, True)

    engine.rpc("put_webhook", **OF, p_webhook={"id": hook["id"], "enabled": True})
    engine.enqueue()
    deliver(engine, ok=False)
    assert listed(engine)["enabled"] is True


def test_a_secret_rotates_with_overlap(engine: Engine) -> None:
    """Two signatures for a day while receivers change over, whatever else is changed."""
    hook, new = subscribe(engine), f"{SEALED}bmV3"
    engine.rpc("put_webhook", **OF, p_webhook={"id": hook["id"], "sealed_secret": new})

    for seconds, sealed in ((3600, [new, SEALED]), (82_000, [new, SEALED]), (2000, [new])):
        engine.advance(seconds)
        engine.rpc("put_webhook", **OF, p_webhook={"id": hook["id"], "description": "d"})
        engine.enqueue()
        assert deliver(engine)[0]["sealed_secrets"] == sealed
