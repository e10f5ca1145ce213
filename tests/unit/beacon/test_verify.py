"""Verifying: what is wrong is found and named, what cannot be known is said."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from minutehand.signing.canonical import digest_of
from minutehand.signing.keys import SigningKey
from minutehand.signing.models import Head
from minutehand.signing.verify import Report, Unreadable, read_keys, read_lines
from minutehand_apps.beacon.verify import read_given, verify, verify_chain
from tests.unit.beacon.signed import KEY, jwks, make_bundle, reclosed, resigned

FORGER = SigningKey.from_seed(b"f" * 32)


def report_of(bundle: dict[str, Any], keys: dict[str, Any] | None = None) -> Report:
    given, alone = read_given(json.dumps(bundle))
    return verify(given, read_keys(keys or jwks()), partial=alone)


def failed(report: Report) -> set[str]:
    return {check.name for check in report.checks if check.state == "failed"}


def tampered(*path: Any, to: Any) -> dict[str, Any]:
    """The bundle with one value replaced and nothing signed again."""
    bundle = copy.deepcopy(make_bundle())
    target: Any = bundle
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = to
    return bundle


def test_a_whole_bundle_passes_every_check() -> None:
    """Receipts, their chain, and the spec they are of."""
    report = report_of(make_bundle())

    assert report.verdict == "passed"
    assert {check.name for check in report.checks} == {
        "form", "signature", "key", "output", "jobspec", "job", "chain", "closing",
    }  # fmt: skip


ANSWER = ("receipts", 0, "output", "data", "responses", 0)


@pytest.mark.parametrize(
    ("bundle", "checks"),
    [
        (tampered(*ANSWER, "response", to="No."), 
         {"signature", "output", "chain", "closing"}),
        (tampered("receipts", 1, "region", to="us-east"), {"signature", "chain", "closing"}),
        (tampered("receipts", 0, "number", to=2), {"signature", "chain", "closing"}),
        (tampered("receipts", 1, "provider", to="other"), {"signature", "chain", "closing"}),
        (tampered("receipts", 1, "started_at", to="2026-11-20T11:00:00.000Z"),
         {"signature", "chain", "closing"}),
        (tampered("receipts", 1, "jobspec_id", to="x"),
         {"signature", "chain", "closing", "jobspec"}),
        (tampered("receipts", 1, "hashes", "output", to="sha256:" + "0" * 64),
         {"signature", "chain", "closing", "output"}),
        (tampered("closing", "receipts", to=1), {"signature", "closing"}),
        (tampered("closing", "reached", to=["us-east"]), {"signature", "jobspec"}),
        (tampered("closing", "job_id", to="00000000-0000-0000-0000-0000000000ee"),
         {"signature", "job"}),
        (tampered("closing", "format", to="minutehand-beacon-receipt/1"), {"form", "signature"}),
        (tampered("jobspec", "version", to="2"), {"jobspec"}),
        (tampered("receipts", 1, "surprise", to=1), {"form", "signature", "closing"}),
        (tampered("receipts", 1, "number", to=2.0), {"form", "signature", "closing"}),
        (resigned(1, hashes={**make_bundle()["receipts"][1]["hashes"],
                             "previous": "sha256:" + "0" * 64}), {"chain"}),
        (resigned(1, region="moon"), {"jobspec"}),
        (resigned(1, jobspec_id="other"), {"jobspec"}),
        (resigned(1, issued_at="9000-01-01T00:00:00.000Z"), {"key"}),
        (make_bundle(FORGER), {"signature"}),
        ({**make_bundle(FORGER)["receipts"][0], "key_id": KEY.kid}, {"signature"}),
        ({**make_bundle(), "receipts": make_bundle()["receipts"][:1] * 2},
         {"job", "chain", "closing"}),
    ],
)  # fmt: skip
def test_what_is_not_so_is_found_and_named(bundle: dict[str, Any], checks: set[str]) -> None:
    """By the check that is about it."""
    report = report_of(bundle)

    assert report.verdict == "failed"
    assert failed(report) == checks


@pytest.mark.parametrize(
    ("bundle", "checks"),
    [
        (tampered("receipts", 1, "number", to=2**53 + 1), {"form", "signature", "closing"}),
        (tampered("receipts", 1, "number", to=10**400), {"form", "signature", "closing"}),
        (tampered("receipts", 1, "id", to="\ud800"), {"form", "signature", "closing"}),
        (tampered("receipts", 1, "jobspec_version", to="\ud800"), {"form", "signature", "closing"}),
        (tampered("receipts", 1, "issued_at", to="٢٠٢٦-11-20T12:00:00.000Z"),
         {"form", "signature", "closing"}),
        (tampered("receipts", 1, "signature", to=make_bundle()["receipts"][1]["signature"] + "=="),
         {"form", "signature", "closing"}),
        (tampered("jobspec", "metadata", to={"\ud800": 2**60 + 1}), {"jobspec"}),
        (tampered(*ANSWER, "response", to="Because “us-east”, \\ e\u0301\n0"),
         {"signature", "output", "chain", "closing"}),
    ],
)  # fmt: skip
def test_no_number_and_no_text_makes_the_verifier_give_up(
    bundle: dict[str, Any], checks: set[str]
) -> None:
    """Beyond what JSON keeps exact, lone surrogates, other digits, a letter in two code points."""
    assert failed(report_of(bundle)) == checks


def test_another_spelling_of_the_same_values_is_what_was_signed() -> None:
    """Escapes, order and the digits of a number are no part of a value."""
    text = json.dumps(dict(reversed(make_bundle().items()))).replace("0.5", "0.50000000000000001")
    assert verify(read_given(text)[0], read_keys(jwks())).verdict == "passed"


def replayed(**members: Any) -> dict[str, Any]:
    """The bundle with a genuine receipt of elsewhere in the place of its second."""
    receipt = {**make_bundle()["receipts"][1], "number": 9, **members}
    receipt["hashes"] = {**receipt["hashes"], "previous": "sha256:" + "1" * 64}
    del receipt["signature"]
    return {**make_bundle(), "receipts": [make_bundle()["receipts"][0], KEY.sign(receipt)]}


ELSEWHERE = "00000000-0000-0000-0000-0000000000ee"


@pytest.mark.parametrize(
    "bundle",
    [
        replayed(job_id=ELSEWHERE),
        replayed(workspace_id=ELSEWHERE),
        replayed(job_id=ELSEWHERE, workspace_id=ELSEWHERE),
        replayed(execution_id=make_bundle()["receipts"][0]["execution_id"]),
    ],
)
def test_a_genuine_receipt_of_elsewhere_does_not_fit_in(bundle: dict[str, Any]) -> None:
    """The same spec ran for others too: each of its receipts is signed, and not of this job."""
    assert failed(report_of(bundle)) == {"job", "closing"}


def without(*places: int, **members: Any) -> dict[str, Any]:
    """The bundle without some of its receipts."""
    bundle = make_bundle()
    kept = [each for place, each in enumerate(bundle["receipts"]) if place not in places]
    return {**bundle, "receipts": kept, **members}


UNCLOSED = without(closing=None)


@pytest.mark.parametrize(
    ("bundle", "verdict", "words"),
    [
        (without(0), "failed", "1 of 2 receipts are missing: us-east · m-1"),
        (without(0, 1), "failed", "2 of 2 receipts are missing: us-east · m-1, eu-west · m-1"),
        (UNCLOSED, "failed", "the receipt that closes the job is missing"),
        (without(0, closing=None), "failed", "the receipt that closes the job is missing"),
        (without(0, closing={}), "failed", "Field required"),
        ({**UNCLOSED, "running": True}, "not_made", "the job had not ended"),
        (reclosed(without(0)), "failed", "it does not name what the job spec asked for"),
        (reclosed(make_bundle(), receipts=1), "failed", "it counts 1 receipts and names 2"),
        (reclosed(make_bundle(), reached=["us-east"]), "failed", "what it says was reached"),
    ],
)
def test_nothing_can_be_left_out(bundle: dict[str, Any], verdict: str, words: str) -> None:
    """A region that looked bad is the one omission that receipts exist to prevent."""
    report = report_of(bundle)

    assert report.verdict == verdict
    assert any(words in check.detail for check in report.checks if check.state != "passed")
    assert verify(read_given(json.dumps(bundle))[0], read_keys(jwks()), partial=True).verdict == (
        "passed" if bundle["closing"] is None or not bundle["receipts"] else "failed"
    )


def chain_of(bundle: dict[str, Any], *without: int) -> list[Any]:
    documents = [*bundle["receipts"], bundle["closing"]]
    return [each for place, each in enumerate(documents) if place not in without]


@pytest.mark.parametrize(
    ("documents", "verdict", "names"),
    [
        (chain_of(make_bundle()), "passed", set()),
        (chain_of(make_bundle(), 2), "passed", set()),  # the job is still running
        (chain_of(make_bundle(), 1), "failed", {"chain", "closing"}),
        (chain_of(make_bundle(), 0), "passed", set()),  # pruned, or `from`
        (chain_of(make_bundle(head=Head(number=7, digest="sha256:" + "7" * 64))), "passed", set()),
        ([*chain_of(make_bundle()), *chain_of(replayed(number=1))[1:2]], "failed",
         {"chain", "closing"}),
        (chain_of(make_bundle(FORGER)), "failed", {"signature"}),
        ([*chain_of(make_bundle()), []], "failed", {"form", "signature"}),
    ],
)  # fmt: skip
def test_a_chain_has_no_gap_and_omits_nothing(
    documents: list[Any], verdict: str, names: set[str]
) -> None:
    """Whatever lies between two receipts is there, and closing receipts find theirs in it."""
    report = verify_chain(
        read_lines("\n".join(json.dumps(each) for each in documents)), read_keys(jwks())
    )

    assert (report.verdict, failed(report)) == (verdict, names)


def test_answers_that_do_not_fit_the_questions_fail() -> None:
    """Also when all of it is signed: the signer's own word does not fit his spec."""
    receipt = copy.deepcopy(make_bundle()["receipts"][0])
    receipt["output"]["data"]["responses"].reverse()

    hashes = {**receipt["hashes"], "output": digest_of(receipt["output"])}
    bundle = resigned(0, output=receipt["output"], hashes=hashes)
    assert "jobspec" in failed(report_of(bundle))


def test_what_is_missing_is_said_and_passes_when_asked_for() -> None:
    """A receipt alone is always a part; the receipt before a bundle's first is another job's."""
    alone = report_of(make_bundle()["receipts"][0])
    unspecified = {**make_bundle(), "jobspec": None}
    later = report_of(make_bundle(head=Head(number=7, digest="sha256:" + "7" * 64)))

    assert (alone.verdict, [check.name for check in alone.unchecked]) == (
        "passed", ["jobspec", "closing"],
    )  # fmt: skip
    assert report_of(unspecified).verdict == "not_made"
    assert later.verdict == "passed"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"receipts": []}', '{"a": 1, "a": 1}', "[" * 100_000, '{"jws": "x"}'],
)
def test_what_is_neither_receipt_nor_bundle_is_said_to_be_so(text: str) -> None:
    """With a sentence, never with a traceback."""
    with pytest.raises(Unreadable):
        read_given(text)
