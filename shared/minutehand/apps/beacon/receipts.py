"""What receipts state: the payloads of a region's and a run's, before they are signed.

Their place in the chain is the database's to give; checking them is `verify`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from minutehand.apps.beacon.canonical import digest_of
from minutehand.apps.beacon.models import Head, Run, StoredReceipt, StoredSpec
from minutehand.apps.beacon.statistics import Sample, judge, judge_run, statistics, to_columns


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs: the job, its attempt, and the software's version."""

    job_id: str
    attempt: int
    software: str


def instant(at: datetime) -> str:
    """An instant as receipts write it: UTC, milliseconds, Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def state_region(
    run: Run,
    spec: StoredSpec,
    signer: Signer,
    *,
    region: str,
    measured_from: str,
    samples: Sequence[Sample],
    started_at: datetime,
    ended_at: datetime,
) -> dict[str, Any]:
    """What was measured for one region, before its place in the chain is known."""
    measured = statistics(samples)
    return {
        **_about(run, spec, signer, started_at, ended_at),
        "type": "beacon.region/1",
        "region_requested": region,
        "measured_from": measured_from,
        "samples": {"count": len(samples), "digest": digest_of(to_columns(samples))},
        "statistics": measured,
        "verdict": judge(measured, spec.spec["thresholds"]),
    }


def state_run(
    run: Run,
    spec: StoredSpec,
    signer: Signer,
    *,
    receipts: Sequence[StoredReceipt],
    ended_at: datetime,
) -> dict[str, Any]:
    """How the run ended: each region's receipt by its digest, or that it has none."""
    by_region = {receipt.region: receipt for receipt in receipts if receipt.region is not None}
    regions: list[dict[str, str]] = []
    for region in run.regions:
        receipt = by_region.get(region)
        regions.append(
            {"region": region, "status": "failed"}
            if receipt is None
            else {"region": region, "status": "completed", "receipt": receipt.digest}
        )
    whole = len(by_region) == len(run.regions)
    return {
        **_about(run, spec, signer, run.created_at, ended_at),
        "type": "beacon.run/1",
        "outcome": "completed" if whole else "partial" if by_region else "failed",
        "regions": regions,
        "verdict": judge_run(
            [receipt.payload["verdict"] for receipt in by_region.values()], whole=whole
        ),
    }


def chained(statement: dict[str, Any], head: Head, *, issued_at: datetime) -> dict[str, Any]:
    """The statement as the receipt after `head`."""
    return {
        **statement,
        "number": head.number + 1,
        "previous": head.digest,
        "issued_at": instant(issued_at),
    }


def _about(
    run: Run, spec: StoredSpec, signer: Signer, started_at: datetime, ended_at: datetime
) -> dict[str, Any]:
    return {
        "workspace_id": str(run.workspace_id),
        "run_id": str(run.id),
        "job_id": signer.job_id,
        "attempt": signer.attempt,
        "spec_name": spec.name,
        "spec_version": spec.version,
        "spec_digest": spec.digest,
        "started_at": instant(started_at),
        "ended_at": instant(ended_at),
        "software": signer.software,
    }
