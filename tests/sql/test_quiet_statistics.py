"""A burst meets statistics of an empty queue: it was drained, vacuumed, and 50,000 jobs came.

The planner takes any index of a table it believes empty, and may read all of it for each row of the
other side. Rows are to be looked up by their keys, whatever the statistics say.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.sql.test_lease_budgets import QUIET, settle_down
from tests.support.engine import ACME, GLOBEX, Engine, handle

pytestmark = [pytest.mark.fresh, pytest.mark.weekly(only=True)]
MANY = """
insert into public.jobs (workspace_id, job_type, concurrency_key, scheduled_for, tags)
select %s, %s, case when %s then 'k' || n end, queue.clock() + %s * interval '1 s', array['t' || n]
from generate_series(1, %s) as n
"""
ENQUEUE = """
select public.enqueue_jobs(%%s, (select jsonb_agg(jsonb_build_object('job_type', 'work', %s))
  from generate_series(1, 200) as n), 'ids')
"""

#: A cancel names a criterion.
ALL = '{"created_after": "2000-01-01"}'


def request(**fields: Any) -> str:
    return json.dumps({"worker_id": "w1", "tick_id": str(uuid.uuid4()), "call": 2, **fields})


def some(engine: Engine, job_type: str, count: int) -> list[dict[str, Any]]:
    """Lease so many jobs of a type."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += engine.lease(
            min(1000, count - len(found)),
            call=2,
            tick_id=str(uuid.uuid4()),
            job_types=[job_type],
        )
    return found


def fill(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """60,000 jobs in every state; returns leases that are held."""
    engine.register("work", lease_seconds=600)
    engine.register("bad", max_attempts=1)
    engine.register("keyed", key_concurrency=1)
    for name in ("later", "waiting"):
        engine.register(name)
    for workspace, job_type, keyed, seconds, count in (
        (ACME, "work", False, -1, 20_000),
        (ACME, "keyed", True, -1, 20_000),
        (GLOBEX, "bad", False, -1, 5_000),
        (ACME, "later", False, 3600, 5_000),
        (ACME, "waiting", False, -1, 3_000),
    ):
        engine.run(MANY, workspace, job_type, keyed, seconds, count)
    settle_down(engine)
    for lease_type, outcome in (("bad", "failed"), ("work", "completed")):
        for _ in range(4):
            leases = some(engine, lease_type, 1000)
            error = {"error": {"type": "E", "message": "m"}} if outcome == "failed" else {}
            engine.settle_all([{**handle(lease), "outcome": outcome, **error} for lease in leases])
    wait = {"kind": "event", "name": "go"}
    for _ in range(3):
        leases = some(engine, "waiting", 1000)
        engine.settle_all([{**handle(one), "outcome": "waiting", "wait": wait} for one in leases])
    return {name: some(engine, name, 200) for name in ("work", "keyed", "bad")}


def operations(held: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[str, str, float]]:
    """What is done with the queue: a statement, its argument, and seconds that pass before."""

    def settling(name: str, outcome: str, **more: Any) -> str:
        return request(items=[{**handle(one), "outcome": outcome, **more} for one in held[name]])

    lease, settle = "select public.lease_jobs(%s::jsonb)", "select public.settle_jobs(%s::jsonb)"
    maintain = "select public.run_maintenance(%s::jsonb)"
    jobs = "select public.list_jobs(%s::jsonb)"
    error = {"error": {"type": "E", "message": "m"}}
    progress = [{**handle(one), "progress": {"percentage": 5}} for one in held["work"]]
    options = (
        "'idempotency_key', 'i' || n, 'concurrency_key', 'c' || n,"
        " 'tags', jsonb_build_array('t' || n)"
    )
    acme, globex = {"workspace_id": ACME}, {"workspace_id": GLOBEX}
    now: dict[str, tuple[str, str]] = {
        "lease": (lease, request(limit=200, job_types=["work"])),
        "lease of keys": (lease, request(limit=200, job_types=["keyed"])),
        "report": ("select public.report_jobs(%s::jsonb)", request(items=progress)),
        "complete": (settle, settling("work", "completed")),
        "complete keys": (settle, settling("keyed", "completed")),
        "retry": (settle, settling("work", "retry", **error)),
        "fail": (settle, settling("bad", "failed", **error)),
        "wait": (settle, settling("work", "waiting", wait={"kind": "event", "name": "stop"})),
        "enqueue": (ENQUEUE % "'payload', jsonb_build_object('n', n)", ACME),
        "enqueue with options": (ENQUEUE % options, ACME),
        "emit": ("select public.emit_event(%s, 'go', '{}')", ACME),
        "retry many": ("select public.retry_jobs(%s, '{}')", GLOBEX),
        "cancel many": (f"select public.cancel_jobs(%s, '{ALL}')", ACME),
        "maintain": (maintain, '{"budget_ms": 5000}'),
        "count": ("select public.count_jobs(%s)", ACME),
        "dead letters": ("select public.dead_letters(%s)", GLOBEX),
        "statistics": ("select public.queue_stats(%s)", ACME),
        "health": ("select public.queue_health() where %s <> ''", "-"),
        "list": (jobs, json.dumps(acme)),
        "list failed": (jobs, json.dumps({**globex, "status": ["failed"]})),
        "list pending": (jobs, json.dumps({**acme, "status": ["pending"]})),
        "list by tag": (jobs, json.dumps({**acme, "tag": "t7"})),
        "search": (jobs, json.dumps({**acme, "search": "t7"})),
        "sort": ("select public.sort_jobs(%s::jsonb, 'next_run_at')", json.dumps(acme)),
        "delete a workspace": ("select queue.forget_workspace(%s)", ACME),
    }
    later = {"an hour": 3_700.0, "a year": 366 * 86_400.0}
    return {name: (*call, 0.0) for name, call in now.items()} | {
        f"maintain after {name}": (maintain, '{"budget_ms": 5000}', seconds)
        for name, seconds in later.items()
    }


def blocks_of(engine: Engine, statement: str, value: str, seconds: float) -> int:
    """Blocks one operation touches as the second of a new session; both are rolled back."""
    found = []
    with engine.beside() as other:
        for _ in range(2):  # the first reads the catalogue as well
            other.run("begin")
            other.advance(seconds)
            found.append(other.blocks(statement, value))
            other.run("rollback")
    return min(found)


def test_nothing_is_slow_because_all_was_empty_a_moment_ago(engine: Engine) -> None:
    """Counts took 39 s, maintenance 35 s and deleting 41,000 jobs 80 s, a second later 0.1 s."""
    calls = operations(fill(engine))
    settle_down(engine)
    known = {name: blocks_of(engine, *call) for name, call in calls.items()}

    for statement in QUIET:
        engine.run(statement)
    quiet = {name: blocks_of(engine, *call) for name, call in calls.items()}
    engine.run("analyze")  # for the books

    dear = {name: (known[name], quiet[name]) for name in calls}
    # 10,000 jobs are counted, by an index with a block each, by a scan with fewer
    room = {name: 12_000 if name == "count" else 2_000 for name in calls}
    assert {name: both for name, both in dear.items() if both[1] > 3 * both[0] + room[name]} == {}
    # and 10,000 due jobs at most, here each in a partition of its own, which is looked up
    assert max(*dear["statistics"], *dear["health"]) <= 60_000, dear
