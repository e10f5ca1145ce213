"""A worker killed in any stage: the plan goes on from there, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from minutehand.config import Settings
from tests.integration.plans.conftest import Desk
from tests.support.killable import Killable, until
from tests.support.project import Project
from tests.unit.ai.model_server import Fault, ModelServer

STAGES = ["understand", "outline", "phase_2", "risks", "review"]


@pytest.fixture
def killable(project: Project, settings: Settings) -> Iterator[Killable]:
    """Workers of this app that die."""
    with Killable(
        project,
        "plans",
        LANGUAGE_MODEL_URL=settings.language_model_url,
        LANGUAGE_MODEL_KEY=settings.language_model_key,
        LANGUAGE_MODEL=settings.language_model,
    ) as made:
        yield made


@pytest.mark.parametrize("stage", STAGES)
async def test_a_killed_worker_costs_the_stage_under_way(
    desk: Desk, server: ModelServer, killable: Killable, stage: str
) -> None:
    """SIGKILL in the middle of the model's answer; another worker finishes."""
    server.faults[stage] = [Fault(hang_after=1)]
    plan = await desk.start()
    killable.start()
    await asyncio.wait_for(server.reached.wait(), 90)
    if stage.startswith("phase"):
        # the phases beside it end on their own
        await until(lambda: server.paid["phase_1"] + server.paid["phase_3"] == 2)
    killable.kill()
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
    async with Desk(desk.project, desk.settings).open() as other:
        state = await desk.look(plan)
        while state["job"]["status"] == "processing":
            # the worker is none the wiser: what it reports meanwhile renews its lease
            desk.project.lapse()
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
