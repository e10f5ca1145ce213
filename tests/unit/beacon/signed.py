"""Receipts signed by a known key, for the tests of verifiers."""

from __future__ import annotations

import copy
import functools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from minutehand.signing.canonical import digest_of
from minutehand.signing.keys import SigningKey
from minutehand.signing.models import Head
from minutehand.signing.signer import chained, instant
from minutehand_apps.beacon.executing import statement
from minutehand_apps.beacon.models import ExecutionRow, JobRow, JobSpec
from minutehand_apps.beacon.provider_client import ProviderAnswer
from minutehand_apps.beacon.responses import read_output

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
    return copy.deepcopy(_bundle(key, head))


@functools.cache
def _bundle(key: SigningKey, head: Head | None) -> dict[str, Any]:
    head = head or Head(number=0, digest=None)
    spec = JobSpec.model_validate(SPEC)
    job = JobRow(
        id=UUID(int=1),
        workspace_id=UUID(int=2),
        jobspec_id="spec-1",
        version="1",
        spec=SPEC,
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
        execution = ExecutionRow(id=UUID(int=10 + place), region=region, model="default")
        stated = statement(
            job,
            execution,
            ProviderAnswer("alpha", "m-1", read_output({"responses": answers}, spec)),
            spec_digest=digest_of(SPEC),
            started_at=AT,
            completed_at=AT + timedelta(seconds=1),
        )
        stated |= {"id": str(UUID(int=20 + place)), "software": "minutehand/test"}
        receipt = key.sign(chained(stated, head, issued_at=AT + timedelta(seconds=place)))
        receipts.append(receipt)
        head = Head(number=receipt["number"], digest=digest_of(receipt))
    closing = key.sign(chained(closing_of(receipts), head, issued_at=AT + timedelta(seconds=9)))
    return {
        "format": "minutehand-beacon-bundle/1",
        "jobspec": SPEC,
        "receipts": receipts,
        "closing": closing,
    }


def closing_of(receipts: list[dict[str, Any]]) -> dict[str, Any]:
    """What closes the job of these receipts, before its place in the chain is known."""
    return {
        "format": "minutehand-beacon-closing/1",
        "id": str(UUID(int=30)),
        "workspace_id": str(UUID(int=2)),
        "job_id": str(UUID(int=1)),
        "jobspec_id": "spec-1",
        "jobspec_version": "1",
        "status": "completed",
        "error": None,
        "reached": [each["region"] for each in receipts],
        "receipts": len(receipts),
        "executions": [
            {
                "execution_id": each["execution_id"],
                "region": each["region"],
                "model": each["model"],
                "status": "completed",
                "error": None,
                "receipt": digest_of(each),
            }
            for each in receipts
        ],
        "started_at": instant(AT),
        "completed_at": instant(AT + timedelta(seconds=8)),
        "hashes": {"jobspec": digest_of(SPEC)},
        "software": "minutehand/test",
    }


def resigned(place: int, key: SigningKey = KEY, **fields: Any) -> dict[str, Any]:
    """The bundle with one receipt's members replaced, and all that follows signed again."""
    bundle = make_bundle()
    receipts = bundle["receipts"]
    receipts[place] = key.sign(_unsigned({**receipts[place], **fields}))
    return reclosed(bundle, key)


def reclosed(bundle: dict[str, Any], key: SigningKey = KEY, **fields: Any) -> dict[str, Any]:
    """The bundle with a closing receipt of just its receipts, and other members if given."""
    closing = {**bundle["closing"], **closing_of(bundle["receipts"]), **fields}
    previous = digest_of(bundle["receipts"][-1])
    closing["hashes"] = {"jobspec": digest_of(SPEC), "previous": previous}
    return {**bundle, "closing": key.sign(_unsigned(closing))}


def _unsigned(receipt: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in receipt.items() if name != "signature"}
