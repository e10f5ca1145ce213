"""Receipts signed by a known key, for the tests of verifiers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from minutehand.apps.beacon.canonical import digest_of
from minutehand.apps.beacon.executing import ProviderAnswer
from minutehand.apps.beacon.models import ExecutionRow, Head, JobRow, JobSpec
from minutehand.apps.beacon.receipts import chained, statement
from minutehand.apps.beacon.responses import read_output
from minutehand.apps.beacon.signing import SigningKey

KEY = SigningKey.from_seed(b"k" * 32)
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "jobspec_id": "spec-1",
    "version": "1",
    "benchmark": {"name": "trivia", "weight": 0.5},
    "constraints": {"regions": ["us-east", "eu-west"], "min_regions": 1},
    "questions": ["Why?", {"id": "m", "question": "What is 2 + 2?", "category": "maths"}],
}


def jwks(key: SigningKey = KEY, **more: Any) -> dict[str, Any]:
    """The key set that a deployment with this key publishes."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": key.x, "kid": key.kid, "nbf": 0}
    return {"keys": [{**jwk, **more}]}


def make_bundle(key: SigningKey = KEY, *, head: Head | None = None) -> dict[str, Any]:
    """A job's two receipts in one chain, with its spec."""
    head = head or Head(number=0, digest=None)
    spec = JobSpec.model_validate(SPEC)
    job = JobRow(
        id=UUID(int=1),
        workspace_id=UUID(int=2),
        jobspec_id="spec-1",
        version="1",
        spec=SPEC,
        priority=100,
        status="processing",
    )
    receipts = []
    for place, region in enumerate(spec.constraints.regions):
        answers = [
            {
                "question_id": each.question_id,
                "question": each.question,
                "response": f"Because “{region}”, \\ é\n{place}",
                "duration_ms": 12,
            }
            for each in spec.asked
        ]
        execution = ExecutionRow(
            id=UUID(int=10 + place), region=region, model="default", status="processing"
        )
        stated = statement(
            job,
            execution,
            ProviderAnswer("alpha", "m-1", read_output({"responses": answers}, spec)),
            spec_digest=digest_of(SPEC),
            started_at=AT,
            completed_at=AT + timedelta(seconds=1),
            software="minutehand/test",
        )
        stated["id"] = str(UUID(int=20 + place))
        receipt = key.sign(chained(stated, head, issued_at=AT + timedelta(seconds=place)))
        receipts.append(receipt)
        head = Head(number=receipt["number"], digest=digest_of(receipt))
    return {"format": "minutehand-beacon-bundle/1", "jobspec": SPEC, "receipts": receipts}


def resigned(place: int, key: SigningKey = KEY, **fields: Any) -> dict[str, Any]:
    """The bundle with one receipt's members replaced, and signed again by the key."""
    bundle = make_bundle()
    receipt = {**bundle["receipts"][place], **fields}
    del receipt["signature"]
    bundle["receipts"][place] = key.sign(receipt)
    return bundle
