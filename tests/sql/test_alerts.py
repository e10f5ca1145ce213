"""Thresholds: raised once, resolved once, told by the outbox; who may set what."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal

#: What the API stores in place of a signing secret.
SEALED = "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="

FAILED = {"name": "failures", "metric": "failed", "threshold": 2}


def put(engine: Engine, **alert: Any) -> dict[str, Any]:
    """Keep an alert of Acme's."""
    return dict(engine.rpc("put_alert", p_workspace_id=ACME, p_alert={**FAILED, **alert}))


def fail(engine: Engine, count: int, *, workspace: str = ACME) -> None:
    """Let jobs fail."""
    engine.enqueue_many(count, workspace=workspace)
    engine.run_all("failed", error={"type": "Boom", "message": "no"})


def look(engine: Engine) -> int:
    """Look at all alerts; returns how many changed."""
    return int(engine.one("select queue.check_alerts(queue.clock())"))


def announced(engine: Engine) -> list[str]:
    """What was announced, in order."""
    return engine.rows(
        "select type from public.job_events where type like 'alert.%%' order by created_at"
    )


def test_it_is_raised_once_and_resolved_once(engine: Engine) -> None:
    """However often it is looked at meanwhile."""
    assert put(engine)["minutes"] == 15
    fail(engine, 1)
    assert look(engine) == 0
    engine.run("select queue.roll_up(queue.clock())")
    fail(engine, 1)
    assert [look(engine), look(engine)] == [1, 0]
    [alert] = engine.rpc("list_alerts", p_workspace_id=ACME)["alerts"]
    assert (alert["value"], alert["raised_at"] is not None) == (2, True)

    engine.advance(16 * 60)

    assert [look(engine), look(engine)] == [1, 0]
    assert announced(engine) == ["alert.raised", "alert.resolved"]


def test_webhooks_get_the_alert_and_nothing_of_its_job(engine: Engine) -> None:
    """The same outbox, signed and in order; the job that carries it is not news."""
    engine.rpc(
        "put_webhook",
        p_workspace_id=ACME,
        p_webhook={"url": "https://hooks.example.com/x", "sealed_secret": SEALED},
    )
    engine.run("delete from queue.outbox")
    put(engine, metric="queued", threshold=1)
    engine.run("update queue.webhooks set event_types = array['alert.raised', 'job.completed']")
    engine.enqueue()
    look(engine)
    engine.maintain()
    [carrier] = engine.lease(5, job_types=["alert"])
    engine.settle(carrier)
    engine.maintain()

    sent = []
    while leases := engine.lease(5, job_types=["webhook_delivery"]):
        for lease in leases:
            handle = {"job_id": lease["job"]["id"], "fence": lease["fence"]}
            sent.append(engine.rpc("webhook_to_send", p_request=handle)["body"])
            engine.settle(lease)
    assert [body["type"] for body in sent] == ["alert.raised"]
    assert sent[0]["data"]["name"] == "failures"


@pytest.mark.parametrize(
    ("metric", "threshold", "expected"),
    [
        ("failure_share", 0.5, True),
        ("failure_share", 0.7, False),
        ("failed", 4, True),
        ("queued", 50, False),
        ("oldest_due_seconds", 900, False),
        ("queue_p95_seconds", 100, True),
        ("queue_p95_seconds", 900, False),
        ("database_share", 0.9, True),
    ],
)
def test_each_metric_is_measured(
    engine: Engine, metric: str, threshold: float, expected: bool
) -> None:
    """Four of seven failed, three after minutes; nothing is due; the plan is nearly full."""
    put(engine, metric=metric, threshold=threshold)
    fail(engine, 4)
    engine.enqueue_many(3)
    engine.advance(200)
    engine.run_all()
    engine.run("insert into queue.storage_samples values (queue.clock(), 7.5e9 * 1.1, 0, 0)")
    look(engine)

    assert engine.one("select raised_at is not null from queue.alerts") is expected


def test_a_share_is_of_five_jobs_at_least(engine: Engine) -> None:
    """One failure of one job is no share; the fifth makes it one."""
    put(engine, metric="failure_share", threshold=0.5)
    fail(engine, 4)
    assert look(engine) == 0

    fail(engine, 1)

    assert look(engine) == 1


def test_what_is_due_for_long_is_noticed_until_nothing_is(engine: Engine) -> None:
    """The oldest due job's age, also when no one leases; the alert's own job is not one of them."""
    put(engine, metric="oldest_due_seconds", threshold=60)
    put(engine, name="waiting", metric="queued", threshold=1)
    engine.enqueue()
    assert look(engine) == 1

    engine.advance(90)
    assert look(engine) == 1
    [lease] = engine.lease(job_types=["work"])
    engine.settle(lease)
    engine.advance(90)

    assert look(engine) == 2
    assert sorted(announced(engine)) == ["alert.raised"] * 2 + ["alert.resolved"] * 2


@pytest.mark.parametrize(
    ("metric", "threshold"),
    [
        ("failed", 2), ("queued", 1), ("oldest_due_seconds", 60), ("unserved", 1), ("lost", 1),
        ("schedule_late_seconds", 60),
    ],
)  # fmt: skip
def test_what_another_workspace_has_is_not_counted(
    engine: Engine, metric: str, threshold: float
) -> None:
    """Unless an operator watches the whole."""
    put(engine, metric=metric, threshold=threshold)
    put(engine, name="everything", metric=metric, threshold=threshold, whole=True)
    fail(engine, 3, workspace=GLOBEX)
    engine.register("forgotten")
    engine.enqueue(job_type="forgotten", workspace=GLOBEX)
    engine.enqueue(workspace=GLOBEX)
    engine.lease_one(job_types=["work"], lease_seconds=1)
    engine.advance(600)
    engine.lease_call(0, job_types=["work"])
    schedule = {"name": "n", "cron": "* * * * *", "job_type": "work"}
    engine.rpc("put_schedule", p_workspace_id=GLOBEX, p_schedule=schedule)
    engine.run("update queue.schedules set next_at = queue.clock() - interval '5 minutes'")

    look(engine)

    assert engine.rows("select name from queue.alerts where raised_at is not null") == [
        "everything"
    ]


def test_maintenance_looks_by_itself_once_a_minute(engine: Engine) -> None:
    """Also in a queue that is idle."""
    put(engine, metric="queued", threshold=1)
    engine.enqueue(delay_seconds=30)
    engine.maintain()
    engine.advance(61)
    engine.maintain()
    engine.advance(61)

    assert engine.one("select queue.maintenance_is_due(queue.clock())")
    engine.maintain()
    assert announced(engine) == ["alert.raised"]


def test_more_alerts_than_one_look_takes_have_their_turn(engine: Engine) -> None:
    """Those made last would otherwise never be looked at."""
    engine.run("update queue.settings set value = '1000' where name = 'max_alerts'")
    engine.run(
        "insert into queue.alerts (workspace_id, name, metric, threshold)"
        " select %s, n, 'failed', 1 from generate_series(1, 201) as n",
        ACME,
    )

    for left in (1, 0):
        look(engine)
        unseen = "select count(*) from queue.alerts where checked_at is null"
        assert engine.one(unseen) == left


def test_one_of_a_type_watches_no_other_and_one_switched_off_none(engine: Engine) -> None:
    """Switched on again, it may be raised again."""
    engine.register("other")
    put(engine, job_type="other", threshold=1)
    waiting = {"name": "waiting", "job_type": "other", "metric": "queued", "threshold": 1}
    put(engine, **waiting)
    fail(engine, 1)
    engine.enqueue()
    assert look(engine) == 0

    engine.enqueue(job_type="other")
    assert look(engine) == 1
    listed = engine.rpc("list_alerts", p_workspace_id=ACME)["alerts"]
    assert [each["name"] for each in listed] == ["waiting", "failures"], "raised ones first"
    assert put(engine, **waiting)["raised_at"] is not None
    assert put(engine, **waiting, enabled=False)["raised_at"] is None
    assert look(engine) == 0
    put(engine, **waiting)
    assert look(engine) == 1


def test_an_alerts_address_is_kept_and_given_to_its_job_alone(engine: Engine) -> None:
    """Who knows the address may write there."""
    post = {"format": "slack", "host": "hooks.slack.com", "sealed_url": SEALED}
    shown = {"format": "slack", "host": "hooks.slack.com"}
    queued = {"metric": "queued", "threshold": 1}
    assert put(engine, **queued, post=post)["post"] == shown
    assert put(engine, **queued)["post"] == shown
    [listed] = engine.rpc("list_alerts", p_workspace_id=ACME)["alerts"]
    engine.enqueue()
    look(engine)
    [carrier] = engine.lease(5, job_types=["alert"])
    handle = {"job_id": carrier["job"]["id"], "fence": carrier["fence"]}

    assert listed["post"] == shown
    assert engine.rpc("alert_recipients", p_request=handle)["post"] == {
        **post, "private_addresses": False,
    }  # fmt: skip
    assert put(engine, **queued, post=None)["post"] is None


def test_the_job_of_an_alert_is_tried_for_long(engine: Engine) -> None:
    """Eight times, up to an hour apart: the chat service may be what has failed."""
    policy = "max_attempts, backoff_first_seconds, backoff_cap_seconds, timeout_seconds, internal"
    found = f"select {policy} from queue.job_types where job_type = 'alert'"

    assert engine.one(found) == (8, 10, 3600, 60, True)


POST = {"format": "json", "host": "example.com", "sealed_url": SEALED}


@pytest.mark.parametrize(
    ("alert", "status", "word"),
    [
        ({"metric": "sorrow"}, 422, "invalid_argument"),
        ({"threshold": None}, 400, "invalid_argument"),
        ({"threshold": -1}, 400, "invalid_argument"),
        ({"metric": "failure_share", "threshold": 5}, 400, "invalid_argument"),
        ({"minutes": 0}, 400, "invalid_argument"),
        ({"minutes": 1441}, 400, "invalid_argument"),
        ({"colour": "red"}, 400, "invalid_argument"),
        ({"job_type": "wrok"}, 422, "unknown_job_type"),
        ({"mail": ["ada@acme.test", "stranger@example.com"]}, 422, "invalid_argument"),
        ({"mail": ["eve@globex.test"]}, 422, "invalid_argument"),
        ({"post": {**POST, "format": "xml"}}, 422, "invalid_argument"),
        ({"post": {**POST, "host": "example.com/x"}}, 422, "invalid_argument"),
        ({"post": {**POST, "sealed_url": "https://example.com"}}, 422, "invalid_argument"),
        ({"post": {**POST, "sealed_url": f"{SEALED}{4000 * 'x'}"}}, 422, "invalid_argument"),
        ({"post": {**POST, "token": "x"}}, 422, "invalid_argument"),
        ({"post": "https://example.com"}, 422, "invalid_argument"),
        ({"whole": True}, 403, "forbidden"),
        ({"metric": "database_share", "threshold": 0.8}, 403, "forbidden"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    engine: Engine, alert: dict[str, Any], status: int, word: str
) -> None:
    """Mail goes to members only: nobody writes to strangers through us."""
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as error:
        put(ada, **alert)

    assert refusal(error.value)[:2] == (f"PT{status}", word)


def test_members_read_and_managers_write(engine: Engine) -> None:
    """As with webhooks; one of the same name in another workspace is another."""
    put(engine)
    with engine.member(BOB) as bob:
        [alert] = bob.rpc("list_alerts", p_workspace_id=ACME)["alerts"]
        assert engine.rpc("list_alerts")["alerts"] == [{**alert, "workspace_name": "Acme"}]
        engine.rpc("put_alert", p_workspace_id=GLOBEX, p_alert=FAILED)
        assert bob.rpc("list_alerts", p_workspace_id=ACME)["alerts"] == [alert]
        with pytest.raises(psycopg.Error) as error:
            put(bob)
    put(engine, name="kept")
    with engine.member(ADA) as ada:
        assert refusal(error.value)[:2] == ("PT403", "forbidden")
        delete = {"p_workspace_id": ACME, "p_name": "failures"}
        assert ada.rpc("delete_alert", **delete) == {"deleted": "failures"}
        with pytest.raises(psycopg.Error) as error:
            ada.rpc("delete_alert", **delete)
        assert refusal(error.value) == ("PT404", "alert_not_found", "failures")
    left = "select name, workspace_id::text from queue.alerts order by name"
    assert engine.rows(left) == [("failures", GLOBEX), ("kept", ACME)]
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as error:
        eve.rpc("list_alerts", p_workspace_id=ACME)
    assert refusal(error.value)[:2] == ("PT404", "workspace_not_found")


def test_mail_goes_to_those_who_are_members_when_it_is_sent(engine: Engine) -> None:
    """A removed member reads no more figures; the event that endpoints get has no address."""
    put(engine, metric="queued", threshold=1, mail=["Ada@acme.test", "bob@acme.test"])
    engine.enqueue()
    look(engine)
    [carrier] = engine.lease(5, job_types=["alert"])
    handle = {"job_id": carrier["job"]["id"], "fence": carrier["fence"]}
    assert engine.rpc("alert_recipients", p_request=handle) == {
        "workspace_id": ACME,
        "post": None,
        "mail": ["ada@acme.test", "bob@acme.test"],
    }
    assert "mail" not in carrier["job"]["payload"]

    engine.rpc("remove_member", p_workspace_id=ACME, p_member="bob@acme.test")

    assert engine.rpc("alert_recipients", p_request=handle)["mail"] == ["ada@acme.test"]


def test_a_metric_is_a_row_and_a_function(engine: Engine) -> None:
    """Added in those two places, it is listed, refused by name, measured and announced."""
    engine.run(
        "insert into queue.alert_metrics (name, words) values ('moon_share', 'share of the moon')"
    )
    metric = (
        "create or replace function queue.metric_moon_share(queue.alerts, p_now timestamptz)"
        " returns float8 language sql as $$ select {}::float8 $$"
    )
    engine.run(metric.format(0.75))

    put(engine, metric="moon_share", threshold=0.5)
    with pytest.raises(psycopg.Error, match=r"metric must be one of failed, .*, moon_share"):
        put(engine, metric="sun")
    assert look(engine) == 1
    [data] = engine.rows("select data from public.job_events where type = 'alert.raised'")
    assert (data["words"], data["value"]) == ("share of the moon", 0.75)
    listed = engine.rpc("list_alerts", p_workspace_id=ACME)["metrics"]
    assert listed[-1] == {"name": "moon_share", "words": "share of the moon", "whole": False}
    engine.run(metric.format("null"))
    assert look(engine) == 1, "without a value it is resolved"


def test_a_resolved_alert_says_since_when(engine: Engine) -> None:
    """How long it lasted is what people ask next."""
    put(engine)
    fail(engine, 2)
    assert look(engine) == 1
    since = "select data ->> 'raised_at' from public.job_events where type = 'alert.' || %s"
    raised = engine.one(since, "raised")
    engine.advance(16 * 60)
    assert look(engine) == 1

    assert engine.one(since, "resolved") == raised


def test_unserved_types_lost_workers_and_late_schedules_raise_alerts(engine: Engine) -> None:
    """What no failed job reports."""
    engine.register("forgotten")
    engine.enqueue_many(3, job_type="forgotten")
    put(engine, name="u", metric="unserved", threshold=3)
    put(engine, name="l", metric="lost", threshold=1)
    late = {"metric": "schedule_late_seconds", "threshold": 60}
    put(engine, name="s", **late)
    put(engine, name="o", **late, job_type="forgotten")
    engine.enqueue()
    engine.lease_one(job_types=["work"], lease_seconds=1)
    engine.advance(2)
    engine.lease_call(0, job_types=["work"])
    for name in ("on", "off", "held"):
        schedule = {"name": name, "cron": "@daily", "job_type": "work", "enabled": name != "off"}
        engine.rpc("put_schedule", p_workspace_id=ACME, p_schedule=schedule)
    engine.run(
        "update queue.schedules set next_at = queue.clock()"
        " - case name when 'on' then interval '5 minutes' else '1 day' end,"
        " held_until = case name when 'held' then queue.clock() else '-infinity' end"
    )

    engine.run("select queue.check_alerts(queue.clock())")

    alerts = engine.rpc("list_alerts", p_workspace_id=ACME)["alerts"]
    values = {alert["name"]: (alert["value"], alert["raised_at"] is not None) for alert in alerts}
    assert values["u"] == (3, True)
    assert values["l"] == (1, True)
    assert (values["s"][1], values["o"]) == (True, (0, False))
    assert 300 <= values["s"][0] < 86400
