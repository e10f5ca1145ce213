# ruff: noqa: E501 - requests stay on one line
"""How long ended jobs are kept, and a schedule's future runs."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal


def test_a_types_own_retention_is_shorter_or_longer(engine: Engine) -> None:
    """Both directions against the setting of 30 days."""
    engine.register("brief")
    engine.register("kept")
    engine.run(
        "update queue.job_types set retention_days = %s where job_type = 'brief'",
        '{"completed": 1}',
    )
    engine.run(
        "update queue.job_types set retention_days = %s where job_type = 'kept'",
        '{"completed": 300}',
    )
    for job_type in ("work", "brief", "kept"):
        engine.enqueue(job_type=job_type)
    engine.run_all()

    def left(days: float) -> list[str]:
        engine.advance(days * 86400)
        engine.lease_call(0)
        engine.advance(601)
        engine.lease_call(0)
        return engine.rows("select job_type from public.jobs order by 1")

    assert left(2) == ["kept", "work"]
    assert left(30) == ["kept"]
    assert left(300) == []


def test_a_result_stays_while_its_parent_waits_for_a_slower_child(engine: Engine) -> None:
    """However long ago it ended; it leaves once its parent has it."""
    engine.enqueue()
    parent = engine.lease_one()
    children = engine.spawn(parent, "s", [{"job_type": "work"}, {"job_type": "work"}])
    engine.settle(parent, "waiting", wait={"kind": "children", "name": "all", "job_ids": children})
    quick, slow = engine.lease()
    engine.settle(quick, "completed", result="kept")
    engine.advance(40 * 86400)
    engine.maintain()  # the slow one's lease ran out: another attempt has it
    [slow] = engine.lease()
    engine.settle(slow, "completed", result="late")

    resumed = engine.lease_one()
    assert {one["result"] for one in resumed["steps"]["all"]["children"]} == {"kept", "late"}
    engine.settle(resumed, "waiting", wait={"kind": "event", "name": "e", "event": "later"})
    engine.advance(60)
    engine.maintain()
    assert engine.one("select count(*) from public.jobs where id = %s", quick["job"]["id"]) == 0


def test_next_runs_are_shown_for_a_schedule_and_for_an_expression(engine: Engine) -> None:
    """What a person wants to see before saving."""
    schedule = {"name": "nightly", "cron": "30 2 * * *", "timezone": "UTC", "job_type": "work"}
    with engine.member(ADA) as ada:
        made = ada.rpc("put_schedule", p_workspace_id=ACME, p_schedule=schedule)
        told = ada.rpc("next_runs", p_workspace_id=ACME, p_schedule={"name": "nightly"}, p_count=3)
        tried = ada.rpc("next_runs", p_workspace_id=ACME, p_schedule={"cron": "0 12 * * mon", "timezone": "Europe/Berlin"})  # fmt: skip
        counts = [
            len(ada.rpc("next_runs", p_workspace_id=ACME, p_schedule={"cron": cron}, p_count=99)["runs"])
            for cron in ("@daily", "0 0 30 2 *")
        ]  # fmt: skip

    assert counts == [20, 0], "at most, and of a day that never comes"
    assert told["runs"][0] == made["next_at"]
    assert [run[11:16] for run in told["runs"]] == ["02:30"] * 3
    assert len(tried["runs"]) == 5


@pytest.mark.parametrize(
    ("schedule", "answer"),
    [({"name": "none"}, ("PT404", "schedule_not_found", "none")), ({}, ("PT404", "schedule_not_found", "")),
     ({"cron": "x"}, ("PT400", "invalid_argument", "cron")), ({"cron": "* * * * *", "timezone": "Nowhere"}, ("PT400", "invalid_argument", "timezone")),
     ({"cron": "* * * * *", "timezone": "XYZ3"}, ("PT400", "invalid_argument", "timezone"))],
)  # fmt: skip
def test_what_is_no_schedule_has_no_runs(
    engine: Engine, schedule: dict[str, Any], answer: tuple[str, str, str]
) -> None:
    """Refusals name the field; another workspace's is none."""
    theirs = {"name": "none", "cron": "@daily", "job_type": "work"}
    engine.rpc("put_schedule", p_workspace_id=GLOBEX, p_schedule=theirs)
    with engine.member(BOB) as bob, pytest.raises(psycopg.Error) as refused:
        bob.rpc("next_runs", p_workspace_id=ACME, p_schedule=schedule)

    assert refusal(refused.value) == answer


@pytest.mark.parametrize("function", ["workspace_limits", "next_runs"])
def test_strangers_learn_nothing(engine: Engine, function: str) -> None:
    """Another tenant's workspace does not exist."""
    more = {"p_schedule": {"cron": "* * * * *"}} if function == "next_runs" else {}
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
        eve.rpc(function, p_workspace_id=ACME, **more)

    assert refused.value.sqlstate == "PT404"
