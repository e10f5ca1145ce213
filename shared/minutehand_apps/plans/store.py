"""Typed calls of the app's SQL functions for the worker."""

from __future__ import annotations

from typing import Any

from minutehand.queue import FunctionStore, reading
from minutehand_apps.plans.models import Loaded


class WorkerStore(FunctionStore):
    """SQL functions of the processor, called as `job_worker`. Every call may be repeated.

    Each raises LeaseLost and stores nothing if another attempt has taken over.
    """

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load the plan of a leased job."""
        loaded: Loaded = await self._functions.call_held(
            "plan_load", job_id, fence, parse=reading(Loaded)
        )
        return loaded

    async def keep(self, job_id: str, fence: int, name: str, **values: Any) -> None:
        """Store the result of a stage, or why it failed, for the report.

        Args:
            values: `result` and `model`, or `reason`.
        """
        await self._functions.call_held("plan_keep", job_id, fence, name=name, **values)
