"""Receipts, which are signed with the app's key and can be verified offline.

A receipt proves what its signer stated. A receipt does not prove that the measurement was honest.
"""

import base64
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from minutehand.aws import SealBroken, make_sealer, row_context
from minutehand.config import Settings
from minutehand.queue import ProcessorError, WorkerFunctions
from minutehand_apps.beacon.models import (
    Bundle,
    Closing,
    ExecutionRow,
    JobRow,
    JobSpec,
    Receipt,
    Signed,
    first_problem,
)

Keys = Mapping[str, str]


class Unreadable(Exception):
    """The input is not a bundle, a receipt or a key set. The message contains the reason."""


def canonical(value: Any) -> bytes:
    """Serialize a JSON value in its canonical form (RFC 8785) as UTF-8.

    Raises:
        ValueError: JSON cannot represent the value exactly.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from error


def sha256_digest(value: Any) -> str:
    """Return the SHA-256 hash of a value's canonical JSON, as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def encode(data: bytes) -> str:
    """Encode bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Decode base64url without padding. Raises ValueError for any other text."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def thumbprint(x: str) -> str:
    """Return the RFC 7638 thumbprint of an Ed25519 public key."""
    return encode(hashlib.sha256(canonical({"crv": "Ed25519", "kty": "OKP", "x": x})).digest())


class Signer:
    """Signs receipts with the app's key. The first worker creates the key."""

    def __init__(self, settings: Settings, worker: WorkerFunctions) -> None:
        self._settings = settings
        self._worker = worker
        self._key: Ed25519PrivateKey | None = None
        self.public: Keys = {}

    async def sign(self, stated: dict[str, Any]) -> dict[str, Any]:
        """Return a receipt with an id, the time, and a signature of all of its fields.

        Raises:
            ProcessorError: This process cannot decrypt the signing key.
        """
        key = await self.key()
        now = datetime.now(UTC)
        statement = {
            **stated,
            "id": str(uuid.uuid4()),
            "issued_at": f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z",
            "software": f"minutehand/{self._settings.version}",
            "key_id": next(iter(self.public)),
        }
        return {**statement, "signature": encode(key.sign(canonical(statement)))}

    async def key(self) -> Ed25519PrivateKey:
        """Return the decrypted signing key. Create a key if there is none."""
        if self._key is not None:
            return self._key
        sealer = make_sealer(self._settings)
        stored = await self._worker.call("beacon_key", {})
        if stored is None:
            key = Ed25519PrivateKey.generate()
            x = encode(key.public_key().public_bytes_raw())
            kid = thumbprint(x)
            sealed = await sealer.seal(
                encode(key.private_bytes_raw()), context=row_context(signing_key=kid)
            )
            made = {"kid": kid, "x": x, "sealed": sealed}
            stored = await self._worker.call("beacon_key", {"p_made": made})
        try:
            seed = await sealer.open(
                stored["sealed"], context=row_context(signing_key=stored["kid"])
            )
        except SealBroken as error:
            raise ProcessorError(
                "The key that signs receipts cannot be unsealed here. It was probably sealed with "
                "another key file or KMS key. See the app's README."
            ) from error
        self.public = {stored["kid"]: stored["x"]}
        self._key = Ed25519PrivateKey.from_private_bytes(decode(seed))
        return self._key


def shared_fields(job: JobRow) -> dict[str, Any]:
    """Return the fields that all receipts of a job have in common."""
    return {
        "workspace_id": str(job.workspace_id),
        "job_id": str(job.id),
        "jobspec_id": job.jobspec_id,
        "jobspec_version": job.version,
        "hashes": {"jobspec": sha256_digest(job.spec)},
    }


def build_receipt(
    job: JobRow, execution: ExecutionRow, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the receipt of one execution, without its signature."""
    stated = shared_fields(job)
    return {
        **stated,
        "format": "minutehand-beacon-receipt/2",
        "execution_id": str(execution.id),
        "region": execution.region,
        **result,
        "hashes": {**stated["hashes"], "output": sha256_digest(result["output"])},
    }


def signature_problem(document: Mapping[str, Any], keys: Keys) -> str | None:
    """Return the problem with a document's signature, or None if one of the keys signed it."""
    x = keys.get(str(document.get("key_id")))
    if x is None:
        return f"the key {document.get('key_id')} is not in the key set"
    signed = {name: value for name, value in document.items() if name != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(decode(x))
        key.verify(decode(str(document.get("signature"))), canonical(signed))
    except (InvalidSignature, ValueError):
        return "the signature does not match"
    return None


def read_keys(value: Any) -> dict[str, str]:
    """Return the Ed25519 keys in a JWK set (RFC 7517) by their ids.

    Raises:
        Unreadable: The value is not a JWK set, or the id of a key does not match the key.
    """
    listed = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise Unreadable("this is not a JSON Web Key Set: `keys` is missing")
    keys: dict[str, str] = {}
    for key in listed:
        if isinstance(key, dict) and key.get("crv") == "Ed25519":
            x, kid = str(key.get("x")), str(key.get("kid"))
            if kid != thumbprint(x):
                raise Unreadable(f"the key {kid!r} does not match its id (RFC 7638)")
            keys[kid] = x
    return keys


@dataclass
class Report:
    """Result of a verification: passed checks, problems, and checks that were not possible."""

    passed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`failed` after a problem, `incomplete` if a check was not possible, else `passed`."""
        if self.problems:
            return "failed"
        return "incomplete" if self.unchecked or not self.passed else "passed"

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object, for the option `--json`."""
        return {"verdict": self.verdict, **asdict(self)}


def verify(document: Any, keys: Keys) -> Report:
    """Verify a bundle or a single receipt by public keys that the caller trusts.

    Raises:
        Unreadable: The document is neither a bundle nor a receipt.
    """
    report = Report()
    if isinstance(document, dict) and "signature" in document:
        _check(report, document, keys)
        return report
    try:
        bundle = Bundle.model_validate(document)
    except ValidationError as error:
        message = f"this is neither a bundle nor a receipt: {first_problem(error)}"
        raise Unreadable(message) from error
    checked = [_check(report, receipt, keys, bundle.jobspec) for receipt in bundle.receipts]
    receipts = [receipt for receipt in checked if isinstance(receipt, Receipt)]
    if bundle.closing is None:
        report.unchecked.append("closing receipt: the job had not ended, more may follow")
        return report
    closing = _check(report, bundle.closing, keys, bundle.jobspec)
    if not isinstance(closing, Closing):
        report.problems.append("closing: this is not a closing receipt")
        return report
    if any(receipt.job_id != closing.job_id for receipt in receipts):
        report.problems.append("closing: a receipt belongs to another job")
    count = len({receipt.execution_id for receipt in receipts})
    if count != closing.receipts:
        message = f"the job has {closing.receipts} receipts, but the bundle has {count}"
        report.problems.append(f"closing: {message}")
    return report


def _check(
    report: Report, document: Any, keys: Keys, spec: Mapping[str, Any] | None = None
) -> Signed | None:
    """Check the form, the signature and the hashes of a receipt.

    Return None if the receipt cannot be parsed.
    """
    closes = isinstance(document, dict) and "reached" in document
    try:
        receipt: Signed = (Closing if closes else Receipt).model_validate(document)
    except (ValidationError, RecursionError) as error:
        text = first_problem(error) if isinstance(error, ValidationError) else "too deeply nested"
        report.problems.append(f"receipt: {text}")
        return None
    name = receipt.region if isinstance(receipt, Receipt) else "closing"
    problem = signature_problem(document, keys)
    if isinstance(receipt, Receipt) and sha256_digest(document["output"]) != receipt.hashes.output:
        problem = problem or "the output differs from the signed output"
    if spec is not None:
        problem = problem or _spec_problem(receipt, spec)
    if problem is None:
        report.passed.append(name)
    else:
        report.problems.append(f"{name}: {problem}")
    return receipt


def _spec_problem(receipt: Signed, document: Mapping[str, Any]) -> str | None:
    """Return the contradiction between a receipt and the job spec of its bundle, or None."""
    try:
        same = sha256_digest(document) == receipt.hashes.jobspec
        spec = JobSpec.model_validate(document)
    except ValueError:
        return "the job spec cannot be read"
    if not same:
        return "the job spec differs from the signed job spec"
    if isinstance(receipt, Receipt):
        answered = [(answer.question_id, answer.question) for answer in receipt.output.responses]
        if answered != [(answer.question_id, answer.question) for answer in spec.asked_questions]:
            return "there must be one answer per question, in order"
        if receipt.region not in spec.constraints.regions:
            return "the job spec does not name the region"
    return None
