"""The app's SQL functions as typed calls: the worker's doors, and those of members and visitors.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from minutehand.apps.plans.models import Finished, Loaded, Missing, PlanState, Stage
from minutehand.config import Settings
from minutehand.queue.doors import CallerDoors, WorkerDoors


class WorkerStore:
    """What the processors may do, as `job_worker`; every call may be repeated."""

    def __init__(self, settings: Settings) -> None:
        self._doors = WorkerDoors(settings)

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load what a leased job works on.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        return Loaded.model_validate(await self._doors.call_held("plan_load", job_id, fence))

    async def store_stage(self, job_id: str, fence: int, stage: Stage) -> Stage:
        """Store what a stage came to; answers the completed one that was there before, if any.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was stored.
        """
        sent = stage.model_dump(mode="json", exclude={"run", "finished_at"})
        return Stage.model_validate(
            await self._doors.call_held("plan_store_stage", job_id, fence, stage=sent)
        )

    async def finish(self, job_id: str, fence: int, missing: Sequence[Missing]) -> Finished:
        """End a plan.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was stored.
        """
        told = [each.model_dump() for each in missing]
        return Finished.model_validate(
            await self._doors.call_held("plan_finish", job_id, fence, missing=told)
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._doors.aclose()


class CallerStore:
    """What a member or a visitor may do; one per request, cheap to make."""

    def __init__(self, doors: CallerDoors) -> None:
        self._doors = doors

    async def start(
        self, workspace_id: UUID | None, request: Mapping[str, Any], *, key: str | None
    ) -> dict[str, Any]:
        """Start a plan, or find the one the key started."""
        return await self._doors.call(
            "plan_start",
            {
                "p_workspace_id": str(workspace_id) if workspace_id else None,
                "p_plan": dict(request),
                "p_idempotency_key": key,
            },
            repeatable=key is not None,
        )

    async def read(self, plan_id: UUID | str) -> PlanState:
        """A plan with all its stages.

        Raises:
            QueueError: 404 plan_not_found, it is missing or not the caller's.
        """
        answer = await self._doors.call("plan_read", {"p_plan_id": str(plan_id)}, repeatable=True)
        return PlanState.model_validate(answer)

    async def list(
        self, workspace_id: UUID | None, *, after: UUID | None, limit: int
    ) -> list[dict[str, Any]]:
        """Plans, newest first."""
        answer = await self._doors.call(
            "plan_list",
            {
                "p_workspace_id": str(workspace_id) if workspace_id else None,
                "p_after": str(after) if after else None,
                "p_limit": limit,
            },
            repeatable=True,
        )
        plans: list[dict[str, Any]] = answer["plans"]
        return plans

    async def answer(self, plan_id: UUID, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Answer what a plan asks."""
        arguments = {"p_plan_id": str(plan_id), "p_answer": dict(answer)}
        return await self._doors.call("plan_answer", arguments, repeatable=False)

    async def cancel(self, plan_id: UUID) -> dict[str, Any]:
        """Stop planning; what there is stays."""
        return await self._doors.call("plan_cancel", {"p_plan_id": str(plan_id)}, repeatable=True)

    async def resume(self, plan_id: UUID) -> dict[str, Any]:
        """Have the missing parts written."""
        return await self._doors.call("plan_resume", {"p_plan_id": str(plan_id)}, repeatable=False)
