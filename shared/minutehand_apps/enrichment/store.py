"""The enrichment app's SQL functions that the worker calls, as typed calls.

Every rule is in the migration; here are only names, arguments and records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from minutehand.queue.functions import FunctionStore
from minutehand_apps.enrichment.models import Applied, Import, Kind, Loaded


class WorkerStore(FunctionStore):
    """What processors may do, as `job_worker`; every call may be repeated.

    Each for a leased job raises LeaseLost when another attempt has taken over; nothing was
    stored then.
    """

    async def load(self, job_id: str, fence: int, kind: Kind, record_id: UUID) -> Loaded:
        """Load the record, None when it is gone, and its workspace's Apollo settings."""
        return Loaded.model_validate(
            await self._call("load", job_id, fence, kind=kind, id=str(record_id))
        )

    async def begin_call(self, job_id: str, fence: int, step: str) -> dict[str, Any] | None:
        """Record a call before it is made; return what an earlier attempt already paid for."""
        answer = await self._call("begin_call", job_id, fence, step=step)
        paid: dict[str, Any] | None = answer["answer"]
        return paid

    async def finish_call(
        self, job_id: str, fence: int, step: str, answer: Mapping[str, Any], *, credits: int
    ) -> None:
        """Record a call's answer and count its credits, once however often it is repeated."""
        more = {"step": step, "answer": dict(answer), "credits": credits}
        await self._call("finish_call", job_id, fence, **more)

    async def abandon_call(self, job_id: str, fence: int, step: str) -> None:
        """Forget a call that was refused and so was not charged."""
        await self._call("abandon_call", job_id, fence, step=step)

    async def apply(
        self,
        job_id: str,
        fence: int,
        kind: Kind,
        record_id: UUID,
        *,
        seen: Mapping[str, Any],
        fields: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> Applied:
        """Write `fields`, except those a person changed since the job was made."""
        more = {"seen": dict(seen), "fields": dict(fields), "metadata": dict(metadata)}
        return Applied.model_validate(
            await self._call("apply", job_id, fence, kind=kind, id=str(record_id), **more)
        )

    async def pause(self, job_id: str, fence: int, *, seconds: float) -> None:
        """Let the workspace's other jobs wait as well, without asking Apollo each."""
        await self._call("pause", job_id, fence, seconds=seconds)

    async def load_key(self, job_id: str, fence: int) -> str | None:
        """Load the sealed key of the workspace whose `reseal_apollo_key` is leased."""
        answer = await self._functions.call_held("enrichment_load_key", job_id, fence)
        sealed: str | None = answer["sealed_key"]
        return sealed

    async def load_key_by_ticket(self, ticket: str) -> str | None:
        """Load the sealed key of the workspace whose manager got this ticket."""
        answer = await self._functions.call(
            "enrichment_load_key", {"p_request": {"ticket": ticket}}
        )
        sealed: str | None = answer["sealed_key"]
        return sealed

    async def swap_key(self, job_id: str, fence: int, *, old: str, new: str) -> bool:
        """Replace the sealed key unless it changed meanwhile; return whether it was replaced."""
        answer = await self._functions.call_held(
            "enrichment_swap_key", job_id, fence, old=old, new=new
        )
        return bool(answer["swapped"])

    async def load_import(self, job_id: str, fence: int, import_id: UUID) -> Import | None:
        """Load an import with its progress; None when it was deleted."""
        answer = await self._call("load_import", job_id, fence, import_id=str(import_id))
        return Import.model_validate(answer) if answer else None

    async def store_batch(
        self, job_id: str, fence: int, import_id: UUID, *, from_row: int, batch: Mapping[str, Any]
    ) -> Import | None:
        """Store a batch if `from_row` is the import's position; return the new position."""
        more = {"import_id": str(import_id), "from_row": from_row, "batch": dict(batch)}
        answer = await self._call("import_batch", job_id, fence, **more)
        return Import.model_validate(answer["import"]) if answer["import"] else None

    async def _call(self, function: str, job_id: str, fence: int, **more: Any) -> Any:
        request = {"job_id": job_id, "fence": fence, **more}
        return await self._functions.call(
            f"enrichment_{function}", {f"p_{name}": value for name, value in request.items()}
        )
