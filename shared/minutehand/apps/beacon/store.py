"""The app's SQL functions as typed calls: the worker's, and a member's.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from minutehand.apps.beacon.models import (
    Finished,
    Issued,
    OutboxRow,
    SealedKey,
    StartedExecution,
    StartedJob,
)
from minutehand.config import Settings
from minutehand.queue.functions import CallerFunctions, WorkerFunctions


class ProviderReport(BaseModel):
    """How a provider did its part."""

    model_config = ConfigDict(frozen=True)

    provider: str
    region: str
    ok: bool
    error: str | None = None


class Reconciled(BaseModel):
    """What the reconciler found and repaired, by kind; `ran` is False when another was faster."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    ran: bool
    found: dict[str, int] = Field(default_factory=dict)


class AbandonedTask(BaseModel):
    """Work that a provider still does though no one waits for it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    provider: str
    provider_task: str


class WorkerStore:
    """What the worker may do, as `job_worker`; every call may be repeated."""

    def __init__(self, settings: Settings) -> None:
        self._functions = WorkerFunctions(settings)

    async def claim_outbox(self, *, limit: int) -> list[OutboxRow]:
        """Take messages that are due, oldest first; each is offered again after its backoff."""
        # once: a run that cannot publish must not wait for it; the next round is a second away
        answer = await self._functions.call("beacon_claim_outbox", {"p_limit": limit}, attempts=1)
        return [OutboxRow.model_validate(row) for row in answer["rows"]]

    async def publish(self, ids: Sequence[UUID], refused: Sequence[Mapping[str, str]]) -> int:
        """Enqueue claimed messages and make the refused ones dead letters; returns how many."""
        answer = await self._functions.call(
            "beacon_publish", {"p_ids": [str(each) for each in ids], "p_refused": list(refused)}
        )
        return int(answer["published"])

    async def reconcile(self, *, every_seconds: int) -> Reconciled:
        """Find and repair what should not be, unless a worker did within `every_seconds`."""
        arguments = {"p_every_seconds": every_seconds}
        answer = await self._functions.call("beacon_reconcile", arguments, attempts=1)
        return Reconciled.model_validate(answer)

    async def take_abandoned(self) -> list[AbandonedTask]:
        """Take tasks that providers must be asked to stop; each is returned once."""
        answer = await self._functions.call("beacon_take_abandoned", {}, repeatable=False)
        return [AbandonedTask.model_validate(each) for each in answer["tasks"]]

    async def start(self, job_id: str, fence: int) -> StartedJob:
        """Start the job of a leased `beacon_job`.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        return StartedJob.model_validate(
            await self._functions.call_held("beacon_start", job_id, fence)
        )

    async def finish(self, job_id: str, fence: int) -> Finished:
        """End the job of a leased `beacon_job` by what its executions came to.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        return Finished.model_validate(
            await self._functions.call_held("beacon_finish", job_id, fence)
        )

    async def start_execution(self, job_id: str, fence: int) -> StartedExecution:
        """Start the execution of a leased `beacon_execution`.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        return StartedExecution.model_validate(
            await self._functions.call_held("beacon_start_execution", job_id, fence)
        )

    async def note_execution(
        self, job_id: str, fence: int, *, provider: str | None, task: str | None
    ) -> None:
        """Note which provider works on a leased execution, for the run after a wait."""
        await self._functions.call_held(
            "beacon_note_execution", job_id, fence, provider=provider, task=task
        )

    async def issue(self, job_id: str, fence: int, receipt: Mapping[str, Any]) -> Issued:
        """Store a signed receipt, or learn after which one it must be signed again.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was stored.
        """
        return Issued.model_validate(
            await self._functions.call_held("beacon_issue", job_id, fence, receipt=dict(receipt))
        )

    async def cancel_stragglers(self, job_id: str, fence: int) -> None:
        """Cancel the other executions of a leased execution's job."""
        await self._functions.call_held("beacon_cancel_stragglers", job_id, fence)

    async def report_providers(self, reports: Sequence[ProviderReport]) -> None:
        """Record the outcomes of calls of providers; each provider and region at most once."""
        await self._functions.call(
            "beacon_report_providers", {"p_reports": [each.model_dump() for each in reports]}
        )

    async def add_key(self, kid: str, x: str, sealed: str) -> SealedKey:
        """Add a signing key; returns the current one, which is another where one was there."""
        key = {"kid": kid, "x": x, "sealed": sealed}
        return SealedKey.model_validate(
            await self._functions.call("beacon_add_key", {"p_key": key})
        )

    async def health(self) -> dict[str, Any]:
        """Read the outbox's depth, the providers' state and the reconciler's last run."""
        found: dict[str, Any] = await self._functions.call("beacon_health", {}, attempts=1)
        return found

    async def aclose(self) -> None:
        """Close the connections."""
        await self._functions.aclose()


class MemberStore:
    """What a member may do, under the member's own token; one per request, cheap to make."""

    def __init__(self, functions: CallerFunctions) -> None:
        self._functions = functions

    async def submit(
        self, spec: Mapping[str, Any], *, workspace_id: UUID | None, priority: int
    ) -> dict[str, Any]:
        """Submit a job spec, or find the job it already is."""
        arguments = {
            "p_spec": dict(spec),
            "p_workspace_id": None if workspace_id is None else str(workspace_id),
            "p_priority": priority,
        }
        return await self._functions.call("beacon_submit", arguments, repeatable=True)

    async def cancel(self, job_id: UUID) -> dict[str, Any]:
        """Cancel a job and its executions."""
        return await self._functions.call("beacon_cancel", {"p_id": str(job_id)}, repeatable=True)

    async def redrive(
        self, *, workspace_id: UUID | None, ids: Sequence[UUID] | None
    ) -> dict[str, Any]:
        """Publish dead letters of the outbox again."""
        arguments = {
            "p_workspace_id": None if workspace_id is None else str(workspace_id),
            "p_ids": None if ids is None else [str(each) for each in ids],
        }
        return await self._functions.call("beacon_redrive", arguments, repeatable=True)

    async def select(self, table: str, *params: tuple[str, str]) -> list[dict[str, Any]]:
        """Read rows under row level security."""
        return await self._functions.select(table, *params)
