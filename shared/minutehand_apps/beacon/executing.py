"""Which providers are asked first, and what an execution's receipt states.

How a provider is spoken to is `provider_client`'s; what becomes of its answers, the processor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from minutehand.signing.canonical import digest_of
from minutehand.signing.signer import instant
from minutehand_apps.beacon.models import ExecutionRow, JobRow, ProviderHealth
from minutehand_apps.beacon.provider_client import ProviderAnswer
from minutehand_apps.beacon.settings import Provider


def by_health(
    providers: Sequence[Provider], health: Sequence[ProviderHealth], *, now: datetime
) -> list[Provider]:
    """Order a region's providers: the healthy in their own order, then those that kept failing."""
    failing = {each.provider for each in health if each.open_until and each.open_until > now}
    return sorted(providers, key=lambda each: each.name in failing)


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
