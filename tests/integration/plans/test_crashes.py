"""Workers that die behind each of their writes: no stage runs twice, and there is a report."""

from __future__ import annotations

from collections import Counter

import pytest

from minutehand_apps.plans.planning.graph import stages_of
from tests.integration.plans.conftest import ENDED, Harness


@pytest.mark.timeout(600)  # some fifty workers, one after the other
async def test_workers_killed_in_each_stage_run_no_finished_one_again(harness: Harness) -> None:
    """Each stage is told of once, in order, and whoever looks meanwhile finds a report."""
    plan = await harness.create()

    async def ended() -> object:
        state, report = await harness.look(plan), await harness.report(plan)
        assert len(report["chapters"]) + len(report["missing"]) == len(state["stages"]) - 1
        return state["status"] in ENDED

    deaths = await harness.survive("plans", ended)

    names = [stage.name for stage in stages_of("fast_but_skip_details")]
    events = await harness.events(plan)
    assert (await harness.look(plan))["status"] == "completed"
    assert all(any(f"step {name}" in death for death in deaths) for name in names)
    completed = Counter(e["data"]["stage"] for e in events if e["type"] == "stage_completed")
    assert completed == dict.fromkeys(names, 1)
    # what was finished is not begun again
    last_start = {e["data"]["stage"]: e["seq"] for e in events if e["type"] == "stage_started"}
    ends = {e["data"]["stage"]: e["seq"] for e in events if e["type"] == "stage_completed"}
    assert all(last_start[name] < ends[name] for name in ends)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
