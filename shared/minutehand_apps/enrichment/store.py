"""The enrichment app's SQL functions that the worker calls, as typed calls.

Every rule is in the migration; here are only names, arguments and records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minutehand.queue import FunctionStore, decode_object
from minutehand_apps.enrichment.models import Applied, Kind, Loaded


class WorkerStore(FunctionStore):
    """What processors may do, as `job_worker`; every call may be repeated.

    Each for a leased job raises LeaseLost when another attempt has taken over.
    """

    async def load(self, job_id: str, fence: int, kind: Kind, record_id: str) -> Loaded:
        """Load the record, None when it is gone, and its workspace's Apollo settings."""
        return Loaded.model_validate(
            await self._call("load", job_id, fence, kind=kind, id=record_id)
        )

    async def begin_call(self, job_id: str, fence: int) -> dict[str, Any] | None:
        """Record a call before it is made; return what an earlier attempt already paid for."""
        paid: dict[str, Any] | None = (await self._call("begin_call", job_id, fence))["answer"]
        return paid

    async def finish_call(self, job_id: str, fence: int, answer: Mapping[str, Any]) -> None:
        """Record a call's answer and count its credits, once however often it is repeated."""
        more = {"answer": dict(answer), "credits": answer["credits"]}
        await self._call("finish_call", job_id, fence, **more)

    async def abandon_call(self, job_id: str, fence: int) -> None:
        """Forget a call that was refused and so was not charged."""
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
        """Write `fields`, except those a person wrote."""
        more = {"fields": dict(fields), "metadata": dict(metadata)}
        return Applied.model_validate(
            await self._call("apply", job_id, fence, kind=kind, id=record_id, **more)
        )

    async def pause(self, job_id: str, fence: int, *, seconds: float) -> None:
        """Let the workspace's other jobs wait as well, without asking Apollo each."""
        await self._call("pause", job_id, fence, seconds=seconds)

    async def _call(self, function: str, job_id: str, fence: int, **more: Any) -> Any:
        return await self._functions.call_held(
            f"enrichment_{function}", job_id, fence, parse=decode_object, **more
        )
