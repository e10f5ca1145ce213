"""A worker killed in any stage: the plan goes on from there, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY
from shared.config import Settings
from tests.integration.plans.conftest import Desk
from tests.unit.ai.model_server import KEY, Fault, ModelServer

ROOT = Path(__file__).resolve().parents[3]
STAGES = ["understand", "outline", "phase_2", "risks", "review"]


@contextmanager
def worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process; killed at the end, if not before."""
    environment = {
        "SUPABASE_URL": settings.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "LANGUAGE_MODEL_URL": settings.language_model_url or "",
        "LANGUAGE_MODEL_KEY": KEY,
        "LANGUAGE_MODEL": "test-model",
        "STAGE": "local",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.plans.worker_process"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


async def until(condition: Callable[[], bool], *, seconds: float = 90.0) -> None:
    """Wait for something another process brings about."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_killed_worker_costs_the_stage_under_way(
    desk: Desk, server: ModelServer, settings: Settings, stage: str
) -> None:
    """SIGKILL in the middle of the model's answer; another worker finishes."""
    server.faults[stage] = [Fault(hang_after=1)]
    plan = await desk.start()
    with worker(settings) as process:
        await asyncio.wait_for(server.reached.wait(), 90)
        if stage.startswith("phase"):
            # the phases beside it end on their own
            await until(lambda: server.paid["phase_1"] + server.paid["phase_3"] == 2)
        process.kill()
        process.wait(10)
    before = dict(server.paid)

    state = await desk.ended(plan, others_died=True)

    assert state["status"] == "completed"
    report = await desk.report(plan)
    assert report["missing"] == []
    # one whose answer was whole as the worker died may not have been stored
    again = {name for name, count in server.paid.items() if count > 1}
    assert again <= {"phase_1", "phase_3"} & set(before) if stage == "phase_2" else not again
    assert server.paid[stage] == 1


async def test_workers_that_keep_dying_leave_a_partial_report(
    desk: Desk, server: ModelServer
) -> None:
    """The job becomes a dead letter, and its report says so; a click goes on."""
    plan = await desk.start()
    desk.project.run_sql("update public.jobs set max_attempts = 1 where id = %s", plan["job_id"])
    server.faults["outline"] = [Fault(hang_after=1)]
    ticking = asyncio.create_task(desk.worker.tick(budget_seconds=60))
    await asyncio.wait_for(server.reached.wait(), 90)
    async with Desk(desk.project, desk.plans.settings).open() as other:
        state = await desk.look(plan)
        while state["job"]["status"] == "processing":
            desk.lapse()  # the worker is none the wiser: what it reports meanwhile renews its lease
            await other.worker.tick(budget_seconds=10)
            state = await desk.look(plan)
        await other.worker.tick(budget_seconds=10)
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)

    state = await desk.look(plan)
    report = await desk.report(plan)
    assert state["job"]["status"] == "failed"
    assert (state["status"], report["partial"]) == ("partial", True)
    assert {each["code"] for each in report["missing"]} == {"failed"}
    assert report["restated_goal"] == "The museum moves."
    assert (await desk.call("POST", f"/{plan['id']}/resume")).status_code == 200
    assert (await desk.ended(plan))["status"] == "completed"
    assert server.paid["understand"] == 1
