"""A run of two regions with its receipts, as the processors would issue them, and its keys."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from minutehand.apps.beacon.canonical import digest, digest_of
from minutehand.apps.beacon.jws import SigningKey
from minutehand.apps.beacon.models import Head, Run, Spec, StoredReceipt, StoredSpec
from minutehand.apps.beacon.receipts import Signer, chained, state_region, state_run
from minutehand.apps.beacon.statistics import Sample, to_columns

AT = datetime(2025, 3, 1, 12, tzinfo=UTC)
WORKSPACE = UUID("11111111-1111-4111-8111-111111111111")
KEY = SigningKey.from_seed(bytes(range(32)))
SPEC = Spec.model_validate(
    {
        "target": {"url": "https://provider.example/v1"},
        "regions": ["eu-west-1", "us-east-1"],
        "samples": 4,
        "thresholds": {"p95_ms": 250, "error_rate": 0.25},
    }
).model_dump(mode="json")


def jwks(key: SigningKey = KEY, **more: int) -> dict[str, Any]:
    """The public key as the API publishes it."""
    return {
        "keys": [
            {
                "kty": "OKP", "crv": "Ed25519", "x": key.x, "kid": key.kid, "use": "sig",
                "alg": "EdDSA", "nbf": int(AT.timestamp()) - 60, **more,
            }
        ]
    }  # fmt: skip


def samples_of(region: str) -> list[Sample]:
    """Three successes and an error, other ones per region."""
    base = 100_000 + sum(region.encode())
    return [
        Sample(0, base, "ok:200"),
        Sample(5, base + 7_000, "ok:200"),
        Sample(9, 12, "connect"),
        Sample(120, base + 50_000, "ok:200"),
    ]


def make_bundle(key: SigningKey = KEY, *, head: Head | None = None) -> dict[str, Any]:
    """The bundle of a run after `head`, as the API hands it out."""
    spec = StoredSpec(
        id=UUID(int=1), workspace_id=WORKSPACE, name="models", version=1, spec=SPEC,
        digest=digest_of(SPEC), created_at=AT,
    )  # fmt: skip
    run = Run(
        id=UUID(int=2), workspace_id=WORKSPACE, regions=SPEC["regions"], outcome=None, created_at=AT
    )
    signer = Signer(job_id=str(UUID(int=3)), attempt=1, software="minutehand/test")
    head = head or Head(number=0, digest=None)
    entries: list[dict[str, Any]] = []
    stored: list[StoredReceipt] = []
    for region in SPEC["regions"]:
        samples = samples_of(region)
        statement = state_region(
            run, spec, signer, region=region, measured_from="aws/eu-west-1", samples=samples,
            started_at=AT, ended_at=AT,
        )  # fmt: skip
        payload = chained(statement, head, issued_at=AT)
        jws = key.sign(payload)
        stored.append(
            StoredReceipt(
                id=UUID(int=10 + head.number), workspace_id=WORKSPACE, number=payload["number"],
                run_id=run.id, region=region, job_id=UUID(int=3), digest=digest(jws),
                previous=head.digest, kid=key.kid, payload=payload, jws=jws, issued_at=AT,
            )
        )  # fmt: skip
        entries.append({"jws": jws, "samples": to_columns(samples)})
        head = Head(number=payload["number"], digest=digest(jws))
    whole = state_run(run, spec, signer, receipts=stored, ended_at=AT)
    entries.append({"jws": key.sign(chained(whole, head, issued_at=AT))})
    return {
        "format": "minutehand-beacon-bundle/1",
        "spec": copy.deepcopy(SPEC),
        "receipts": entries,
    }
