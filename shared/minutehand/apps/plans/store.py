"""The app's SQL functions as typed calls: those of the worker, of members and of guests.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from minutehand.apps.plans.models import EventPage, Loaded, StoredPlan
from minutehand.config import Settings
from minutehand.queue.functions import CallerFunctions, WorkerFunctions


class WorkerStore:
    """What the processor may do, as `job_worker`; every call may be repeated."""

    def __init__(self, settings: Settings) -> None:
        self._functions = WorkerFunctions(settings)

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load what a leased job works on; the plan is running from here on.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        return Loaded.model_validate(await self._functions.call_held("plan_load", job_id, fence))

    async def report(self, job_id: str, fence: int, mark: str, news: Mapping[str, Any]) -> bool:
        """Store what was found, with its events; false when the plan has ended or is gone.

        Args:
            mark: Names this report: a repeated one is stored once.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was stored.
        """
        stored = await self._functions.call_held("plan_report", job_id, fence, mark=mark, **news)
        return bool(stored["outcome"] == "stored")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._functions.aclose()


class CallerStore:
    """What a member or a guest may do; one per request, cheap to make."""

    def __init__(self, functions: CallerFunctions) -> None:
        self._functions = functions

    async def start(
        self,
        workspace_id: UUID | None,
        plan: Mapping[str, Any],
        *,
        session_id: str | None,
        key: str | None,
    ) -> dict[str, Any]:
        """Create a plan, or find the one the key created."""
        return await self._functions.call(
            "plan_start",
            {
                "p_workspace_id": str(workspace_id) if workspace_id else None,
                "p_plan": dict(plan),
                "p_session_id": session_id,
                "p_idempotency_key": key,
            },
            repeatable=key is not None,
        )

    async def read(self, plan_id: UUID | str, *, results: bool = False) -> StoredPlan:
        """A plan with its stages and files; with the stages' results if asked for.

        Raises:
            QueueError: 404 plan_not_found, it is missing, deleted, or not the caller's.
        """
        arguments = {"p_plan_id": str(plan_id), "p_results": results}
        answer = await self._functions.call("plan_read", arguments, repeatable=True)
        return StoredPlan.model_validate(answer)

    async def page(
        self, workspace_id: UUID | None, *, session_id: str | None, after: UUID | None, limit: int
    ) -> list[dict[str, Any]]:
        """Plans, newest first."""
        answer = await self._functions.call(
            "plan_list",
            {
                "p_workspace_id": str(workspace_id) if workspace_id else None,
                "p_session_id": session_id,
                "p_after": str(after) if after else None,
                "p_limit": limit,
            },
            repeatable=True,
        )
        plans: list[dict[str, Any]] = answer["plans"]
        return plans

    async def files(self, plan_id: UUID, name: str | None = None) -> list[dict[str, str]]:
        """Stored files with their content, all or the one of that name."""
        arguments = {"p_plan_id": str(plan_id), "p_name": name}
        answer = await self._functions.call("plan_files", arguments, repeatable=True)
        files: list[dict[str, str]] = answer["files"]
        return files

    async def events(
        self, plan_id: UUID | str, after: int, *, limit: int = 500, is_open: bool = False
    ) -> EventPage:
        """Events after a seq.

        Args:
            is_open: Whether a stream reads on: then also those of a plan deleted meanwhile.
        """
        arguments = {
            "p_plan_id": str(plan_id),
            "p_after": after,
            "p_limit": limit,
            "p_is_open": is_open,
        }
        answer = await self._functions.call("plan_events_after", arguments, repeatable=True)
        return EventPage.model_validate(answer)

    async def cancel(self, plan_id: UUID) -> None:
        """Stop a plan; what there is stays."""
        await self._functions.call("plan_cancel", {"p_plan_id": str(plan_id)}, repeatable=True)

    async def delete(self, plan_id: UUID) -> None:
        """Delete a plan with everything it made."""
        await self._functions.call("plan_delete", {"p_plan_id": str(plan_id)}, repeatable=False)

    async def restart(self, plan_id: UUID) -> dict[str, Any]:
        """Run a failed or cancelled plan again."""
        return await self._functions.call(
            "plan_restart", {"p_plan_id": str(plan_id)}, repeatable=False
        )

    async def fork(self, plan_id: UUID, stage: str, keep: Sequence[str]) -> dict[str, Any]:
        """Make a plan that begins with the stages `keep` of another."""
        arguments = {"p_plan_id": str(plan_id), "p_stage": stage, "p_keep": list(keep)}
        return await self._functions.call("plan_fork", arguments, repeatable=False)
