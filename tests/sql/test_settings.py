# ruff: noqa: E501 - requests stay on one line
"""Limits, retention and settings that operators and managers change while it runs."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal


def test_a_manager_throttles_the_workspace_but_cannot_lift_the_operators_cap(
    engine: Engine,
) -> None:
    """The smaller of both holds; a limit that is raised lets jobs start at once."""
    engine.stop_clock()
    most = {"max_running": 5, "max_pending": 100, "weight": 2.5}
    assert engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits=most) == {
        "workspace_id": ACME, "own_max_running": None, **most,
    }  # fmt: skip
    engine.enqueue_many(20)
    with engine.member(ADA) as ada:
        ada.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits={"own_max_running": 2})
        assert len(engine.lease(20)) == 2
        assert engine.lease(20) == []  # which sets the workspace aside for a second
        ada.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits={"own_max_running": 50})
        assert len(engine.lease(20)) == 3
        engine.enqueue(workspace=GLOBEX)
        engine.lease_one()
        limits = ada.rpc("workspace_limits", p_workspace_id=ACME)
    assert limits.items() >= {**most, "own_max_running": 50, "running": 5}.items()
    assert limits["per_caller"] == {
        "enqueues_per_second": 50, "enqueues_burst": 10_000, "stream_opens_per_second": 5,
        "stream_opens_burst": 100, "calls_at_once": 8,
    }  # fmt: skip
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
        eve.rpc("workspace_limits", p_workspace_id=ACME)
    assert refusal(refused.value)[:2] == ("PT404", "workspace_not_found")
    none = dict.fromkeys(most, None)
    lifted = engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits=none)
    assert lifted == {"workspace_id": ACME, "own_max_running": 50, **none, "weight": 1}
    assert len(engine.lease(20)) == 15


@pytest.mark.parametrize(
    ("user", "limits", "answer"),
    [(ADA, {"max_running": 5}, "PT403"), (ADA, {"weight": 9}, "PT403"), (ADA, {"max_pending": None}, "PT403"), (BOB, {"own_max_running": 1}, "PT403"),
     (EVE, {"own_max_running": 1}, "PT404"), (ADA, {"own_max_running": -1}, "PT400"), (ADA, {"own_max_running": "x"}, "PT400"), (ADA, {"typo": 1}, "PT400")],
)  # fmt: skip
def test_what_people_may_not_set_is_refused(
    engine: Engine, user: str, limits: dict[str, Any], answer: str
) -> None:
    """Weight and caps are what tenants share."""
    with engine.member(user) as person, pytest.raises(psycopg.Error) as refused:
        person.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits=limits)

    assert refused.value.sqlstate == answer


def test_a_new_project_has_the_defaults_that_are_documented(engine: Engine) -> None:
    """What an operator does not set is a promise too."""
    defaults = {
        "payload_max_bytes": 262_144, "result_max_bytes": 262_144, "idempotency_ttl_seconds": 86_400,
        "lost_attempts_max": 5, "members_see_tracebacks": False, "refuse_unserved_types": False,
        "retention_days": {"completed": 30, "cancelled": 30, "failed": 90},
        "user_pending_max": 100_000, "schedule_runs_per_minute": 240,
        "user_enqueues_per_second": 50, "user_enqueues_burst": 10_000, "user_calls_at_once": 8,
        "user_stream_opens_per_second": 5, "user_stream_opens_burst": 100, "webhook_failures_max": 20,
        "max_schedules": 1000, "max_webhooks": 50,
        "max_pauses": 500, "max_events": 100_000, "max_sessions": 100_000,
    }  # fmt: skip

    kept = dict(engine.rows("select name, value from queue.settings"))
    assert {name: kept.get(name) for name in defaults} == defaults


def test_settings_are_changed_by_name_and_checked(engine: Engine) -> None:
    """A typo must not be stored."""
    days = {"completed": 0, "cancelled": 2, "failed": 36500}

    for good in ({"retention_days": days}, {"realtime_messages_per_second": "pro"}, {"realtime_messages_per_second": 1},
                 {"client_address_header": "x-real-ip"}, {"allow_anonymous": True}, {"lost_attempts_max": 1}, {"chat_guest_messages_per_day": 1}):  # fmt: skip
        assert engine.rpc("set_settings", p_settings=good).items() >= good.items()
    for bad in ({"retention_days": {"completed": 1}}, {"retention_days": {**days, "x": 1}}, {"lost_attempts_max": 0}, {"lost_attempts_max": "9"}, {"typo": 1},
                {"retention_days": {**days, "failed": 1.5}}, {"retention_days": 5}, {"lost_attempts_max": 1.5},
                {"retention_days": {**days, "failed": "1"}}, {"retention_days": {**days, "failed": 36501}}, {"realtime_messages_per_second": "plan"},
                {"realtime_messages_per_second": 0}, {"worker_url": 1},
                {"allow_anonymous": "true"}, {"chat_guest_messages_per_day": 0}, {"chat_guest_messages_per_day": "1"}):  # fmt: skip
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("set_settings", p_settings={"lost_attempts_max": 7, **bad})
        assert refusal(refused.value) == ("PT400", "invalid_argument", next(iter(bad)))
    assert engine.one("select value from queue.settings where name = 'lost_attempts_max'") == 1
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("set_settings", p_settings=[])
    assert refusal(refused.value) == ("PT400", "invalid_argument", "settings")


def test_registering_again_keeps_what_operators_set(engine: Engine) -> None:
    """A worker's start must not lift a pause or a retention."""
    engine.run(
        "update queue.job_types set retention_days = %s where job_type = 'work'", '{"completed": 1}'
    )
    engine.rpc("pause_jobs", p_request={"kind": "job_type", "name": "work"})

    engine.register("work")

    assert engine.one(
        "select retention_days is not null and paused_at is not null from queue.job_types where job_type = 'work'"
    )
