"""The app's SQL functions that the worker calls, as typed calls.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minutehand.queue.functions import FunctionStore
from minutehand_apps.plans.models import StoredPlan


class WorkerStore(FunctionStore):
    """What the processor may do, as `job_worker`; every call may be repeated."""

    async def load(self, job_id: str, fence: int) -> StoredPlan | None:
        """The plan of a leased job, which runs from here on; None when it is gone.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        found = await self._functions.call_held("plan_load", job_id, fence)
        return found["plan"] and StoredPlan.model_validate(found["plan"])

    async def report(self, job_id: str, fence: int, mark: str, news: Mapping[str, Any]) -> bool:
        """Store what was found, with its events; false when the plan has ended or is gone.

        Args:
            mark: Names this report: a repeated one is stored once.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was stored.
        """
        stored = await self._functions.call_held("plan_report", job_id, fence, mark=mark, **news)
        return bool(stored["outcome"] == "stored")
