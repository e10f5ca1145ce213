"""Verifying receipts without asking anyone: each check is named, and reported as made or not.

A receipt proves what its signer stated; that the signer measured honestly it cannot prove.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import ValidationError

from minutehand.apps.beacon import signing
from minutehand.apps.beacon.canonical import digest_of
from minutehand.apps.beacon.models import Bundle, JobSpec, Receipt
from minutehand.apps.beacon.responses import problem_with

State = Literal["passed", "failed", "not_made"]
#: How far ahead of the verifier's clock a receipt may say it was signed.
AHEAD = timedelta(hours=1)
#: The receipt before a bundle's first one is another job's, and not in it.
_SPARED = frozenset({"chain"})


class Unreadable(Exception):
    """What was given is neither a receipt nor a bundle nor a key set; the text says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one subject, and how it ended."""

    subject: str
    name: str
    state: State
    detail: str = ""


@dataclass(slots=True)
class Report:
    """Every check that was made, and those that could not be."""

    checks: list[Check] = field(default_factory=list)
    #: Whether less than a whole bundle was asked about.
    partial: bool = False

    @property
    def unchecked(self) -> list[Check]:
        """The checks that a whole bundle would have allowed, and this one did not."""
        return [c for c in self.checks if c.state == "not_made" and c.name not in _SPARED]

    @property
    def verdict(self) -> State:
        """Failed if any check failed; passed if every check that a bundle allows was made."""
        if any(check.state == "failed" for check in self.checks):
            return "failed"
        # without a key, or without any receipt, nothing is proved
        proved = [check for check in self.checks if check.name == "signature"]
        made = bool(proved) and all(check.state == "passed" for check in proved)
        return "passed" if made and (self.partial or not self.unchecked) else "not_made"

    def note(self, subject: str, name: str, problem: str | None, passed: str = "") -> bool:
        """Record a check that was made; return whether it passed."""
        state: State = "passed" if problem is None else "failed"
        self.checks.append(Check(subject, name, state, passed if problem is None else problem))
        return problem is None

    def skip(self, subject: str, name: str, reason: str) -> None:
        """Record a check that could not be made."""
        self.checks.append(Check(subject, name, "not_made", reason))

    def as_json(self) -> dict[str, Any]:
        """Return the report as the API and `--json` give it."""
        return {
            "verdict": self.verdict,
            "partial": self.partial,
            "checks": [
                {"subject": c.subject, "check": c.name, "state": c.state, "detail": c.detail}
                for c in self.checks
            ],
        }


@dataclass(frozen=True, slots=True)
class _Read:
    """A receipt that has the members of one."""

    subject: str
    digest: str | None
    receipt: Receipt


def load_json(text: str) -> Any:
    """Read JSON in which no name occurs twice in one object.

    Raises:
        Unreadable: It is not JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"this is not JSON: {error}") from error


def read_given(text: str) -> tuple[Bundle, bool]:
    """Read a bundle, or a single receipt, and return which it was.

    Raises:
        Unreadable: It is neither.
    """
    value = load_json(text)
    if not isinstance(value, dict):
        raise Unreadable("this is neither a receipt nor a bundle: it is not an object")
    alone = signing.SIGNATURE in value and "receipts" not in value
    try:
        bundle = Bundle.model_validate({"receipts": [value]} if alone else value)
    except ValidationError as error:
        raise Unreadable(f"this is neither a receipt nor a bundle: {_problem(error)}") from error
    return bundle, alone


def read_keys(value: Any) -> dict[str, dict[str, Any]]:
    """Read the Ed25519 keys of a JWK set (RFC 7517) by id; other kinds of keys are omitted.

    Raises:
        Unreadable: It is not a JWK set, a key is not the one its id says, or two have one id.
    """
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise Unreadable("this is not a JSON Web Key Set: `keys` is missing")
    found: dict[str, dict[str, Any]] = {}
    for key in value["keys"]:
        if not isinstance(key, dict) or key.get("kty") != "OKP" or key.get("crv") != "Ed25519":
            continue
        x, kid = key.get("x"), key.get("kid")
        if not isinstance(x, str) or not x.isascii() or kid != signing.thumbprint(x):
            raise Unreadable(f"the key {kid!r} does not match its id (RFC 7638)")
        if not all(isinstance(key.get(name, 0), int) for name in ("nbf", "exp")):
            raise Unreadable(f"nbf and exp of the key {kid!r} must be whole seconds")
        if kid in found:
            raise Unreadable(f"the key {kid!r} occurs twice in the set")
        found[kid] = key
    return found


def verify(
    bundle: Bundle,
    keys: Mapping[str, Mapping[str, Any]] | None,
    *,
    partial: bool = False,
    now: datetime | None = None,
) -> Report:
    """Check every receipt of a bundle, their chain, and the job spec that came with them.

    Args:
        keys: Public keys by id, from a source that is trusted; None when there are none: then
            nothing is proved, and the report says so.
        partial: Whether it may pass without the job spec.
        now: The verifier's clock; the system's when None.
    """
    report = Report(partial=partial)
    latest = (now or datetime.now(UTC)) + AHEAD
    read = [
        found
        for place, document in enumerate(bundle.receipts, 1)
        if (found := _check_receipt(report, place, document, keys, latest)) is not None
    ]
    # once: a bundle may bring a long spec and a thousand receipts
    spec_digest = None if bundle.jobspec is None else _digest_or_none(bundle.jobspec)
    spec = None if bundle.jobspec is None else _spec_or_none(bundle.jobspec)
    for one in read:
        _check_spec(report, one, spec, spec_digest, given=bundle.jobspec is not None)
    if bundle.jobspec is not None:
        _check_job(report, read)
    _check_chain(report, read)
    return report


def _check_receipt(
    report: Report,
    place: int,
    document: Mapping[str, Any],
    keys: Mapping[str, Mapping[str, Any]] | None,
    latest: datetime,
) -> _Read | None:
    subject = f"receipt at place {place}"
    try:
        receipt = Receipt.model_validate(document)
    except (ValidationError, RecursionError) as error:
        text = _problem(error) if isinstance(error, ValidationError) else "it is nested too deep"
        report.note(subject, "form", text)
        # what is not a receipt cannot be verified either
        report.note(subject, "signature", "the receipt cannot be read")
        return None
    subject = f"receipt {receipt.number}"
    report.note(subject, "form", None, receipt.format)
    _check_signature(report, subject, receipt, document, keys, latest)
    own = _digest_or_none(document["output"])
    problem = None if own == receipt.hashes.output else "the output is not the one signed for"
    report.note(subject, "output", problem, f"{len(receipt.output.data.responses)} answers")
    return _Read(subject, _digest_or_none(dict(document)), receipt)


def _check_signature(
    report: Report,
    subject: str,
    receipt: Receipt,
    document: Mapping[str, Any],
    keys: Mapping[str, Mapping[str, Any]] | None,
    latest: datetime,
) -> None:
    if keys is None:
        report.skip(subject, "signature", "no keys were given")
        report.skip(subject, "key", "no keys were given")
        return
    key = keys.get(receipt.key_id)
    if key is None:
        report.note(subject, "signature", f"the key {receipt.key_id} is not among the keys given")
        return
    try:
        signing.check(document, str(key["x"]))
    except signing.BadSignature as error:
        report.note(subject, "signature", str(error))
        return
    report.note(subject, "signature", None, f"by key {receipt.key_id}")
    report.note(subject, "key", _key_problem(receipt, key, latest), "valid when it was signed")


def _key_problem(receipt: Receipt, key: Mapping[str, Any], latest: datetime) -> str | None:
    try:
        at = datetime.fromisoformat(receipt.issued_at).timestamp()
    except ValueError:
        return "the receipt does not say when it was signed"
    if at > latest.timestamp():
        return "the receipt says it was signed in the future, by the clock here"
    if at < key.get("nbf", 0):
        return "the key was not yet valid when the receipt says it was signed"
    if at > key.get("exp", at):
        return "the key was no longer valid when the receipt says it was signed"
    return None


def _check_spec(
    report: Report, one: _Read, spec: JobSpec | None, spec_digest: str | None, *, given: bool
) -> None:
    if not given:
        report.skip(one.subject, "jobspec", "the job spec is not in the bundle")
        return
    if spec is None or spec_digest != one.receipt.hashes.jobspec:
        report.note(one.subject, "jobspec", "the job spec is not the one signed for")
        return
    known = one.receipt.region in spec.constraints.regions
    named = (spec.jobspec_id, str(spec.version)) == (
        one.receipt.jobspec_id,
        one.receipt.jobspec_version,
    )
    problem = (
        problem_with(one.receipt.output, spec)
        if known and named
        else "the region or the id is not the job spec's"
    )
    report.note(one.subject, "jobspec", problem, f"{len(spec.questions)} questions, each answered")


def _check_job(report: Report, read: Sequence[_Read]) -> None:
    """Check that a bundle is of one job, and has one receipt of each execution.

    The same spec may have run for another workspace: its receipts are genuine, and not this job's.
    """
    executions: set[str] = set()
    for one in read:
        problem = None
        if one.receipt.job_id != read[0].receipt.job_id:
            problem = "the receipt is of another job than the first"
        elif one.receipt.workspace_id != read[0].receipt.workspace_id:
            problem = "the receipt is of another workspace than the first"
        elif one.receipt.execution_id in executions:
            problem = "two receipts are of this execution"
        executions.add(one.receipt.execution_id)
        report.note(one.subject, "job", problem, f"of job {one.receipt.job_id}")


def _check_chain(report: Report, read: Sequence[_Read]) -> None:
    """Check each receipt's link to the one before it, where that one is in the bundle."""
    for workspace in sorted({one.receipt.workspace_id for one in read}):
        chain: dict[int, _Read] = {}
        for one in read:
            if one.receipt.workspace_id != workspace:
                continue
            if one.receipt.number in chain:
                report.note(one.subject, "chain", "two receipts have this number")
            chain[one.receipt.number] = one
        for number, one in sorted(chain.items()):
            previous = one.receipt.hashes.previous
            before = chain.get(number - 1)
            if number == 1 or previous is None:
                first = number == 1 and previous is None
                problem = None if first else "only the first receipt has none before it"
                report.note(one.subject, "chain", problem, "the chain begins here")
            elif before is None:
                report.skip(one.subject, "chain", f"receipt {number - 1} is not in the bundle")
            else:
                problem = None if before.digest == previous else "the link does not fit"
                report.note(one.subject, "chain", problem, f"follows receipt {number - 1}")


def _spec_or_none(value: Mapping[str, Any]) -> JobSpec | None:
    try:
        return JobSpec.model_validate(value)
    except (ValidationError, RecursionError):
        return None


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"


def _digest_or_none(value: Any) -> str | None:
    try:
        return digest_of(value)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found
