"""What a receipt states of an execution, before it is signed.

Its place in the chain is the database's to give; checking it is `verify`'s.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from minutehand.apps.beacon.canonical import digest_of
from minutehand.apps.beacon.executing import ProviderAnswer
from minutehand.apps.beacon.models import ExecutionRow, Head, JobRow

FORMAT = "minutehand-beacon-receipt/1"


def instant(at: datetime) -> str:
    """Write an instant as receipts do: UTC, milliseconds, Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def statement(
    job: JobRow,
    execution: ExecutionRow,
    gave: ProviderAnswer,
    *,
    spec_digest: str,
    started_at: datetime,
    completed_at: datetime,
    software: str,
) -> dict[str, Any]:
    """State what one execution gave, before its place in the chain is known."""
    output = gave.output.model_dump(mode="json", exclude_none=True)
    return {
        "format": FORMAT,
        "id": str(uuid.uuid4()),
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
        "software": software,
    }


def chained(stated: dict[str, Any], head: Head, *, issued_at: datetime) -> dict[str, Any]:
    """Return the statement as the receipt after `head`."""
    return {
        **stated,
        "number": head.number + 1,
        "issued_at": instant(issued_at),
        "hashes": {**stated["hashes"], "previous": head.digest},
    }
