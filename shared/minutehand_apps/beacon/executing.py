"""One execution at one provider, as `worker.remote` asks for it, and what its receipt states.

What becomes of the answers is the processor's; how a provider is spoken to, the client's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from minutehand.signing.canonical import digest_of
from minutehand.signing.signer import instant
from minutehand.worker.remote import RemoteFailed, RemoteTask
from minutehand_apps.beacon.models import (
    DEFAULT_MODEL,
    ExecutionRow,
    JobRow,
    JobSpec,
    Output,
    ProviderHealth,
)
from minutehand_apps.beacon.provider_client import ProviderClient
from minutehand_apps.beacon.responses import OutputRejected, read_output
from minutehand_apps.beacon.settings import Provider


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """What a provider gave."""

    provider: str
    model: str
    output: Output


def by_health(
    providers: Sequence[Provider], health: Sequence[ProviderHealth], *, now: datetime
) -> list[Provider]:
    """Order a region's providers: the healthy in their own order, then those that kept failing."""
    failing = {each.provider for each in health if each.open_until and each.open_until > now}
    return sorted(providers, key=lambda each: each.name in failing)


@dataclass(frozen=True, slots=True)
class AtProvider:
    """One execution at one provider; a service of `worker.remote`."""

    client: ProviderClient
    provider: Provider
    execution: ExecutionRow
    spec: JobSpec

    @property
    def name(self) -> str:
        """The provider's."""
        return self.provider.name

    async def submit(self, *, left: float) -> str:
        """Have it begin; the same execution again is the same task."""
        task = await self.client.submit(
            self.provider, self.execution, self.spec, timeout_seconds=left
        )
        return task.task_id

    async def poll(self, task_id: str) -> RemoteTask:
        """Ask how far it is."""
        task = await self.client.poll(self.provider, task_id)
        if task.status in {"accepted", "queued", "running"}:
            return RemoteTask("running")
        return RemoteTask(task.status, task.error)  # type: ignore[arg-type]

    async def result(self, task_id: str) -> ProviderAnswer:
        """Fetch the answers, and refuse those of anything else than what was asked."""
        result = await self.client.result(self.provider, task_id)
        asked, name = self.execution, self.name
        if result.task_id != task_id or result.execution_id != str(asked.id):
            raise RemoteFailed(f"{name} gave the result of another execution")
        if result.region != asked.region:
            raise RemoteFailed(f"{name} ran in region {result.region[:63]!r}, not {asked.region!r}")
        if asked.model not in {result.model, DEFAULT_MODEL}:
            raise RemoteFailed(f"{name} ran {result.model!r}, not {asked.model!r}")
        try:
            output = read_output(result.data, self.spec)
        except OutputRejected as error:
            raise RemoteFailed(f"{name}: {error}") from error
        return ProviderAnswer(name, result.model, output)

    async def cancel(self, task_id: str) -> None:
        """Ask it to stop."""
        await self.client.cancel(self.provider, task_id)


def statement(
    job: JobRow,
    execution: ExecutionRow,
    gave: ProviderAnswer,
    *,
    spec_digest: str,
    started_at: datetime,
    completed_at: datetime,
) -> dict[str, Any]:
    """State what one execution gave, before its place in the chain is known."""
    output = gave.output.model_dump(mode="json", exclude_none=True)
    return {
        "format": "minutehand-beacon-receipt/1",
        "workspace_id": str(job.workspace_id),
        "job_id": str(job.id),
        "jobspec_id": job.jobspec_id,
        "jobspec_version": job.version,
        "execution_id": str(execution.id),
        "region": execution.region,
        "provider": gave.provider,
        "model": gave.model,
        "started_at": instant(started_at),
        "completed_at": instant(completed_at),
        "output": output,
        "hashes": {"jobspec": spec_digest, "output": digest_of(output)},
    }
