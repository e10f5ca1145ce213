"""Typed calls of the app's SQL functions for the worker.

The migration contains every rule. This module has names, arguments and records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minutehand.queue import FunctionStore, decode_object
from minutehand_apps.enrichment.models import Applied, Kind, Loaded


class WorkerStore(FunctionStore):
    """SQL functions of the processors, called as `job_worker`. Every call may be repeated.

    Calls for a leased job raise LeaseLost if another attempt has taken over.
    """

    async def load(self, job_id: str, fence: int, kind: Kind, record_id: str) -> Loaded:
        """Load the record, None if it was deleted, and its workspace's Apollo settings."""
        return Loaded.model_validate(
            await self._call("load", job_id, fence, kind=kind, id=record_id)
        )

    async def begin_call(self, job_id: str, fence: int) -> dict[str, Any] | None:
        """Record a call before it is made. Returns the result that an earlier attempt paid for."""
        paid: dict[str, Any] | None = (await self._call("begin_call", job_id, fence))["answer"]
        return paid

    async def finish_call(self, job_id: str, fence: int, answer: Mapping[str, Any]) -> None:
        """Store a call's result and add its credits, once even if repeated."""
        more = {"answer": dict(answer), "credits": answer["credits"]}
        await self._call("finish_call", job_id, fence, **more)

    async def abandon_call(self, job_id: str, fence: int) -> None:
        """Delete the record of a call that was rejected and so not charged."""
        await self._call("abandon_call", job_id, fence)

    async def apply(
        self,
        job_id: str,
        fence: int,
        kind: Kind,
        record_id: str,
        *,
        fields: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> Applied:
        """Write `fields`, except those that a person wrote."""
        more = {"fields": dict(fields), "metadata": dict(metadata)}
        return Applied.model_validate(
            await self._call("apply", job_id, fence, kind=kind, id=record_id, **more)
        )

    async def pause(self, job_id: str, fence: int, *, seconds: float) -> None:
        """Pause the workspace's other jobs too."""
        await self._call("pause", job_id, fence, seconds=seconds)

    async def _call(self, function: str, job_id: str, fence: int, **more: Any) -> Any:
        return await self._functions.call_held(
            f"enrichment_{function}", job_id, fence, parse=decode_object, **more
        )
