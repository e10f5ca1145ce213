"""Which function makes which stage, and a whole plan in one call, without a database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from typing import Final
from uuid import UUID

from minutehand_apps.plans.models import StoredPlan, StoredStage
from minutehand_apps.plans.planning import chapters, computing, conclusions
from minutehand_apps.plans.planning.chapters import Chapter, Inputs
from minutehand_apps.plans.planning.graph import STAGES, Speed, stages_of

#: A stage is made by the function of its name.
MAKERS: Final[dict[str, Callable[[Inputs], Chapter]]] = {
    stage.name: getattr(module, stage.name)
    for module in (chapters, computing, conclusions)
    for stage in STAGES
    if hasattr(module, stage.name)
}


def plan_of(prompt: str, speed: Speed, today: date) -> StoredPlan:
    """The plan of a prompt that was handed in on that day, every stage completed."""
    results: dict[str, dict[str, object]] = {}
    for stage in stages_of(speed):
        if stage.name == "report":
            continue
        needed = {name: results[name] for name in stage.needs}
        results[stage.name] = computing.data_of(
            MAKERS[stage.name](Inputs(prompt, speed, today, needed))
        )
    at = datetime.combine(today, time(9), UTC)
    return StoredPlan(
        id=UUID(int=0), workspace_id=UUID(int=0), session_id="", prompt=prompt,
        speed_vs_detail=speed, status="completed", based_on=at, created_at=at, finished_at=at,
        stages=[
            StoredStage(name=name, status="completed", result=result)
            for name, result in results.items()
        ],
    )  # fmt: skip
