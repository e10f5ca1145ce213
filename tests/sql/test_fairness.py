"""Tenants are served in rounds, also if a type runs out of slots or a worker serves one lane."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.engine import Engine, ids_of

JOBS = """
insert into public.jobs (workspace_id, job_type)
select t, %s from unnest(%s::uuid[]) as t, generate_series(1, %s)
"""


def tenants(engine: Engine, count: int) -> list[str]:
    made = "insert into public.workspaces (name) select 't' || n from generate_series(1, %s) as n"
    return engine.rows(f"{made} returning id::text", count)


def test_a_type_that_runs_out_of_slots_serves_every_tenant_in_turn(engine: Engine) -> None:
    """Each tenant has jobs of both types. The limited type has one slot."""
    engine.register("few", max_concurrency=1)
    engine.register("work")
    everyone = tenants(engine, 6)
    for job_type in ("few", "work"):
        engine.run(JOBS, job_type, everyone, 20)
    served: Counter[str] = Counter()

    for _ in range(18):
        leases = engine.lease(6)
        jobs = [lease["job"] for lease in leases]
        served.update(job["workspace_id"] for job in jobs if job["job_type"] == "few")
        for lease in leases:
            engine.settle(lease)

    assert set(served) == set(everyone)
    assert max(served.values()) - min(served.values()) <= 1


def test_a_worker_of_one_lane_finds_its_job_behind_many_turns_of_others(engine: Engine) -> None:
    """Both lanes are in one ring, and three hundred tenants have turns in the other lane."""
    engine.register("other")
    engine.register("mine")
    everyone = tenants(engine, 300)
    engine.run(JOBS, "other", everyone, 1)
    engine.lease(1, job_types=["other"])
    engine.lease(1, job_types=["other", "mine"])
    engine.run(JOBS, "mine", [everyone[150]], 1)

    counts = [len(engine.lease(5, job_types=["mine"], worker="w2")) for _ in range(40)]

    assert sum(counts) == 1


@pytest.mark.parametrize("by", ["workspace_concurrency", "max_running"])
def test_a_settlement_lets_a_tenant_at_its_limit_start_at_once(engine: Engine, by: str) -> None:
    """Not a second later, because the clock is stopped."""
    engine.register("work", **({by: 1} if by == "workspace_concurrency" else {}))
    first, second = engine.enqueue(), engine.enqueue()
    if by == "max_running":
        workspace = engine.job(first)["workspace_id"]
        engine.rpc("set_workspace_limits", p_workspace_id=workspace, p_limits={by: 1})
    engine.stop_clock()
    leased = engine.lease_one()
    assert engine.lease(5) == []

    engine.settle(leased)

    assert ids_of(engine.lease(5)) == [second]


def test_what_another_transaction_holds_is_due_in_a_second_and_not_at_once(engine: Engine) -> None:
    """Otherwise workers ask without pause while someone holds a job that is waited for."""
    job = engine.enqueue()
    engine.lease(1)
    engine.stop_clock()
    engine.run(
        "insert into queue.signals (kind, workspace_id, job_id, failures, look_at)"
        " select 'check', workspace_id, id, 1, queue.clock() from public.jobs where id = %s",
        job,
    )

    assert engine.lease_call(5, call=2)["next_due_in_ms"] == 1000
