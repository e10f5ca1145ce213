"""Webhooks: the endpoints, the order of deliveries, and when the engine disables an endpoint."""

import re
from typing import Any

import pytest

from tests.contract.observed import refused
from tests.support.engine import ACME, SEALED, Engine, Json, handle


def put(engine: Engine, **webhook: Any) -> Json:
    """Change a webhook."""
    return engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=webhook)


def subscribe(engine: Engine, *event_types: str) -> str:
    """Create a webhook for these event types, or for all, and return its id."""
    engine.publish_deliveries()
    return engine.put_webhook(event_types=list(event_types) or None)["id"]


def shown(engine: Engine) -> Json:
    """Return the only webhook as `list_webhooks` shows it."""
    [webhook] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    return webhook


def read_feed(engine: Engine) -> None:
    """Let maintenance read the event feed again."""
    engine.elapse(1.1)


def deliver(engine: Engine, *, ok: bool = True, **result: Any) -> list[Json]:
    """Send all due deliveries as a worker does, and return them in order."""
    sent: list[Json] = []
    read_feed(engine)
    while leases := engine.lease(50, job_types=["webhook_delivery"]):
        for lease in leases:
            sent.append(engine.rpc("webhook_to_send", p_request=handle(lease)))
            outcome = {"ok": ok, "status": 200 if ok else 503, "message": "503 from upstream"}
            if sent[-1]["send"]:
                engine.rpc("webhook_sent", p_request={**handle(lease), **outcome, **result})
            engine.settle(lease, "completed" if ok else "retry")
    return sent


def warned(engine: Engine) -> str:
    """Return the sentence of the finding about the only webhook."""
    found = engine.overview(ACME)["findings"]
    [warning] = [each for each in found if each["reason"].startswith("webhook_")]
    [step] = warning["next"]
    assert (step["path"], step["words"].startswith("Fix the endpoint")) == ("/webhooks", True)
    assert ("the secret" in step["words"]) is (warning["cause"][:3] == "401")
    return warning["sentence"]


def types(sent: list[Json], job_id: str) -> list[str]:
    """Return the types of the delivered events of a job."""
    return [m["body"]["type"] for m in sent if m["body"]["data"]["job_id"] == job_id]


def test_what_commits_late_is_delivered_and_counted(engine: Engine) -> None:
    """An event whose transaction commits late is delivered and counted in the statistics."""
    subscribe(engine, "job.created")
    with engine.open_transaction() as other, engine.open_transaction() as gone:
        late = other.enqueue()
        gone.enqueue()
        early = engine.enqueue()
        engine.advance(6)  # statistics read the feed every five seconds
        engine.maintain()
        gone.run("rollback")

    assert {m["body"]["data"]["job_id"] for m in deliver(engine)} == {late, early}
    engine.elapse(6)
    stats = engine.rpc("queue_stats", p_workspace_id=ACME)["types"]
    assert (stats["work"]["enqueued"], stats["webhook_delivery"]["completed"]) == (2, 2)
    points = engine.rpc("queue_series", p_workspace_id=ACME)["points"]
    assert {point["job_type"] for point in points} == {"work"}


def test_what_cannot_be_enqueued_is_delivered_once_it_can(engine: Engine) -> None:
    """A delivery that cannot be enqueued is enqueued later.

    Until then, the webhook shows the reason.
    """
    subscribe(engine, "job.created")
    engine.run("update queue.webhooks set last_status = 200")
    change = "update queue.job_types set payload_schema = %s where job_type = 'webhook_delivery'"
    engine.run(change, '{"required": ["never"]}')
    job_id = engine.enqueue()
    read_feed(engine)
    found = shown(engine)
    assert re.match("no delivery could be enqueued: .*never", found["last_answer"])
    assert found["last_status"] is None  # of an earlier delivery

    engine.run(change, None)
    with engine.open_transaction("select from queue.webhooks for update"):
        read_feed(engine)  # a locked webhook causes no error
    assert types(deliver(engine), job_id) == ["job.created"]


def test_a_transaction_of_any_size_is_read_in_parts(engine: Engine) -> None:
    """Maintenance reads the events of a transaction with 6,000 jobs in several calls."""
    subscribe(engine, "job.completed")
    engine.stop_clock()
    with engine.open_transaction() as other:
        for _ in range(6):
            other.enqueue_many(1000)
        other.complete(other.lease(1, call=2))

    assert [len(deliver(engine)) for _ in range(2)] == [0, 1]


def test_a_call_that_settles_and_leases_is_delivered_whole(engine: Engine) -> None:
    """A webhook gets the completion and the lease of one call, and then the second completion."""
    engine.enqueue_many(2)
    [first] = engine.lease(1)
    subscribe(engine)
    engine.complete(engine.complete_and_lease([first]))
    sent = deliver(engine)

    [second] = {m["body"]["data"]["job_id"] for m in sent} - {first["job"]["id"]}
    assert types(sent, first["job"]["id"]) == ["job.completed"]
    assert types(sent, second) == ["job.leased", "job.completed"]


def test_a_later_event_of_a_job_waits_until_the_one_before_has_ended(engine: Engine) -> None:
    """A job's later event is not delivered before the delivery of its earlier event has ended.

    Events of other jobs do not wait.
    """
    subscribe(engine, "job.created", "job.completed")
    job_id = engine.enqueue()
    assert types(deliver(engine, ok=False), job_id) == ["job.created"]

    engine.settle(engine.lease_one(job_types=["work"]))
    other = engine.enqueue()
    sent = deliver(engine)
    assert (types(sent, job_id), types(sent, other)) == ([], ["job.created"])

    engine.advance(30)
    assert types(deliver(engine), job_id) == ["job.created", "job.completed"]

    third = engine.enqueue()
    read_feed(engine)
    created = engine.lease_one(job_types=["webhook_delivery"])
    engine.complete(engine.lease(job_types=["work"]))
    read_feed(engine)
    engine.settle(created, "failed")
    assert types(deliver(engine), third) == ["job.completed"]


def test_an_endpoint_that_fails_for_an_hour_is_disabled_with_its_reason(engine: Engine) -> None:
    """An endpoint that fails for an hour is disabled with its last error.

    When it is enabled again, a new hour begins.
    """
    hook = subscribe(engine, "job.created")
    engine.enqueue_many(50)
    assert len(deliver(engine, ok=False)) == 50
    assert (shown(engine)["enabled"], shown(engine)["failures"]) == (True, 50)
    assert "https://example.com has failed 50 times in a row" in warned(engine)
    put(engine, id=hook, description="orders", url=None)
    assert "https://example.com (orders) has failed" in warned(engine)
    engine.enqueue()
    deliver(engine, ok=False, status=401)
    assert "failed 51 times" in warned(engine)

    engine.advance(3700)
    deliver(engine, ok=False)
    failed = shown(engine)
    assert (failed["enabled"], failed["disabled_at"] > failed["failing_since"]) == (False, True)
    reason = "no delivery succeeded since 20.*503 from upstream"
    assert re.match(reason, failed["disabled_reason"])
    assert warned(engine) == "The webhook to https://example.com (orders) is disabled."

    engine.advance(30)
    engine.enqueue()
    assert {m["reason"] for m in deliver(engine)} == {"webhook_disabled"}
    again = put(engine, id=hook, enabled=True)
    assert (again["failures"], again["disabled_at"], again["failing_since"]) == (0, None, None)


def test_a_report_does_not_wait_for_another_report_of_its_webhook(engine: Engine) -> None:
    """A tenant's failing endpoint must not occupy the connections of other tenants."""
    subscribe(engine, "job.created")
    engine.enqueue()
    read_feed(engine)
    report = handle(engine.lease_one(job_types=["webhook_delivery"])) | {"ok": False}
    with engine.open_transaction("select from queue.webhooks for no key update"):
        assert refused(engine.rpc, "webhook_sent", p_request=report)[1] == "job_busy"
    assert engine.rpc("webhook_sent", p_request=report)["failures"] == 1


def test_one_success_ends_the_time_that_counts_and_410_is_for_good(engine: Engine) -> None:
    """An endpoint that succeeds once in an hour stays enabled.

    An endpoint that returns 410 is disabled immediately.
    """
    subscribe(engine, "job.created")
    for ok in (False, True, False, False):
        engine.enqueue()
        deliver(engine, ok=ok)
        engine.advance(1500)
    assert shown(engine)["enabled"] is True
    engine.enqueue()
    deliver(engine, ok=False, status=410)
    assert (shown(engine)["enabled"], "410" in shown(engine)["disabled_reason"]) == (False, True)


PRIVATE = """
http://example.com https://localhost/x https://10.0.0.1/x https://2130706433/ https://0x7f.1/
https://[::1]/ https://a.internal/ https://user@example.com/ ftp://example.com/ https://single/
https://①.①.①.①/"""
ODD = ["https://exa mple.com/", "https://a.example/x\r\nHost: b", None]


@pytest.mark.parametrize("url", [*PRIVATE.split(), *ODD])
def test_private_and_odd_addresses_are_refused(engine: Engine, url: str | None) -> None:
    """A webhook's URL with a private address in any notation is rejected."""
    result = refused(engine.put_webhook, url=url)
    assert result == ("PT400", "invalid_argument", "url")


def test_an_unknown_job_type_of_a_webhook_is_a_problem(engine: Engine) -> None:
    """A webhook for a job type that no worker has served shows the nearest name."""
    assert engine.put_webhook(job_types=["work"])["problem"] is None
    problem = engine.put_webhook(job_types=["work", "works"])["problem"]
    assert problem == "no worker has served the job type works; the nearest is work"
    listed = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert [each["problem"] for each in listed] == [None, problem]
    assert engine.put_webhook(job_types=["works"], enabled=False)["problem"] is None


def test_only_managers_read_a_webhooks_whole_address(engine: Engine, bob: Engine) -> None:
    """A member who is no manager sees only the host of a webhook's URL.

    The path may be a secret.
    """
    engine.put_webhook(url="https://example.com/secret")
    assert shown(bob)["url"] == "https://example.com/…"


def test_a_test_sends_the_latest_event_whatever_is_subscribed(engine: Engine) -> None:
    """`test_webhook` delivers the latest event of any type.

    Before the first event, it is rejected.
    """
    hook = {"p_workspace_id": ACME, "p_webhook_id": subscribe(engine, "a.b")}
    assert refused(engine.rpc, "test_webhook", **hook)[:2] == ("PT409", "no_event")
    job_id = engine.enqueue()

    engine.rpc("test_webhook", **hook)

    assert [one["body"]["data"]["job_id"] for one in deliver(engine)] == [job_id]


def test_a_secret_rotates_with_overlap(engine: Engine) -> None:
    """For a day after a change of the secret, deliveries are signed with both secrets."""
    hook, new = subscribe(engine, "job.created"), f"{SEALED}bmV3"
    put(engine, id=hook, sealed_secret=new)

    for seconds, sealed in ((3600, [new, SEALED]), (82_000, [new, SEALED]), (2000, [new])):
        engine.advance(seconds)
        put(engine, id=hook, description="d", url=None, enabled=None)
        engine.enqueue()
        assert deliver(engine)[0]["sealed_secrets"] == sealed
