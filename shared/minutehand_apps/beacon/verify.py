"""Verifying a benchmark job's receipts without asking anyone, over what the library checks.

A receipt proves what its signer stated; that the signer measured honestly it cannot prove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from minutehand.signing.canonical import digest_or_none
from minutehand.signing.keys import SIGNATURE
from minutehand.signing.models import first_problem
from minutehand.signing.verify import (
    KeySet,
    Read,
    Report,
    Unreadable,
    Verifier,
    load_json,
)
from minutehand_apps.beacon.models import Bundle, Closing, JobSpec, Receipt, Signed
from minutehand_apps.beacon.responses import problem_with

CLOSING = "minutehand-beacon-closing/1"


def read_given(text: str) -> tuple[Bundle, bool]:
    """Read a bundle, or a single receipt, and return which it was.

    Raises:
        Unreadable: It is neither.
    """
    value = load_json(text)
    if not isinstance(value, dict):
        raise Unreadable("this is neither a receipt nor a bundle: it is not an object")
    alone = SIGNATURE in value and "receipts" not in value
    try:
        if alone and _closes(value):
            value = {"receipts": [], "closing": value}
        elif alone:
            value = {"receipts": [value]}
        bundle = Bundle.model_validate(value)
    except ValidationError as error:
        raise Unreadable(
            f"this is neither a receipt nor a bundle: {first_problem(error)}"
        ) from error
    if not bundle.receipts and bundle.closing is None:
        raise Unreadable("this is neither a receipt nor a bundle: it holds no receipt")
    return bundle, alone


def verify(
    bundle: Bundle,
    keys: KeySet | None,
    *,
    partial: bool = False,
    now: datetime | None = None,
) -> Report:
    """Check every receipt of a bundle, their chain, and the job spec that came with them.

    Args:
        keys: Public keys by id, from a source that is trusted; None when there are none: then
            nothing is proved, and the report says so.
        partial: Whether it may pass without the job spec and the closing receipt.
        now: The verifier's clock; the system's when None.
    """
    verifier = Verifier(keys, partial=partial, now=now)
    report = verifier.report
    read = verifier.read_all(bundle.receipts, Receipt)
    _check_outputs(report, read)
    ends = [] if bundle.closing is None else [bundle.closing]
    closing = verifier.read_all(ends, Closing)
    spec = _Spec.of(bundle)
    for one in read:
        _check_spec(report, one, spec)
    for last in closing:
        _check_asked(report, last, spec)
    if bundle.jobspec is not None or closing:
        _check_job(report, [*read, *closing])
    for last in closing:
        if read or not partial:
            problem = _omitted(last.receipt, {each.digest for each in read}, whole=True)
            report.note(last.subject, "closing", problem, f"{len(read)} receipts, as it says")
        else:
            report.skip(last.subject, "closing", "the receipts that it names are not here")
    if bundle.closing is None:
        if partial or bundle.running:
            why = "the job had not ended" if bundle.running else "the closing receipt is not here"
            report.skip("bundle", "closing", f"{why}: receipts may be missing")
        else:
            report.note("bundle", "closing", "the receipt that closes the job is missing")
    verifier.check_chain([*read, *closing])
    return report


def verify_chain(
    documents: Sequence[Any], keys: KeySet | None, *, now: datetime | None = None
) -> Report:
    """Check a run of one workspace's chain: every signature, no gap, and nothing omitted in it."""
    verifier = Verifier(keys, partial=True, now=now)
    report = verifier.report
    chain: list[Read[Any]] = verifier.read_all(documents, Receipt, Closing)
    _check_outputs(report, chain)
    first = verifier.check_run(chain)
    closings = [one for one in chain if isinstance(one.receipt, Closing)]
    for one in closings:
        jobs = [each for each in chain if each.receipt.job_id == one.receipt.job_id]
        given = {each.digest for each in jobs if not isinstance(each.receipt, Closing)}
        problem = _omitted(one.receipt, given, whole=first == 1)
        if problem is None and len(given) < one.receipt.receipts:
            report.skip(one.subject, "closing", f"receipts before {first} were not given")
        else:
            report.note(one.subject, "closing", problem, f"{len(given)} receipts, as it says")
    verifier.check_chain(chain)
    return report


def _closes(document: Any) -> bool:
    return isinstance(document, dict) and document.get("format") == CLOSING


def _check_outputs(report: Report, read: Sequence[Read[Any]]) -> None:
    """Check that each execution's output is the one that its hash is of."""
    for one in read:
        if isinstance(one.receipt, Receipt):
            same = digest_or_none(one.document["output"]) == one.receipt.hashes.output
            wrong = None if same else "the output is not the one signed for"
            answers = f"{len(one.receipt.output.data.responses)} answers"
            report.note(one.subject, "output", wrong, answers)


def _omitted(closing: Closing, given: Set[str | None], *, whole: bool) -> str | None:
    """How receipts differ from those that closed their job; None when they do not.

    Args:
        whole: Whether all of them must be given.
    """
    named = {each.receipt: each for each in closing.executions if each.receipt is not None}
    if len(named) != closing.receipts:
        return f"it counts {closing.receipts} receipts and names {len(named)}"
    if stranger := given - named.keys():
        return f"{len(stranger)} receipts are not among those that closed the job"
    missing = [f"{e.region} · {e.model}" for digest, e in named.items() if digest not in given]
    if missing and whole:
        return f"{len(missing)} of {len(named)} receipts are missing: {', '.join(missing[:5])}"
    return None


@dataclass(frozen=True, slots=True)
class _Spec:
    """The job spec that came with a bundle, if one did."""

    given: Mapping[str, Any] | None
    digest: str | None
    read: JobSpec | None

    @classmethod
    def of(cls, bundle: Bundle) -> _Spec:
        given = bundle.jobspec
        # once: a bundle may bring a long spec and a thousand receipts
        return cls(given, digest_or_none(given), _spec_or_none(given))

    def signed_for(self, report: Report, one: Read[Any]) -> JobSpec | None:
        """The spec, if it is the one that a receipt was signed for; else that is noted."""
        if self.given is None:
            report.skip(one.subject, "jobspec", "the job spec is not in the bundle")
        elif self.read is None or self.digest != one.receipt.hashes.jobspec:
            report.note(one.subject, "jobspec", "the job spec is not the one signed for")
        else:
            return self.read
        return None


def _is_named(spec: JobSpec, receipt: Signed) -> bool:
    named = receipt.jobspec_id, receipt.jobspec_version
    return (spec.jobspec_id, str(spec.version)) == named


def _check_spec(report: Report, one: Read[Receipt], given: _Spec) -> None:
    """Check that a receipt is of a region of its spec, and answers its questions."""
    spec = given.signed_for(report, one)
    if spec is None:
        return
    known = one.receipt.region in spec.constraints.regions and _is_named(spec, one.receipt)
    problem = (
        problem_with(one.receipt.output, spec)
        if known
        else "the region or the id is not the job spec's"
    )
    report.note(one.subject, "jobspec", problem, f"{len(spec.questions)} questions, each answered")


def _check_asked(report: Report, one: Read[Closing], given: _Spec) -> None:
    """Check that a closing receipt names every region and model that its spec asked for."""
    closing, spec = one.receipt, given.signed_for(report, one)
    if spec is None:
        return
    # where the spec names no model, an execution has the one that ran
    models = spec.model_ids if spec.models else [""]
    asked = sorted((region, model) for region in spec.constraints.regions for model in models)
    told = sorted((e.region, e.model if spec.models else "") for e in closing.executions)
    ended = {e.region for e in closing.executions} - {
        e.region for e in closing.executions if e.status != "completed"
    }
    problem = None
    if asked != told or not _is_named(spec, closing):
        problem = "it does not name what the job spec asked for"
    elif ended != set(closing.reached) or any(
        (e.status == "completed") != (e.receipt is not None) for e in closing.executions
    ):
        problem = "what it says was reached is not what it says of each execution"
    report.note(one.subject, "jobspec", problem, f"{len(asked)} executions, each named")


def _check_job(report: Report, read: Sequence[Read[Any]]) -> None:
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
        elif isinstance(one.receipt, Receipt) and one.receipt.execution_id in executions:
            problem = "two receipts are of this execution"
        if isinstance(one.receipt, Receipt):
            executions.add(one.receipt.execution_id)
        report.note(one.subject, "job", problem, f"of job {one.receipt.job_id}")


def _spec_or_none(value: Mapping[str, Any] | None) -> JobSpec | None:
    try:
        return JobSpec.model_validate(value)
    except (ValidationError, RecursionError):
        return None
