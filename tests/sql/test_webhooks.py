# ruff: noqa: E501 - requests stay on one line
"""The outbox: what is delivered, in which order, to whom, and when the engine gives up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, handle, refusal

URL = "https://hooks.example.com/in"
SEALED = "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="


def subscribe(engine: Engine, **webhook: Any) -> dict[str, Any]:
    """Make a webhook of Acme's."""
    made = {"url": URL, "sealed_secret": SEALED, **webhook}
    return dict(engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=made))


def deliver(engine: Engine, *, ok: bool = True) -> list[dict[str, Any]]:
    """Let a worker send everything that is due; return what it sent, in order."""
    sent: list[dict[str, Any]] = []
    while leases := engine.lease(50, job_types=["webhook_delivery"]):
        for lease in leases:
            message = engine.rpc("webhook_to_send", p_request=handle(lease))
            sent.append(message)
            if message["send"]:
                engine.rpc(
                    "webhook_sent",
                    p_request={
                        **handle(lease),
                        "ok": ok,
                        "status": 200 if ok else 503,
                        "message": "503 from upstream",
                    },
                )
            if ok:
                engine.settle(lease)
            else:
                engine.settle(lease, "retry", error={"type": "HTTPStatus", "message": "503"})
    return sent


def test_each_state_change_is_delivered_in_order_per_job(engine: Engine) -> None:
    """One after the other, also when many jobs move at once."""
    subscribe(engine)
    jobs = engine.enqueue_many(3)
    leases = engine.lease(3, job_types=["work"])
    for lease in leases:
        engine.report(lease, progress={"percentage": 5}, logs=[{"level": "info", "message": "m"}])
        engine.settle(lease)

    sent = deliver(engine)

    for job_id in jobs:
        types = [m["body"]["type"] for m in sent if m["body"]["data"]["job_id"] == job_id]
        assert types == ["job.created", "job.leased", "job.completed"]
    assert len(sent) == 9
    assert len({m["message_id"] for m in sent}) == 9
    assert sent[0]["message_id"] == f"evt_{sent[0]['body']['data']['job_id'].replace('-', '')}_1"


def test_an_event_waits_for_the_retry_of_the_one_before(engine: Engine) -> None:
    """Otherwise 'completed' would arrive before 'created'."""
    engine.stop_clock()
    subscribe(engine)
    engine.enqueue()
    first = deliver(engine, ok=False)
    assert [m["body"]["type"] for m in first] == ["job.created"]
    engine.settle(engine.lease_one(job_types=["work"]))

    assert deliver(engine) == []
    engine.advance(60)

    assert [m["body"]["type"] for m in deliver(engine)] == [
        "job.created",
        "job.leased",
        "job.completed",
    ]


def test_one_tenants_flood_leaves_room_for_anothers_event(engine: Engine) -> None:
    """Ten endpoints told of hundreds of jobs; the one event after all that goes with the first."""
    for number in range(10):
        subscribe(engine, url=f"{URL}/{number}", event_types=["job.created"])
    theirs = {"url": URL, "sealed_secret": SEALED, "event_types": ["job.created"]}
    engine.rpc("put_webhook", p_workspace_id=GLOBEX, p_webhook=theirs)
    seen = [engine.rpc("list_webhooks", p_workspace_id=of)["webhooks"] for of in (None, ACME)]
    assert [len(listed) for listed in seen] == [11, 10]
    engine.enqueue_many(200)
    job_id = engine.enqueue(workspace=GLOBEX)

    engine.lease(0)

    assert engine.one("select count(*) from queue.outbox") > 1000
    assert engine.one("select count(*) from queue.outbox where job_id = %s", job_id) == 0
    while engine.one("select count(*) from queue.outbox"):
        engine.lease(0)
    assert engine.one("select count(*) from queue.last_deliveries") == 2001


def test_what_cannot_be_enqueued_is_delivered_once_it_can(engine: Engine) -> None:
    """Nothing of it is lost or overtaken, the endpoint says why, another's events go on."""
    hook = subscribe(engine)
    engine.run(
        "create temporary table kept as select * from queue.job_types where job_type = 'webhook_delivery'"
    )
    engine.run("delete from queue.job_types where job_type = 'webhook_delivery'")
    engine.enqueue()
    engine.settle(engine.lease_one(job_types=["work"]))
    engine.lease(0)
    [shown] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert (shown["id"], "webhook_delivery" in shown["problem"]) == (hook["id"], True)

    engine.run("insert into queue.job_types select * from kept")
    engine.run("drop table kept")
    assert [m["body"]["type"] for m in deliver(engine)] == [
        "job.created",
        "job.leased",
        "job.completed",
    ]
    assert engine.one("select count(*) from queue.outbox") == 0


def test_an_event_whose_delivery_would_wait_is_not_overtaken(engine: Engine) -> None:
    """By the next of its job, for which nothing would be waited: a later call has both."""
    subscribe(engine)
    engine.run(
        "create function pg_temp.waits() returns trigger language plpgsql as 'begin raise lock_not_available; end'"
    )
    engine.run(
        "create trigger waits before insert on public.jobs for each row when (new.payload ->> 'seq' = '1') execute function pg_temp.waits()"
    )
    engine.enqueue()
    engine.settle(engine.lease_one(job_types=["work"]))
    engine.lease(0)
    engine.run("drop trigger waits on public.jobs")

    assert [m["body"]["type"] for m in deliver(engine)] == [
        "job.created",
        "job.leased",
        "job.completed",
    ]


def test_a_rolled_back_change_is_not_delivered(engine: Engine) -> None:
    """The outbox is part of the transaction."""
    subscribe(engine)
    with engine.beside() as other:
        other.run("begin")
        other.enqueue()
        other.run("rollback")

    assert deliver(engine) == []


def test_a_webhook_gets_only_what_it_asked_for(engine: Engine) -> None:
    """By event, by job type, and never another tenant's."""
    engine.register("other")
    subscribe(engine, event_types=["job.completed", "job.progress"], job_types=["work"])
    engine.enqueue(job_type="other")
    engine.enqueue(workspace=GLOBEX)
    wanted = engine.enqueue()
    for lease in engine.lease(job_types=["work", "other"]):
        engine.report(lease, progress={"percentage": 5})
        engine.settle(lease)

    sent = deliver(engine)

    assert [(m["body"]["type"], m["body"]["data"]["job_id"]) for m in sent] == [
        ("job.progress", wanted),
        ("job.completed", wanted),
    ]


def test_a_secret_is_kept_sealed_and_rotates_with_overlap(engine: Engine) -> None:
    """The database holds what it cannot open; two signatures while receivers change over."""
    made = subscribe(engine)
    [listed] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert "secret" not in "".join({*made, *listed})
    rotation = {"id": made["id"], "sealed_secret": f"{SEALED}bmV3"}

    rotated = engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=rotation)

    assert "secret" not in "".join(rotated)
    engine.enqueue()
    assert deliver(engine)[0]["sealed_secrets"] == [f"{SEALED}bmV3", SEALED]
    for seconds, sealed in ((86_300, [f"{SEALED}bmV3", SEALED]), (101, [f"{SEALED}bmV3"])):
        engine.advance(seconds)
        changed = {"id": made["id"], "description": "a change of anything else"}
        engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=changed)
        engine.enqueue()
        assert deliver(engine)[0]["sealed_secrets"] == sealed


@pytest.mark.parametrize("secret", [None, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "mh1.a", f"{SEALED} {SEALED}", "mh1.a.b." + "c" * 4000])  # fmt: skip
def test_a_plain_secret_is_refused(engine: Engine, secret: str | None) -> None:
    """Whoever reads the database must find none."""
    with pytest.raises(psycopg.Error) as refused:
        subscribe(engine, sealed_secret=secret)

    assert refusal(refused.value)[:2] == ("PT400", "invalid_argument")


def test_an_endpoint_that_does_not_answer_gets_less_and_less_patience(engine: Engine) -> None:
    """Ten seconds of a slot each, fifty at once, is what an attack would be made of."""
    subscribe(engine)
    engine.enqueue_many(7)
    leases = engine.lease(7, job_types=["webhook_delivery"])
    offered = []
    while leases:
        for lease in leases:
            offered.append(engine.rpc("webhook_to_send", p_request=handle(lease))["answer_ms"])
            timed_out = len(offered) < 6
            note = {"ok": False, "message": "no answer", "timed_out": timed_out}
            engine.rpc("webhook_sent", p_request={**handle(lease), **note})
            engine.settle(lease)
        leases = engine.lease(7, job_types=["webhook_delivery"])

    assert offered == [10000, 5000, 2500, 1250, 1000, 1000, 10000]


def test_a_delivery_is_tried_twelve_times_over_half_a_day(engine: Engine) -> None:
    """At first every few seconds, then every two hours; two at once for an endpoint."""
    policy = (
        "max_attempts, backoff_first_seconds, backoff_cap_seconds, backoff_factor, key_concurrency"
    )
    found = f"select {policy} from queue.job_types where job_type = 'webhook_delivery'"

    assert engine.one(found) == (12, 10, 7200, 3, 2)


def test_a_workspaces_deliveries_hold_three_slots(engine: Engine) -> None:
    """However many endpoints it has, so that others' jobs find a slot."""
    for number in range(10):
        subscribe(engine, url=f"{URL}/{number}")
    engine.enqueue_many(10)

    leases = engine.lease(50, job_types=["webhook_delivery"])

    assert len(leases) == 3


def test_a_webhook_that_keeps_failing_is_disabled_with_its_reason(engine: Engine) -> None:
    """And its pending deliveries are not sent; enabled again, it has all its tries."""
    engine.stop_clock()
    assert engine.one("select queue.setting('webhook_failures_max')") == 20
    engine.run("update queue.settings set value = '3' where name = 'webhook_failures_max'")
    made = subscribe(engine)
    for _ in range(4):
        engine.enqueue()
    deliver(engine, ok=False)

    [listed] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert listed["enabled"] is False
    assert (
        listed["disabled_reason"]
        == "3 deliveries in a row failed, the last with: 503 from upstream"
    )
    engine.advance(600)
    assert {m["reason"] for m in deliver(engine)} == {"webhook_disabled"}

    engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook={"id": made["id"], "enabled": True})
    engine.enqueue()
    assert [m["send"] for m in deliver(engine, ok=False)] == [True]
    [listed] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    noted = ("enabled", "failures", "last_status", "problem", "last_delivered_at")
    assert [listed[name] for name in noted] == [True, 1, 503, "503 from upstream", None]
    engine.advance(600)
    deliver(engine)
    [listed] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert [listed[name] for name in noted[:-1]] == [True, 0, 200, None]
    assert listed["last_delivered_at"] is not None


def test_a_change_of_one_field_leaves_the_others(engine: Engine) -> None:
    """Of its counts alone those that the change makes void; and another webhook as it is."""
    other = subscribe(engine, url=f"{URL}/other")
    made = subscribe(engine, description="d", event_types=["job.failed"], job_types=["work"])
    counts = {"failures": 2, "timeouts": 3}
    engine.run("update queue.webhooks set failures = 2, timeouts = 3, disabled_reason = 'r'")
    made |= {**counts, "disabled_reason": "r"}
    changes: list[dict[str, Any]] = [
        {"description": "e"}, {"event_types": None}, {"job_types": None}, {"enabled": False},
        {"url": f"{URL}/2", "timeouts": 0}, {"enabled": True, "failures": 0, "disabled_reason": None},
    ]  # fmt: skip
    for change in changes:
        wanted = {"id": made["id"], **{k: change[k] for k in change if k not in {*counts, "disabled_reason"}}}  # fmt: skip
        made |= change
        assert engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=wanted) == made
    kept = "select url from queue.webhooks where id = %s"
    assert engine.one(kept, other["id"]) == f"{URL}/other"


def test_events_of_a_webhook_that_was_deleted_are_dropped(engine: Engine) -> None:
    """Its address may be another's by now."""
    made = subscribe(engine)
    engine.enqueue()
    engine.rpc("delete_webhook", p_workspace_id=ACME, p_webhook_id=made["id"])

    assert deliver(engine) == []
    assert engine.one("select count(*) from queue.outbox") == 0


def test_events_from_before_a_webhook_was_disabled_are_dropped(engine: Engine) -> None:
    """Nor those from the time between: none is sent on the day that it is enabled again."""
    subscribe(engine, url=f"{URL}/other", event_types=["job.failed"])
    made = subscribe(engine, event_types=["job.completed", "job.cancelled"])
    engine.enqueue()
    engine.settle(engine.lease_one())
    assert engine.one("select count(*) from queue.outbox") == 1
    for enabled in (False, True):
        webhook = {"id": made["id"], "enabled": enabled}
        engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=webhook)
        if not enabled:
            engine.maintain()
            engine.rpc("cancel_job", p_job_id=engine.enqueue())

    assert deliver(engine) == []


def test_a_webhook_whose_endpoint_is_gone_is_disabled_at_once(engine: Engine) -> None:
    """One 410 Gone is enough, and a later enabling starts anew."""
    made = subscribe(engine)
    engine.enqueue()
    lease = engine.lease_one(job_types=["webhook_delivery"])

    noted = engine.rpc(
        "webhook_sent",
        p_request={**handle(lease), "ok": False, "status": 410, "message": "410 from upstream"},
    )

    assert noted["enabled"] is False
    [listed] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert listed["disabled_reason"] == "the endpoint answered 410: it is gone for good"
    again = {"id": made["id"], "enabled": True}
    enabled = engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=again)
    assert (
        enabled.items() >= {"enabled": True, "disabled_reason": None, "disabled_at": None}.items()
    )


def test_only_the_holder_of_a_delivery_learns_the_secret(engine: Engine) -> None:
    """Fenced like every other write of a worker."""
    subscribe(engine)
    engine.enqueue()
    assert engine.one("select queue.drain_outbox(10, queue.clock())") == 1
    lease = engine.lease_one(job_types=["webhook_delivery"])
    engine.settle(lease)
    work = engine.lease_one(job_types=["work"])

    for holder in (lease, work):
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("webhook_to_send", p_request=handle(holder))
        assert refusal(refused.value)[:2] == ("PT409", "lease_lost")


def test_a_zombies_delivery_counts_for_nothing(engine: Engine) -> None:
    """Its 410 would disable a webhook whose delivery another worker has by now."""
    subscribe(engine)
    engine.enqueue()
    zombie = engine.lease_one(job_types=["webhook_delivery"])
    engine.advance(120)
    assert engine.lease_one(job_types=["webhook_delivery"])["fence"] == 2

    failed = {"ok": False, "status": 410, "message": "410 from upstream"}
    noted = engine.rpc("webhook_sent", p_request={**handle(zombie), **failed})

    assert (noted["known"], noted["enabled"]) == (False, False)
    [listed] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert (listed["enabled"], listed["failures"]) == (True, 0)


def test_a_delivery_never_carries_another_workspaces_event(engine: Engine) -> None:
    """Whoever made it, and whatever job it names; nor one that is no more."""
    made = subscribe(engine)
    for job_id, seq in ((engine.enqueue(workspace=GLOBEX), 1), (engine.enqueue(), 99)):
        forged = {"webhook_id": made["id"], "job_id": job_id, "seq": seq}
        engine.enqueue(forged, job_type="webhook_delivery", priority=0)
        lease = engine.lease_one(limit=1, job_types=["webhook_delivery"])

        sending = engine.rpc("webhook_to_send", p_request=handle(lease))

        assert sending == {"send": False, "reason": "event_deleted"}


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "https://localhost/", "https://127.0.0.1/", "https://10.1.2.3/x", "https://192.168.0.1:8443/", "https://169.254.169.254/latest",
     "https://[::1]/", "https://[fe80::1]/", "https://[::ffff:10.0.0.1]/", "https://2130706433/", "https://0x7f.1/", "https://127.0.0.0x1/", "https://user:pw@example.com/",
     "https://db.internal/", "https://printer/", "ftp://example.com/", "https://", "https://100.64.0.1/", "https://127.1/",
     "https://0177.0.0.1/", "https://10.010.1.1/", "https://①②⑦.⓪.⓪.①/", "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "https://93.184.216。34/",
     "https://0.0.0.0/", "https://172.31.0.1/", "https://192.0.0.8/", "https://198.19.0.1/", "https://224.0.0.1/", "https://[::]/", "https://[64:ff9b::7f00:1]/",
     "https://[fd00::1]/", "https://[ff02::1]/", "https://example.com/".ljust(2001, "x")],
)  # fmt: skip
def test_private_and_odd_addresses_are_refused(engine: Engine, url: str) -> None:
    """A webhook must not become a way into the network."""
    with pytest.raises(psycopg.Error) as refused:
        subscribe(engine, url=url)

    assert refusal(refused.value) == ("PT400", "invalid_argument", "url")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://api.example.com:8443/a?b=c",
        "https://93.184.216.34/",
        "https://[2606:4700::1111]/",
        "https://münchen.example/",
        "https://10.example.com/",
        "https://0.pool.ntp.example/",
    ],
)
def test_public_addresses_are_accepted(engine: Engine, url: str) -> None:
    """With ports, queries and literal addresses."""
    assert subscribe(engine, url=url)["url"] == url


def test_a_setting_opens_private_addresses(engine: Engine) -> None:
    """For one's own machine, without encryption too; names and passwords in an address stay refused."""
    engine.rpc("set_settings", p_settings={"webhook_private_addresses": True})

    assert subscribe(engine, url="http://127.0.0.1:8000/")["url"] == "http://127.0.0.1:8000/"
    with pytest.raises(psycopg.Error):
        subscribe(engine, url="http://user:pw@127.0.0.1/")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"event_types": ["x" * 101]}, "event_types"), ({"event_types": ["job.created"] * 101}, "event_types"), ({"event_types": "x"}, "event_types"),
     ({"event_types": [""]}, "event_types"), ({"event_types": [5]}, "event_types"), ({"event_types": ["created"]}, "event_types"),
     ({"job_types": ["x" * 101]}, "job_types"), ({"url": None}, "url"), ({"typo": 1}, "typo"), ({"enabled": "perhaps"}, "webhook")],
)  # fmt: skip
def test_a_bad_webhook_is_refused_by_field(
    engine: Engine, change: dict[str, Any], field: str
) -> None:
    """What it wants is bounded, since each event is compared with it."""
    subscribe(engine, event_types=["job.created"] * 100, job_types=["x" * 100, "x"])
    with pytest.raises(psycopg.Error) as refused:
        subscribe(engine, **change)

    assert refusal(refused.value) == ("PT400", "invalid_argument", field)


@pytest.mark.parametrize(("user", "answer"), [(BOB, "PT403"), (EVE, "PT404")])
def test_only_managers_keep_webhooks(engine: Engine, user: str, answer: str) -> None:
    """They send the tenant's data away."""
    with engine.member(ADA) as ada:
        made = subscribe(ada)
        with engine.member(user) as person:
            for function, arguments in (
                ("put_webhook", {"p_webhook": {"url": URL}}), ("put_webhook", {"p_webhook": {"id": made["id"], "enabled": False}}),
                ("delete_webhook", {"p_webhook_id": made["id"]}),
            ):  # fmt: skip
                with pytest.raises(psycopg.Error) as refused:
                    person.rpc(function, p_workspace_id=ACME, **arguments)
                assert refused.value.sqlstate == answer
        ada.rpc("delete_webhook", p_workspace_id=ACME, p_webhook_id=made["id"])
        assert ada.rpc("list_webhooks", p_workspace_id=ACME) == {"webhooks": []}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.chat.example/services/T0/B0/s3cr3t?x=1", "https://hooks.chat.example/…"),
        ("https://hooks.chat.example:8443/s3cr3t", "https://hooks.chat.example:8443/…"),
    ],
)
def test_a_plain_member_reads_where_a_webhook_goes_and_not_its_address(
    engine: Engine, url: str, shown: str
) -> None:
    """Whoever has the address of a chat service's hook may write there."""
    made = subscribe(engine)
    engine.run("update queue.webhooks set url = %s where id = %s", url, made["id"])
    with engine.member(BOB) as bob:
        [seen] = bob.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    with engine.member(ADA) as ada:
        [known] = ada.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]

    assert (seen["url"], known["url"]) == (shown, url)


def test_another_workspaces_webhook_is_not_found_by_its_id(engine: Engine) -> None:
    """Ids are no secret."""
    made = subscribe(engine)

    for function, arguments in (
        ("put_webhook", {"p_webhook": {"id": made["id"], "url": URL}}), ("delete_webhook", {"p_webhook_id": made["id"]})
    ):  # fmt: skip
        with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
            eve.rpc(function, p_workspace_id=GLOBEX, **arguments)
        assert refusal(refused.value)[:2] == ("PT404", "webhook_not_found")


def test_a_delivery_made_in_another_workspace_reaches_no_webhook(engine: Engine) -> None:
    """Neither its address and secret, nor its count of failures, whoever made the job."""
    made = subscribe(engine)
    engine.enqueue(workspace=GLOBEX)
    forged = {"webhook_id": made["id"], "job_id": engine.enqueue(), "seq": 1}
    engine.enqueue(forged, job_type="webhook_delivery", workspace=GLOBEX, priority=0)
    lease = engine.lease_one(limit=1, job_types=["webhook_delivery"])
    assert lease["job"]["workspace_id"] == GLOBEX

    sending = engine.rpc("webhook_to_send", p_request=handle(lease))
    failed = {"ok": False, "status": 410, "message": "410 from upstream"}
    noted = engine.rpc("webhook_sent", p_request={**handle(lease), **failed})

    assert sending == {"send": False, "reason": "webhook_deleted"}
    assert noted["known"] is False
    [listed] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert (listed["enabled"], listed["failures"]) == (True, 0)


@pytest.mark.parametrize("user", [BOB, ADA])
def test_no_person_makes_a_delivery(engine: Engine, user: str) -> None:
    """By no function: one job, many, a row; a schedule."""
    engine.register("seal", internal=True)
    forged = {"webhook_id": ACME, "job_id": ACME, "seq": 1}
    with engine.member(user) as member:
        functions: list[Callable[[str], Any]] = [
            lambda t: member.enqueue(forged, job_type=t),
            lambda t: member.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=[{"job_type": "work"}, {"job_type": t}]),
            lambda t: member.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=[{"job_type": t, "priority": 1}]),
            lambda t: member.run("insert into public.jobs (workspace_id, job_type, status, user_id) values (%s, %s, 'pending', %s)", ACME, t, user),
        ]  # fmt: skip
        if user == ADA:
            schedule = {"name": "s", "cron": "* * * * *"}
            functions.append(lambda t: member.rpc("put_schedule", p_workspace_id=ACME, p_schedule={**schedule, "job_type": t}))  # fmt: skip
        for job_type in ("webhook_delivery", "seal"):
            for function in functions:
                with pytest.raises(psycopg.Error) as refused:
                    function(job_type)
                assert refusal(refused.value)[:2] == ("PT403", "forbidden")
    assert engine.one("select count(*) from public.jobs") == 0


def test_a_processor_spawns_internal_jobs_for_the_person_its_job_is_of(engine: Engine) -> None:
    """The platform's own code makes them, also on behalf of somebody."""
    engine.register("seal", internal=True)
    engine.register("seal")  # a worker that does not say leaves it as it is
    assert engine.one("select internal from queue.job_types where job_type = 'seal'") is True
    with engine.member(BOB) as bob:
        bob.enqueue()

    [child] = engine.spawn(engine.lease_one(), "seals", [{"job_type": "seal"}])

    assert str(engine.one("select user_id from public.jobs where id = %s", child)) == BOB


def test_a_delivery_that_failed_for_good_does_not_fail_the_next(engine: Engine) -> None:
    """They follow each other; what the receiver refused once is not the fault of what follows."""
    subscribe(engine)
    engine.enqueue()
    engine.lease(0)
    [refused] = engine.lease(1, job_types=["webhook_delivery"])
    engine.settle(engine.lease_one(job_types=["work"]))
    engine.lease(0)
    engine.maintain()
    engine.settle(refused, "failed", error={"type": "HTTPStatus", "message": "400"})
    engine.maintain()

    sent = [message["body"]["type"] for message in deliver(engine)]
    assert sent == ["job.leased", "job.completed"]


@pytest.mark.parametrize("answer", [{"ok": True, "status": 200}, {"ok": False, "status": 500}])
def test_one_that_was_switched_off_while_it_was_sent_to_stays_off(
    engine: Engine, answer: dict[str, Any]
) -> None:
    made = subscribe(engine)
    engine.enqueue()
    engine.run("select queue.drain_outbox(10, queue.clock())")
    lease = engine.lease_one(job_types=["webhook_delivery"])
    off = {"id": made["id"], "enabled": False}
    engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=off)

    noted = engine.rpc("webhook_sent", p_request={**handle(lease), **answer})

    assert noted["enabled"] is False
