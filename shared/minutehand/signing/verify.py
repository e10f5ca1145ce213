"""Verifying receipts without asking anyone: each check is named, and reported as made or not.

A receipt proves what its signer stated; that the signer worked honestly it cannot prove.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import ValidationError

from minutehand import strict_json
from minutehand.signing import keys as signing
from minutehand.signing.bundle import JobBundle
from minutehand.signing.canonical import digest, digest_or_none
from minutehand.signing.models import MAX_CHILDREN, Closing, Receipt, Signed, first_problem

State = Literal["passed", "failed", "not_made"]
S = TypeVar("S", bound=Signed)
KeySet = Mapping[str, Mapping[str, Any]]
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
class Read(Generic[S]):
    """A statement that has the members of one."""

    subject: str
    digest: str | None
    receipt: S
    document: Mapping[str, Any]


class Verifier:
    """Checks what every signed statement has, into a report.

    Args:
        keys: Public keys by id, from a source that is trusted; None when there are none: then
            nothing is proved, and the report says so.
        partial: Whether it may pass with less than a whole bundle.
        now: The verifier's clock; the system's when None.
    """

    def __init__(
        self, keys: KeySet | None, *, partial: bool = False, now: datetime | None = None
    ) -> None:
        self.report = Report(partial=partial)
        self._keys = keys
        self._latest = (now or datetime.now(UTC)) + AHEAD

    def read_all(self, documents: Iterable[Any], kind: type[S], *others: type[S]) -> list[Read[S]]:
        """Check the form and signature of each document; returns those of a good form.

        Each is read as the one of the others that has its `format`, else as the first kind.
        """
        kinds = {get_args(each.model_fields["format"].annotation)[0]: each for each in others}

        def named(document: Any) -> type[S]:
            return (
                kinds.get(str(document.get("format")), kind) if isinstance(document, dict) else kind
            )

        found = (self._read(named(each), place, each) for place, each in enumerate(documents, 1))
        return [each for each in found if each is not None]

    def _read(self, kind: type[S], place: int, document: Any) -> Read[S] | None:
        subject = f"{kind.__name__.lower()} at place {place}"
        try:
            receipt = kind.model_validate(document)
        except (ValidationError, RecursionError) as error:
            text = (
                first_problem(error)
                if isinstance(error, ValidationError)
                else "it is nested too deep"
            )
            self.report.note(subject, "form", text)
            # what is not a receipt cannot be verified either
            self.report.note(subject, "signature", "the receipt cannot be read")
            return None
        subject = f"{kind.__name__.lower()} {receipt.number}"
        self.report.note(subject, "form", None, document["format"])
        self._check_signature(subject, receipt, document)
        return Read(subject, digest_or_none(document), receipt, document)

    def _check_signature(self, subject: str, receipt: Signed, document: Mapping[str, Any]) -> None:
        report = self.report
        if self._keys is None:
            report.skip(subject, "signature", "no keys were given")
            report.skip(subject, "key", "no keys were given")
            return
        key = self._keys.get(receipt.key_id)
        if key is None:
            absent = f"the key {receipt.key_id} is not among the keys given"
            report.note(subject, "signature", absent)
            return
        try:
            signing.check(document, str(key["x"]))
        except signing.BadSignature as error:
            report.note(subject, "signature", str(error))
            return
        report.note(subject, "signature", None, f"by key {receipt.key_id}")
        report.note(subject, "key", self._key_problem(receipt, key), "valid when it was signed")

    def _key_problem(self, receipt: Signed, key: Mapping[str, Any]) -> str | None:
        try:
            at = datetime.fromisoformat(receipt.issued_at).timestamp()
        except ValueError:
            return "the receipt does not say when it was signed"
        if at > self._latest.timestamp():
            return "the receipt says it was signed in the future, by the clock here"
        if at < key.get("nbf", 0):
            return "the key was not yet valid when the receipt says it was signed"
        if at > key.get("exp", at):
            return "the key was no longer valid when the receipt says it was signed"
        if "revoked_at" in key:
            last = key.get("last", {}).get(digest(receipt.workspace_id), 0)
            if at > key["revoked_at"] or not isinstance(last, int) or receipt.number > last:
                return "the key was revoked, and this is not among what it had signed before"
        return None

    def check_chain(self, read: Sequence[Read[Any]]) -> None:
        """Check each receipt's link to the one before it, where that one is given."""
        for workspace in sorted({one.receipt.workspace_id for one in read}):
            chain: dict[int, Read[Any]] = {}
            for one in read:
                if one.receipt.workspace_id != workspace:
                    continue
                if one.receipt.number in chain:
                    self.report.note(one.subject, "chain", "two receipts have this number")
                chain[one.receipt.number] = one
            for number, one in sorted(chain.items()):
                self._check_link(one, chain.get(number - 1))

    def _check_link(self, one: Read[Any], before: Read[Any] | None) -> None:
        number, previous = one.receipt.number, one.receipt.hashes.previous
        if number == 1 or previous is None:
            first = number == 1 and previous is None
            wrong = None if first else "only the first receipt has none before it"
            self.report.note(one.subject, "chain", wrong, "the chain begins here")
        elif before is None:
            self.report.skip(one.subject, "chain", f"receipt {number - 1} is not in the bundle")
        else:
            wrong = None if before.digest == previous else "the link does not fit"
            self.report.note(one.subject, "chain", wrong, f"follows receipt {number - 1}")

    def check_run(self, read: Sequence[Read[Any]]) -> int:
        """Check that a run of a chain is of one workspace and has no gap; returns its beginning."""
        numbers = [one.receipt.number for one in read]
        first = min(numbers, default=1)
        for missing in sorted(set(range(first, max(numbers, default=0) + 1)) - set(numbers)):
            self.report.note(f"receipt {missing}", "chain", "it is missing")
        if len({one.receipt.workspace_id for one in read}) > 1:
            self.report.note("chain", "job", "the receipts are of several workspaces")
        return first


def load_json(text: str) -> Any:
    """Read JSON in which no name occurs twice in one object.

    Raises:
        Unreadable: It is not JSON.
    """
    try:
        return strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"this is not JSON: {error}") from error


def read_lines(text: str) -> list[Any]:
    """Read a chain: a receipt on each line (NDJSON).

    Raises:
        Unreadable: A line is not JSON, or there is none.
    """
    found = [load_json(line) for line in text.split("\n") if line.strip()]
    if not found:
        raise Unreadable("this holds no receipt")
    return found


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
        if not all(isinstance(key.get(name, 0), int) for name in ("nbf", "exp", "revoked_at")):
            raise Unreadable(f"nbf, exp and revoked_at of the key {kid!r} must be whole seconds")
        if not isinstance(key.get("last", {}), dict):
            raise Unreadable(f"last of the key {kid!r} must be an object")
        if kid in found:
            raise Unreadable(f"the key {kid!r} occurs twice in the set")
        found[kid] = key
    return found


def read_bundle(text: str) -> tuple[JobBundle, bool]:
    """Read a job's bundle, or its receipt alone, and return which it was.

    Raises:
        Unreadable: It is neither.
    """
    value = load_json(text)
    if not isinstance(value, dict):
        raise Unreadable("this is neither a receipt nor a bundle: it is not an object")
    alone = signing.SIGNATURE in value
    try:
        return JobBundle.model_validate({"receipt": value} if alone else value), alone
    except ValidationError as error:
        raise Unreadable(
            f"this is neither a receipt nor a bundle: {first_problem(error)}"
        ) from error


def verify(
    bundle: JobBundle, keys: KeySet | None, *, partial: bool = False, now: datetime | None = None
) -> Report:
    """Check a job's receipt, what it vouches for, and the receipts of its children.

    Args:
        keys: Public keys by id, from `read_keys` and a trusted source; None proves nothing.
        partial: Whether it may pass without the payload, the result and the children's receipts.
        now: The verifier's clock; the system's when None.
    """
    verifier = Verifier(keys, partial=partial, now=now)
    report = verifier.report
    own = verifier.read_all([bundle.receipt], Receipt, Closing)
    children = verifier.read_all(bundle.children, Receipt, Closing)
    for one in own:
        for name in ("payload", "result"):
            if name not in bundle.model_fields_set:
                report.skip(one.subject, name, f"the {name} is not in the bundle")
                continue
            same = digest_or_none(getattr(bundle, name)) == getattr(one.receipt.hashes, name)
            report.note(
                one.subject, name, None if same else f"the {name} is not the one signed for"
            )
        _check_counts(report, one)
        named = {each.receipt for each in one.receipt.children if each.receipt is not None}
        given = {each.digest for each in children}
        if stranger := len(given - named) + len(children) - len(given):
            report.note(one.subject, "children", f"{stranger} receipts are not of its children")
        elif missing := len(named - given):
            words = f"{missing} of {len(named)} receipts of its children are missing"
            if children or not partial:
                report.note(one.subject, "children", words)
            else:
                report.skip(one.subject, "children", words)
        else:
            report.note(one.subject, "children", None, f"{len(named)} receipts, as it says")
    verifier.check_chain([*own, *children])
    return report


def verify_chain(
    documents: Sequence[Any], keys: KeySet | None, *, now: datetime | None = None
) -> Report:
    """Check a run of a workspace's chain: every signature, no gap, each child's receipt in it."""
    verifier = Verifier(keys, partial=True, now=now)
    read = verifier.read_all(documents, Receipt, Closing)
    first = verifier.check_run(read)
    given = {one.digest for one in read}
    for one in read:
        named = [each.receipt for each in one.receipt.children if each.receipt is not None]
        missing = sum(each not in given for each in named)
        words = f"{missing} of {len(named)} receipts of its children are missing"
        if missing and first > 1:
            verifier.report.skip(one.subject, "children", words)
        else:
            verifier.report.note(one.subject, "children", words if missing else None)
        _check_counts(verifier.report, one)
    # a job that is retried ends once more; what it returned is signed once
    ends = {(one.receipt.job_id, getattr(one.receipt, "finished_at", None)) for one in read}
    if len(ends) < len(read):
        verifier.report.note("chain", "job", "two receipts are of one end of a job")
    verifier.check_chain(read)
    return verifier.report


def _check_counts(report: Report, one: Read[Any]) -> None:
    """Check that a closing receipt counts the children that it names."""
    if isinstance(closing := one.receipt, Closing):
        reached = sum(each.status == "completed" for each in closing.children)
        named, asked = len(closing.children), closing.reached + closing.failed
        same = closing.asked == asked and (
            (reached, named) == (closing.reached, asked) or named == MAX_CHILDREN < asked
        )
        wrong = None if same else "it does not count the children that it names"
        report.note(one.subject, "closing", wrong, f"{closing.reached} of {asked} reached")
