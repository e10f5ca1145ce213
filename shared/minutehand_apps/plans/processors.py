"""The plans processor: one job a plan, whose stages run side by side as far as the graph allows.

However the job ends, there is a report: it is made of what the stages stored.
"""

from __future__ import annotations

from typing import Any

from minutehand.config import Settings
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.registry import Registry
from minutehand_apps.plans.models import PlanPayload
from minutehand_apps.plans.services import Plans


class Processors:
    """The app's processor over one process's dependencies."""

    def __init__(self, app: Plans) -> None:
        self._app = app

    async def plan(self, job: Job[PlanPayload], ctx: JobContext) -> dict[str, Any]:
        """Run the stages that are not finished, and end the plan."""
        # here and not at the top: an idle worker loads no planning
        from minutehand_apps.plans.pipeline import Pipeline
        from minutehand_apps.plans.recorder import PlanGone

        plan_id = str(job.payload.plan_id)
        plan = await self._app.store.load(job.id, job.fence)
        if plan is None or plan.finished_at is not None:
            return {"plan_id": plan_id, "outcome": "gone"}
        try:
            outcome = await Pipeline(self._app, job, ctx, plan).run()
        except PlanGone:
            return {"plan_id": plan_id, "outcome": "gone"}
        ctx.progress(100 if outcome == "completed" else None, "report", "The report is ready")
        return {"plan_id": plan_id, "outcome": outcome}


def register(registry: Registry, settings: Settings, *, app: Plans | None = None) -> Plans:
    """Add the app's processor to `registry`; returns what it holds, to be closed at the end."""
    app = app or Plans(settings)
    registry.processor(
        "plan", payload=PlanPayload, backoff=Backoff(first=5, cap=120), internal=True
    )(Processors(app).plan)
    return app
