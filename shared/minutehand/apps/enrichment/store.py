"""The enrichment app's SQL functions as typed calls: the worker's functions and the user's.

Every rule is in the migration; here are only names, arguments and records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from minutehand.apps.enrichment.models import Applied, Import, Kind, Loaded
from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.functions import CallerFunctions, WorkerFunctions


class WorkerStore:
    """What processors may do, as `job_worker`; every call may be repeated."""

    def __init__(self, settings: Settings, *, api: DataApi | None = None) -> None:
        self._functions = WorkerFunctions(settings, api=api)

    async def load(self, job_id: str, kind: Kind, record_id: UUID) -> Loaded | None:
        """Load the record and its workspace's Apollo settings; None when the job was deleted."""
        answer = await self._functions.call(
            "enrichment_load", {"p_job_id": job_id, "p_kind": kind, "p_id": str(record_id)}
        )
        return Loaded.model_validate(answer) if answer else None

    async def begin_call(self, job_id: str, fence: int, step: str) -> dict[str, Any] | None:
        """Record a call before it is made; return what an earlier attempt already paid for."""
        answer = await self._functions.call(
            "enrichment_begin_call", {"p_job_id": job_id, "p_fence": fence, "p_step": step}
        )
        paid: dict[str, Any] | None = answer["answer"]
        return paid

    async def finish_call(
        self, job_id: str, fence: int, step: str, answer: Mapping[str, Any], *, credits: int
    ) -> None:
        """Record a call's answer and count its credits, once however often it is repeated."""
        await self._functions.call(
            "enrichment_finish_call",
            {
                "p_job_id": job_id,
                "p_fence": fence,
                "p_step": step,
                "p_answer": dict(answer),
                "p_credits": credits,
            },
        )

    async def abandon_call(self, job_id: str, fence: int, step: str) -> None:
        """Forget a call that was refused and so was not charged."""
        await self._functions.call(
            "enrichment_abandon_call", {"p_job_id": job_id, "p_fence": fence, "p_step": step}
        )

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
        """Write `fields`, except those a person changed since the job was made.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was written.
        """
        answer = await self._functions.call(
            "enrichment_apply",
            {
                "p_job_id": job_id,
                "p_fence": fence,
                "p_kind": kind,
                "p_id": str(record_id),
                "p_seen": dict(seen),
                "p_fields": dict(fields),
                "p_metadata": dict(metadata),
            },
        )
        return Applied.model_validate(answer)

    async def pause(self, job_id: str, fence: int, *, seconds: float) -> None:
        """Let the workspace's other jobs wait as well, without asking Apollo each."""
        await self._functions.call(
            "enrichment_pause", {"p_job_id": job_id, "p_fence": fence, "p_seconds": seconds}
        )

    async def load_key(self, workspace_id: str) -> Loaded:
        """Load a workspace's sealed key; the caller has checked who is asking."""
        return Loaded.model_validate(
            await self._functions.call("enrichment_load_key", {"p_workspace_id": workspace_id})
        )

    async def swap_key(self, workspace_id: str, *, old: str, new: str) -> bool:
        """Replace a sealed key unless it changed meanwhile; return whether it was replaced."""
        answer = await self._functions.call(
            "enrichment_swap_key", {"p_workspace_id": workspace_id, "p_old": old, "p_new": new}
        )
        return bool(answer["swapped"])

    async def load_import(self, job_id: str, import_id: UUID) -> Import | None:
        """Load an import with its progress; None when it was deleted."""
        answer = await self._functions.call(
            "enrichment_load_import", {"p_job_id": job_id, "p_import_id": str(import_id)}
        )
        return Import.model_validate(answer) if answer else None

    async def store_batch(
        self, job_id: str, fence: int, import_id: UUID, *, from_row: int, batch: Mapping[str, Any]
    ) -> Import | None:
        """Store a batch if `from_row` is the import's position; return the new position.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was written.
        """
        answer = await self._functions.call(
            "enrichment_import_batch",
            {
                "p_job_id": job_id,
                "p_fence": fence,
                "p_import_id": str(import_id),
                "p_from_row": from_row,
                "p_batch": dict(batch),
            },
        )
        return Import.model_validate(answer["import"]) if answer["import"] else None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._functions.aclose()


class UserStore:
    """What a user may do, under the user's own token; one per request, cheap to make."""

    def __init__(self, functions: CallerFunctions) -> None:
        self._functions = functions

    async def get_settings(self, workspace_id: UUID) -> dict[str, Any]:
        """Read the settings; of the key only whether there is one, and its end."""
        return await self._call("get_workspace_settings", {"p_workspace_id": str(workspace_id)})

    async def put_settings(self, workspace_id: UUID, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change what `changes` names; managers only."""
        return await self._call(
            "put_workspace_settings",
            {"p_workspace_id": str(workspace_id), "p_changes": dict(changes)},
        )

    async def reseal_key(self, workspace_id: UUID) -> dict[str, Any]:
        """Enqueue the job that seals the stored key again; managers only."""
        return await self._call("reseal_apollo_key", {"p_workspace_id": str(workspace_id)})

    async def enrich(self, kind: Kind, record_id: UUID) -> dict[str, Any]:
        """Enqueue one record's enrichment, or find the job under way."""
        return await self._call(f"enrich_{kind}", {f"p_{kind}_id": str(record_id)}, repeatable=True)

    async def enrich_accounts(
        self, workspace_id: UUID, selection: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Enqueue a selection's enrichment, none twice while one is under way."""
        return await self._call(
            "enrich_accounts",
            {"p_workspace_id": str(workspace_id), "p_selection": dict(selection)},
            repeatable=True,
        )

    async def create_import(self, workspace_id: UUID, record: Mapping[str, Any]) -> dict[str, Any]:
        """Hand in an uploaded file: the import and its job, together."""
        return await self._call(
            "create_account_import", {"p_workspace_id": str(workspace_id), "p_import": dict(record)}
        )

    async def select(self, table: str, *params: tuple[str, str]) -> list[dict[str, Any]]:
        """Read rows under row level security."""
        return await self._functions.select(table, *params)

    async def _call(
        self, function: str, arguments: Mapping[str, Any], *, repeatable: bool = False
    ) -> dict[str, Any]:
        return await self._functions.call(function, arguments, repeatable=repeatable)
