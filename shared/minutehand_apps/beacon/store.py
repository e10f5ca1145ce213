"""The app's SQL functions that the worker calls, as typed calls.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import Field

from minutehand.queue.functions import FunctionStore
from minutehand.signing.models import Row
from minutehand_apps.beacon.models import (
    Closed,
    Issued,
    OutboxRow,
    StartedExecution,
    StartedJob,
)


class ProviderReport(Row):
    """How a provider did its part."""

    provider: str
    region: str
    ok: bool
    error: str | None = None


class Reconciled(Row):
    """What the reconciler found and repaired, by kind; `ran` is False when another was faster."""

    ran: bool
    found: dict[str, int] = Field(default_factory=dict)


class AbandonedTask(Row):
    """Work that a provider still does though no one waits for it."""

    provider: str
    provider_task: str


class WorkerStore(FunctionStore):
    """What the worker may do, as `job_worker`; every call may be repeated.

    Each for a leased job raises LeaseLost when another attempt has taken over; nothing was
    stored then.
    """

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
        """Start the job of a leased `beacon_job`."""
        return StartedJob.model_validate(
            await self._functions.call_held("beacon_start", job_id, fence)
        )

    async def finish(
        self, job_id: str, fence: int, receipt: Mapping[str, Any] | None = None
    ) -> Closed:
        """End the job of a leased `beacon_job` with its closing receipt, or learn what to sign."""
        more = {} if receipt is None else {"receipt": dict(receipt)}
        return Closed.model_validate(
            await self._functions.call_held("beacon_finish", job_id, fence, **more)
        )

    async def close(self, receipt: Mapping[str, Any] | None = None) -> Closed:
        """Close a job that ended without its processor, or learn of one and what to sign."""
        arguments = {} if receipt is None else {"p_job_id": receipt["job_id"], "p_receipt": receipt}
        return Closed.model_validate(await self._functions.call("beacon_close", arguments))

    async def start_execution(self, job_id: str, fence: int) -> StartedExecution:
        """Start the execution of a leased `beacon_execution`."""
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
        """Store a signed receipt, or learn after which one it must be signed again."""
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

    async def health(self) -> dict[str, Any]:
        """Read the outbox's depth and the providers' state."""
        found: dict[str, Any] = await self._functions.call("beacon_health", {}, attempts=1)
        return found
