"""Verifying receipts without asking anybody: each check is named, and told as made or not.

A bundle proves what its signer stated; that the signer told the truth is not to be proved so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from minutehand.apps.beacon import jws as jose
from minutehand.apps.beacon.canonical import digest, digest_of
from minutehand.apps.beacon.models import (
    Bundle,
    BundledReceipt,
    RegionStatement,
    RunStatement,
    Thresholds,
)
from minutehand.apps.beacon.statistics import from_columns, judge, judge_run, statistics

State = Literal["passed", "failed", "not_made"]
Statement = RegionStatement | RunStatement
#: How far ahead of the verifier's clock a receipt may say it was signed.
AHEAD = timedelta(hours=1)
#: Checks without which all is proved that a bundle can prove: the receipt before its first one is
#: another run's, and not in it.
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
        """What a whole bundle would have let us check, and this one did not."""
        return [c for c in self.checks if c.state == "not_made" and c.name not in _SPARED]

    @property
    def verdict(self) -> State:
        """Failed if any check failed; passed if none is left out that a whole bundle allows."""
        if any(check.state == "failed" for check in self.checks):
            return "failed"
        # without a key, or without any receipt, nothing is proved
        proved = [check for check in self.checks if check.name == "signature"]
        made = bool(proved) and all(check.state == "passed" for check in proved)
        return "passed" if made and (self.partial or not self.unchecked) else "not_made"

    def note(self, subject: str, name: str, problem: str | None, passed: str = "") -> bool:
        """Note a check that was made; tells whether it passed."""
        state: State = "passed" if problem is None else "failed"
        self.checks.append(Check(subject, name, state, passed if problem is None else problem))
        return problem is None

    def skip(self, subject: str, name: str, reason: str) -> None:
        """Note a check that could not be made."""
        self.checks.append(Check(subject, name, "not_made", reason))

    def as_json(self) -> dict[str, Any]:
        """The report as the API and `--json` give it."""
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
    """A receipt whose JWS could be taken apart."""

    subject: str
    entry: BundledReceipt
    digest: str
    statement: Statement


def load_json(text: str) -> Any:
    """JSON in which no name stands twice.

    Raises:
        Unreadable: It is no JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"this is no JSON: {error}") from error


def read_bundle(text: str) -> Bundle:
    """A bundle, or one receipt: a compact JWS, or an object with `jws`.

    Raises:
        Unreadable: It is none of them.
    """
    return read_given(text)[0]


def read_given(text: str) -> tuple[Bundle, bool]:
    """What `read_bundle` reads, and whether it is one receipt given by itself.

    Raises:
        Unreadable: It is neither.
    """
    stripped = text.strip()
    if stripped.count(".") == 2 and not stripped.startswith("{"):
        return _validated({"receipts": [{"jws": stripped}]}), True
    value = load_json(stripped)
    if isinstance(value, dict) and "format" not in value and isinstance(value.get("jws"), str):
        samples = value.get("samples")
        return _validated({"receipts": [{"jws": value["jws"], "samples": samples}]}), True
    if not isinstance(value, dict) or "format" not in value:
        raise Unreadable("this is neither a receipt nor a bundle: no `jws`, no `format`")
    return _validated(value), False


def read_keys(value: Any) -> dict[str, dict[str, Any]]:
    """The Ed25519 keys of a JWK set (RFC 7517) by their ids; keys of other kinds are left out.

    Raises:
        Unreadable: It is no JWK set, a key is not the one its id says, or two have one id.
    """
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise Unreadable("this is no JSON Web Key Set: no `keys`")
    found: dict[str, dict[str, Any]] = {}
    for key in value["keys"]:
        if not isinstance(key, dict) or key.get("kty") != "OKP" or key.get("crv") != "Ed25519":
            continue
        x, kid = key.get("x"), key.get("kid")
        if not isinstance(x, str) or kid != jose.thumbprint(x):
            raise Unreadable(f"the key {kid!r} is not the one its id says (RFC 7638)")
        if not all(isinstance(key.get(name, 0), int) for name in ("nbf", "exp")):
            raise Unreadable(f"nbf and exp of the key {kid!r} must be whole seconds")
        if kid in found:
            raise Unreadable(f"the key {kid!r} stands twice in the set: which one counts?")
        found[kid] = key
    return found


def verify(
    bundle: Bundle,
    keys: Mapping[str, Mapping[str, Any]] | None,
    *,
    partial: bool = False,
    now: datetime | None = None,
) -> Report:
    """Check every receipt of a bundle, how they hang together, and what came with them.

    Args:
        keys: Public keys by id, from whoever is trusted; None when there are none: then nothing
            is proved, and the report says so.
        partial: Whether it may pass though receipts, samples or the spec are not in it.
        now: The verifier's clock; the system's when none is given.
    """
    report = Report(partial=partial)
    latest = (now or datetime.now(UTC)) + AHEAD
    read = [
        found
        for place, entry in enumerate(bundle.receipts)
        if (found := _check_receipt(report, place, entry, keys, latest)) is not None
    ]
    # once: a bundle may bring a long text, and a thousand receipts
    spec_digest = None if bundle.spec is None else _digest_or_none(bundle.spec)
    for one in read:
        _check_spec(report, one, bundle.spec, spec_digest)
        if isinstance(one.statement, RegionStatement):
            _check_samples(report, one, one.statement, bundle.spec, spec_digest)
        elif one.entry.samples is not None:
            report.note(one.subject, "samples", "a run's receipt has no samples of its own")
    _check_chain(report, read)
    for one in read:
        if isinstance(one.statement, RunStatement):
            _check_run(report, one, one.statement, read)
    told = {one.statement.run_id for one in read if isinstance(one.statement, RunStatement)}
    for run_id in sorted({one.statement.run_id for one in read} - told):
        report.skip(f"run {run_id}", "run", "the run's own receipt is not in the bundle")
    return report


def _check_receipt(
    report: Report,
    place: int,
    entry: BundledReceipt,
    keys: Mapping[str, Mapping[str, Any]] | None,
    latest: datetime,
) -> _Read | None:
    subject = f"receipt at place {place + 1}"
    try:
        parsed = jose.parse(entry.jws)
    except jose.BadSignature as error:
        report.note(subject, "form", str(error))
        # what cannot be read cannot be verified either
        report.note(subject, "signature", "the receipt cannot be read")
        return None
    number = parsed.payload.get("number")
    subject = f"receipt {number}" if type(number) is int else subject
    report.note(subject, "form", None, "compact JWS, EdDSA, canonical JSON")
    _check_signature(report, subject, parsed, keys, latest)
    try:
        statement: Statement = _STATEMENTS.validate_python(parsed.payload)
    except ValidationError as error:
        report.note(subject, "schema", _problem(error))
        return None
    report.note(subject, "schema", None, statement.type)
    return _Read(subject, entry, digest(entry.jws), statement)


def _check_signature(
    report: Report,
    subject: str,
    parsed: jose.Parsed,
    keys: Mapping[str, Mapping[str, Any]] | None,
    latest: datetime,
) -> None:
    if keys is None:
        report.skip(subject, "signature", "no keys were given")
        report.skip(subject, "key", "no keys were given")
        return
    key = keys.get(parsed.kid)
    if key is None:
        report.note(subject, "signature", f"the key {parsed.kid} is not among the keys given")
        return
    try:
        jose.check(parsed, key["x"])
    except jose.BadSignature as error:
        report.note(subject, "signature", str(error))
        return
    report.note(subject, "signature", None, f"by key {parsed.kid}")
    report.note(subject, "key", _key_problem(parsed, key, latest), "valid when it was signed")


def _key_problem(parsed: jose.Parsed, key: Mapping[str, Any], latest: datetime) -> str | None:
    try:
        at = datetime.fromisoformat(parsed.payload["issued_at"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return "the receipt does not say when it was signed"
    if at > latest.timestamp():
        return "the receipt says it was signed in the future, by the clock here"
    if at < key.get("nbf", 0):
        return "the key was not yet valid when the receipt says it was signed"
    if at > key.get("exp", at):
        return "the key was no longer valid when the receipt says it was signed"
    return None


def _check_spec(
    report: Report, one: _Read, spec: Mapping[str, Any] | None, spec_digest: str | None
) -> None:
    if spec is None:
        report.skip(one.subject, "spec", "the spec is not in the bundle")
        return
    same = spec_digest == one.statement.spec_digest
    report.note(one.subject, "spec", None if same else "the spec is not the one signed for")
    regions = spec.get("regions")
    if not same or not isinstance(regions, list):
        return
    stated = one.statement
    if isinstance(stated, RegionStatement):
        known = stated.region_requested in regions
    else:
        known = [entry.region for entry in stated.regions] == regions
    report.note(one.subject, "regions", None if known else "the regions are not the spec's")


def _check_samples(
    report: Report,
    one: _Read,
    stated: RegionStatement,
    spec: Mapping[str, Any] | None,
    spec_digest: str | None,
) -> None:
    measured = stated.statistics.model_dump()
    columns = one.entry.samples
    if columns is None:
        report.skip(one.subject, "samples", "the samples are not in the bundle")
    elif _digest_or_none(columns) != stated.samples.digest:
        report.note(one.subject, "samples", "the samples are not the ones signed for")
    else:
        try:
            samples = from_columns(columns)
            problem = (
                None
                if statistics(samples) == measured and len(samples) == stated.samples.count
                else "the statistics are not those of the samples"
            )
        except ValueError as error:
            problem = str(error)
        report.note(one.subject, "samples", problem, f"{stated.samples.count} samples, recomputed")
    if spec is None or spec_digest != stated.spec_digest:
        report.skip(one.subject, "verdict", "the thresholds stand in the spec")
        return
    try:
        # the digest says whose text it is, not that it is a spec's: a long text times 1000 is none
        Thresholds.model_validate(spec["thresholds"], strict=True)
        same = judge(measured, spec["thresholds"]) == stated.verdict
    except (KeyError, ValidationError):
        same = False
    report.note(one.subject, "verdict", None if same else "the verdict does not follow")


def _check_chain(report: Report, read: Sequence[_Read]) -> None:
    """Each receipt's link to the one before it; which of them are here is for the bundle to say."""
    for workspace in sorted({one.statement.workspace_id for one in read}):
        chain: dict[int, _Read] = {}
        for one in read:
            if one.statement.workspace_id != workspace:
                continue
            if one.statement.number in chain:
                report.note(one.subject, "chain", "two receipts have this number")
            chain[one.statement.number] = one
        for number, one in sorted(chain.items()):
            previous = one.statement.previous
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


def _check_run(report: Report, one: _Read, stated: RunStatement, read: Iterable[_Read]) -> None:
    here = {
        other.digest: other.statement
        for other in read
        if isinstance(other.statement, RegionStatement)
    }
    of_run = {key: value for key, value in here.items() if value.run_id == stated.run_id}
    named = {entry.receipt: entry.region for entry in stated.regions if entry.receipt is not None}
    problem = _run_problem(stated, of_run, named)
    missing = len(named.keys() - of_run.keys())
    if problem is None and missing:
        report.skip(one.subject, "run", f"{missing} receipts it names are not in the bundle")
        return
    report.note(one.subject, "run", problem, f"names {len(named)} receipts, all here")


def _run_problem(
    stated: RunStatement, of_run: Mapping[str, RegionStatement], named: Mapping[str, str]
) -> str | None:
    """What of a run's receipt does not fit the receipts of its regions."""
    if any((entry.receipt is None) != (entry.status == "failed") for entry in stated.regions):
        return "a region's status does not fit its receipt"
    outcome = "completed" if len(named) == len(stated.regions) else "partial" if named else "failed"
    if stated.outcome != outcome:
        return "the outcome does not follow from the regions"
    for key, region in of_run.items():
        if named.get(key) != region.region_requested:
            return f"the receipt of {region.region_requested} here is not the one it names"
    if named.keys() <= of_run.keys():
        verdicts = [of_run[key].verdict for key in named]
        if judge_run(verdicts, whole=outcome == "completed") != stated.verdict:
            return "the verdict does not follow from the regions'"
    return None


_STATEMENTS: TypeAdapter[Statement] = TypeAdapter(RegionStatement | RunStatement)


def _validated(value: Any) -> Bundle:
    try:
        return Bundle.model_validate(value)
    except ValidationError as error:
        raise Unreadable(f"this is no bundle: {_problem(error)}") from error


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the payload'}: {first['msg']}"


def _digest_or_none(value: Mapping[str, Any]) -> str | None:
    try:
        return digest_of(dict(value))
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found
