"""A whole plan in one call, without a database: for examples, and for tests of the planning."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from uuid import UUID

from minutehand.apps.plans.models import StoredPlan, StoredStage
from minutehand.apps.plans.planning.chapters import Inputs
from minutehand.apps.plans.planning.computing import data_of
from minutehand.apps.plans.planning.graph import Speed, stages_of
from minutehand.apps.plans.planning.making import MAKERS


def plan_of(prompt: str, speed: Speed, today: date) -> StoredPlan:
    """The plan of a prompt that was handed in on that day, every stage completed."""
    results: dict[str, dict[str, object]] = {}
    for stage in stages_of(speed):
        if stage.name == "report":
            continue
        needed = {name: results[name] for name in stage.needs}
        results[stage.name] = data_of(MAKERS[stage.name](Inputs(prompt, speed, today, needed)))
    at = datetime.combine(today, time(9), UTC)
    return StoredPlan(
        id=UUID(int=0), workspace_id=UUID(int=0), session_id="", prompt=prompt,
        speed_vs_detail=speed, status="completed", based_on=at, created_at=at, finished_at=at,
        stages=[
            StoredStage(name=name, status="completed", result=result)
            for name, result in results.items()
        ],
    )  # fmt: skip
