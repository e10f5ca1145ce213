"""The app's SQL functions that the worker calls, as typed calls."""

from __future__ import annotations

from typing import Any

from minutehand.queue import FunctionStore, reading
from minutehand_apps.plans.models import Loaded


class WorkerStore(FunctionStore):
    """What the processor may do, as `job_worker`; every call may be repeated.

    Each raises LeaseLost when another attempt has taken over; nothing was stored then.
    """

    async def load(self, job_id: str, fence: int) -> Loaded:
        """The plan of a leased job."""
        loaded: Loaded = await self._functions.call_held(
            "plan_load", job_id, fence, parse=reading(Loaded)
        )
        return loaded

    async def keep(self, job_id: str, fence: int, name: str, **found: Any) -> None:
        """Keep what a stage found, or why it failed, so that the report has it at once.

        Args:
            found: `result` and `model`, or `reason`.
        """
        await self._functions.call_held("plan_keep", job_id, fence, name=name, **found)
