"""Receipts: signing by the app's one key, and verifying them without asking anyone.

A receipt proves what its signer stated; that the signer measured honestly it cannot prove.
"""

from __future__ import annotations

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
from minutehand.queue import ProcessorError
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
from minutehand_apps.beacon.store import WorkerStore

Keys = Mapping[str, str]


class Unreadable(Exception):
    """What was given is neither a bundle nor a receipt nor a key set; the text says why."""


def canonical(value: Any) -> bytes:
    """The one text of a JSON value (RFC 8785), in UTF-8.

    Raises:
        ValueError: It holds what JSON cannot carry unchanged.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from error


def digest_of(value: Any) -> str:
    """SHA-256 over the canonical JSON, as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def encode(data: bytes) -> str:
    """Write bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Read what `encode` wrote; ValueError for anything else."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def thumbprint(x: str) -> str:
    """The RFC 7638 thumbprint of an Ed25519 public key."""
    return encode(hashlib.sha256(canonical({"crv": "Ed25519", "kty": "OKP", "x": x})).digest())


class Signer:
    """Signs receipts by the app's key, which the first worker that needs it makes."""

    def __init__(self, settings: Settings, store: WorkerStore) -> None:
        self._settings = settings
        self._store = store
        self._key: Ed25519PrivateKey | None = None
        self.public: Keys = {}

    async def sign(self, stated: dict[str, Any]) -> dict[str, Any]:
        """Return the statement with its id, its time, and the signature over all of it.

        Raises:
            ProcessorError: The key cannot be opened here.
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
        """Open the key that signs; where there is none, make it."""
        if self._key is not None:
            return self._key
        sealer = make_sealer(self._settings)
        stored = await self._store.signing_key()
        if stored is None:
            made = Ed25519PrivateKey.generate()
            x = encode(made.public_key().public_bytes_raw())
            kid = thumbprint(x)
            sealed = await sealer.seal(
                encode(made.private_bytes_raw()), context=row_context(signing_key=kid)
            )
            stored = await self._store.signing_key({"kid": kid, "x": x, "sealed": sealed})
            assert stored is not None
        try:
            seed = await sealer.open(
                stored["sealed"], context=row_context(signing_key=stored["kid"])
            )
        except SealBroken as error:
            raise ProcessorError(
                "The key that signs receipts cannot be opened here: was it sealed by another "
                "key file or KMS key? See the app's README"
            ) from error
        self.public = {stored["kid"]: stored["x"]}
        self._key = Ed25519PrivateKey.from_private_bytes(decode(seed))
        return self._key


def stated_of(job: JobRow) -> dict[str, Any]:
    """What every receipt of a job states."""
    return {
        "workspace_id": str(job.workspace_id),
        "job_id": str(job.id),
        "jobspec_id": job.jobspec_id,
        "jobspec_version": job.version,
        "hashes": {"jobspec": digest_of(job.spec)},
    }


def receipt_of(job: JobRow, execution: ExecutionRow, gave: Mapping[str, Any]) -> dict[str, Any]:
    """State what one execution gave."""
    stated = stated_of(job)
    return {
        **stated,
        "format": "minutehand-beacon-receipt/2",
        "execution_id": str(execution.id),
        "region": execution.region,
        **gave,
        "hashes": {**stated["hashes"], "output": digest_of(gave["output"])},
    }


def signature_problem(document: Mapping[str, Any], keys: Keys) -> str | None:
    """Say why a document's signature proves nothing; None when it was made by one of the keys."""
    x = keys.get(str(document.get("key_id")))
    if x is None:
        return f"the key {document.get('key_id')} is not among the keys given"
    signed = {name: value for name, value in document.items() if name != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(decode(x))
        key.verify(decode(str(document.get("signature"))), canonical(signed))
    except (InvalidSignature, ValueError):
        return "it is not what was signed"
    return None


def read_keys(value: Any) -> dict[str, str]:
    """Read the Ed25519 keys of a JWK set (RFC 7517) by id.

    Raises:
        Unreadable: It is not a JWK set, or a key is not the one its id says.
    """
    listed = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise Unreadable("this is not a JSON Web Key Set: `keys` is missing")
    found: dict[str, str] = {}
    for key in listed:
        if isinstance(key, dict) and key.get("crv") == "Ed25519":
            x, kid = str(key.get("x")), str(key.get("kid"))
            if kid != thumbprint(x):
                raise Unreadable(f"the key {kid!r} does not match its id (RFC 7638)")
            found[kid] = x
    return found


@dataclass(slots=True)
class Report:
    """What verifying found: what was proved, what is wrong, what could not be checked."""

    passed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`failed`, `incomplete` where not everything could be checked, else `passed`."""
        if self.problems:
            return "failed"
        return "incomplete" if self.unchecked or not self.passed else "passed"

    def as_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {"verdict": self.verdict, **asdict(self)}


def verify(given: Any, keys: Keys) -> Report:
    """Verify a bundle, or a single receipt, by public keys from a source that is trusted.

    Raises:
        Unreadable: It is neither.
    """
    report = Report()
    if isinstance(given, dict) and "signature" in given:
        _check(report, given, keys)
        return report
    try:
        bundle = Bundle.model_validate(given)
    except ValidationError as error:
        said = f"this is neither a bundle nor a receipt: {first_problem(error)}"
        raise Unreadable(said) from error
    read = [_check(report, each, keys, bundle.jobspec) for each in bundle.receipts]
    receipts = [each for each in read if isinstance(each, Receipt)]
    if bundle.closing is None:
        report.unchecked.append("the closing receipt: the job had not ended, others may follow")
        return report
    closing = _check(report, bundle.closing, keys, bundle.jobspec)
    if not isinstance(closing, Closing):
        report.problems.append("closing: it is not a closing receipt")
        return report
    if any(each.job_id != closing.job_id for each in receipts):
        report.problems.append("closing: a receipt is of another job")
    here = len({each.execution_id for each in receipts})
    if here != closing.receipts:
        said = f"the job has {closing.receipts} receipts, and {here} are here"
        report.problems.append(f"closing: {said}")
    return report


def _check(
    report: Report, document: Any, keys: Keys, spec: Mapping[str, Any] | None = None
) -> Signed | None:
    """Check one receipt's form, signature and hashes; None where it cannot be read."""
    closes = isinstance(document, dict) and "reached" in document
    try:
        read: Signed = (Closing if closes else Receipt).model_validate(document)
    except (ValidationError, RecursionError) as error:
        text = first_problem(error) if isinstance(error, ValidationError) else "nested too deep"
        report.problems.append(f"receipt: {text}")
        return None
    name = read.region if isinstance(read, Receipt) else "closing"
    problem = signature_problem(document, keys)
    if isinstance(read, Receipt) and digest_of(document["output"]) != read.hashes.output:
        problem = problem or "the output is not the one signed for"
    if spec is not None:
        problem = problem or _spec_problem(read, spec)
    if problem is None:
        report.passed.append(name)
    else:
        report.problems.append(f"{name}: {problem}")
    return read


def _spec_problem(read: Signed, given: Mapping[str, Any]) -> str | None:
    """Say how a receipt does not fit the job spec that came with it."""
    try:
        same = digest_of(given) == read.hashes.jobspec
        spec = JobSpec.model_validate(given)
    except ValueError:
        return "the job spec cannot be read"
    if not same:
        return "the job spec is not the one signed for"
    if isinstance(read, Receipt):
        answered = [(each.question_id, each.question) for each in read.output.responses]
        if answered != [(each.question_id, each.question) for each in spec.asked]:
            return "there must be one answer per question, in order"
        if read.region not in spec.constraints.regions:
            return "the region is not the job spec's"
    return None
