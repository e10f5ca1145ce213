"""A worker killed after every finished stage: none is run twice, and there is always a report."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY
from minutehand.apps.plans.planning.graph import stages_of
from tests.integration.plans.conftest import Harness

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.timeout(600)  # some twenty workers, one after the other
async def test_a_worker_killed_at_every_stage_boundary_runs_no_stage_twice(
    harness: Harness,
) -> None:
    """SIGKILL each time a stage was stored; the next worker goes on from there."""
    plan = await harness.create()
    harness.project.run_sql(
        "update public.jobs set max_attempts = 50 where id = %s", plan["job_id"]
    )
    harness.project.run_sql(
        "update queue.settings set value = '50' where name = 'lost_attempts_max'"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.plans.dying_worker",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        env={
            "SUPABASE_URL": harness.settings.supabase_url,
            "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
            "SUPABASE_JWT_SECRET": JWT_SECRET,
            "STAGE": "local",
        },
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    deaths, done = 0, 0
    try:
        while (await harness.look(plan))["status"] not in {"completed", "failed"}:
            process.stdin.write(b"\n")
            said = (await asyncio.wait_for(process.stdout.readline(), 120)).decode().strip()
            deaths += said == "died"
            state, report = await harness.look(plan), await harness.report(plan)
            finished = [stage for stage in state["stages"] if stage["status"] == "completed"]
            page = await harness.get(plan, "/report")
            assert page.status_code == 200
            assert len(report["chapters"]) + len(report["missing"]) == len(state["stages"]) - 1
            assert len(finished) > done or said == "ended"
            done = len(finished)
            harness.project.expire()
            harness.make_due()
            await asyncio.sleep(0.02)
    finally:
        process.stdin.close()
        await process.wait()
        harness.project.run_sql(
            "update queue.settings set value = '5' where name = 'lost_attempts_max'"
        )

    state = await harness.look(plan)
    events = await harness.events(plan)
    assert state["status"] == "completed"
    assert deaths >= 5
    completed = Counter(e["data"]["stage"] for e in events if e["type"] == "stage_completed")
    assert completed == dict.fromkeys(
        (stage.name for stage in stages_of("fast_but_skip_details")), 1
    )
    # what was finished is not begun again
    last_start = {e["data"]["stage"]: e["seq"] for e in events if e["type"] == "stage_started"}
    ends = {e["data"]["stage"]: e["seq"] for e in events if e["type"] == "stage_completed"}
    assert all(last_start[name] < ends[name] for name in ends)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
