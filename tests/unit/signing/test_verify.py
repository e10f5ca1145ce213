"""A job's receipt, its bundle and its chain: what is wrong is found and named."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from minutehand.signing.canonical import digest, digest_of
from minutehand.signing.keys import SigningKey
from minutehand.signing.models import Head
from minutehand.signing.signer import chained, instant
from minutehand.signing.verify import (
    Report,
    Unreadable,
    read_bundle,
    read_keys,
    read_lines,
    verify,
    verify_chain,
)
from tests.support.command import Run

KEY, FORGER = SigningKey.from_seed(b"k" * 32), SigningKey.from_seed(b"f" * 32)
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
WORKSPACE = str(UUID(int=2))


def jwks(**more: Any) -> dict[str, Any]:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": KEY.x, "kid": KEY.kid, "nbf": 0}
    return {"keys": [{**jwk, **more}]}


def chain(key: SigningKey = KEY) -> list[dict[str, Any]]:
    """Two children and their parent."""
    head = Head(number=0, digest=None)
    made: list[dict[str, Any]] = []
    for place in range(3):
        stated = {
            "format": "minutehand-receipt/1",
            "id": str(UUID(int=20 + place)),
            "workspace_id": WORKSPACE,
            "job_id": str(UUID(int=10 + place)),
            "job_type": "part" if place < 2 else "whole",
            "parent_id": str(UUID(int=12)) if place < 2 else None,
            "attempt": 1,
            "created_at": instant(AT),
            "children": [
                {
                    "job_id": each["job_id"],
                    "job_type": "part",
                    "status": "completed",
                    "receipt": digest_of(each),
                }
                for each in made[: place // 2 * 2]
            ],
            "software": "minutehand/test",
            "hashes": {"payload": digest_of({"n": place}), "result": digest_of(place)},
        }
        made.append(key.sign(chained(stated, head, issued_at=AT)))
        head = Head(number=place + 1, digest=digest_of(made[-1]))
    return made


def closing(**members: Any) -> dict[str, Any]:
    """What closes the parent when it failed after both children completed."""
    parent = {k: v for k, v in chain()[2].items() if k != "signature"}
    hashes = {"payload": digest_of({"n": 2}), "result": digest_of("no")}
    stated = {
        "format": "minutehand-closing/1",
        "status": "failed",
        "reason": "attempts_spent",
        "finished_at": instant(AT),
        "asked": 2,
        "reached": 2,
        "failed": 0,
        "hashes": {**parent["hashes"], **hashes},
    }
    return KEY.sign({**parent, **stated, **members})


def bundle(**changed: Any) -> dict[str, Any]:
    """The parent's, with some members replaced; None leaves one out."""
    first, second, parent = chain()
    whole = {"receipt": parent, "payload": {"n": 2}, "result": 2, "children": [first, second]}
    return {k: v for k, v in {**whole, **changed}.items() if v is not None}


def changed(**members: Any) -> dict[str, Any]:
    return {**chain()[2], **members}


def resigned(**members: Any) -> dict[str, Any]:
    """The parent's receipt, stating something else and signed again."""
    unsigned = {k: v for k, v in changed(**members).items() if k != "signature"}
    return KEY.sign(unsigned)


def report_of(document: dict[str, Any], **keys: Any) -> Report:
    given, alone = read_bundle(json.dumps(document))
    return verify(given, read_keys(jwks(**keys)), partial=alone)


def failed(report: Report) -> set[str]:
    return {check.name for check in report.checks if check.state == "failed"}


def test_a_whole_bundle_passes_every_check() -> None:
    """The receipt alone does too, and says what it left unchecked."""
    whole, alone = report_of(bundle()), report_of(chain()[0])

    assert (whole.verdict, whole.unchecked) == ("passed", [])
    assert {check.name for check in whole.checks} == {
        "form", "signature", "key", "payload", "result", "children", "chain",
    }  # fmt: skip
    assert (alone.verdict, [check.name for check in alone.unchecked]) == (
        "passed", ["payload", "result"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("document", "checks"),
    [
        (bundle(result=3), {"result"}),
        (bundle(payload={"n": 2, "m": 0}), {"payload"}),
        (bundle(result=2**60), {"result"}),
        (bundle(children=chain()[:1]), {"children"}),
        (bundle(children=[]), {"children"}),
        (bundle(children=chain()[:2] + chain()[:1]), {"children", "chain"}),
        (bundle(children=[chain()[0], chain(FORGER)[1]]), {"signature", "children", "chain"}),
        (bundle(receipt=chain(FORGER)[2]), {"signature", "children", "chain"}),
        (bundle(receipt={**chain(FORGER)[2], "key_id": KEY.kid}),
         {"signature", "children", "chain"}),
        (bundle(receipt=changed(job_type="other")), {"signature"}),
        (bundle(receipt=changed(number=2)), {"signature", "chain"}),
        (bundle(receipt=changed(children=[])), {"signature", "children"}),
        (bundle(receipt=changed(surprise=1)), {"form", "signature"}),
        (bundle(receipt=resigned(issued_at="9000-01-01T00:00:00.000Z")), {"key"}),
        (bundle(receipt=resigned(hashes={**chain()[2]["hashes"], "previous": digest("x")})),
         {"chain"}),
        (bundle(receipt=resigned(hashes={**chain()[2]["hashes"], "previous": None})), {"chain"}),
        (bundle(receipt=resigned(number=1), children=chain()[1:2]), {"chain", "children"}),
    ],
)  # fmt: skip
def test_what_is_not_so_is_found_and_named(document: dict[str, Any], checks: set[str]) -> None:
    """By the check that is about it, whoever signed it."""
    report = report_of(document)

    assert (report.verdict, failed(report)) == ("failed", checks)


@pytest.mark.parametrize(
    ("document", "checks"),
    [
        ({"receipt": closing()}, set()),
        ({"receipt": closing(), "result": "other"}, {"result"}),
        ({"receipt": closing(), "result": None}, {"result"}),
        ({"receipt": closing(), "payload": {"n": 3}}, {"payload"}),
        ({"receipt": closing(), "children": chain()[:1]}, {"children"}),
        ({"receipt": closing(reached=1, failed=1)}, {"closing"}),
        ({"receipt": closing(asked=3)}, {"closing"}),
        ({"receipt": closing(asked=3, failed=1)}, {"closing"}),
        ({"receipt": closing(status="completed")}, {"form", "signature"}),
        ({"receipt": {**closing(), "status": "cancelled"}}, {"signature"}),
        ({"receipt": {**closing(), "format": ["x"]}}, {"form", "signature"}),
    ],
)
def test_a_failed_jobs_bundle_is_checked_as_a_completed_ones(
    document: dict[str, Any], checks: set[str]
) -> None:
    """Its result is the error's message."""
    report = report_of({**bundle(result="no"), **document})

    assert (report.verdict, failed(report)) == ("failed" if checks else "passed", checks)


def test_a_job_may_end_more_than_once_and_return_once() -> None:
    """By a retry; the same end twice is one too many."""
    first, second, parent = chain()

    def after(before: dict[str, Any], hour: int) -> dict[str, Any]:
        hashes = {**closing()["hashes"], "previous": digest_of(before)}
        at = instant(AT.replace(hour=hour))
        return closing(number=before["number"] + 1, finished_at=at, hashes=hashes)

    end = after(parent, 13)
    for hour, wrong in ((14, set()), (13, {"job"})):
        report = verify_chain([first, second, parent, end, after(end, hour)], read_keys(jwks()))
        assert failed(report) == wrong


def test_what_is_not_there_is_not_verified_unless_that_is_asked_for() -> None:
    """A deleted job's receipt has nothing left to hash."""
    given, _ = read_bundle(json.dumps(bundle(result=None)))

    assert verify(given, read_keys(jwks())).verdict == "not_made"
    assert verify(given, read_keys(jwks()), partial=True).verdict == "passed"
    assert verify(given, None).verdict == "not_made"


def test_a_key_vouches_for_its_time_and_a_revoked_one_for_what_it_had_signed() -> None:
    """By date and by place in the chain: a thief chooses the date."""
    at = int(AT.timestamp())
    last = {digest(WORKSPACE): 3}
    revoked = {"exp": at, "revoked_at": at}

    assert [
        report_of(bundle(), **key).verdict
        for key in (
            {"exp": at}, {"exp": at - 1}, {"nbf": at + 1}, {**revoked, "last": last},
            {**revoked, "last": {digest(WORKSPACE): 2}}, {**revoked, "last": {}},
            {**revoked, "revoked_at": at - 1, "last": last},
        )
    ] == ["passed", "failed", "failed", "passed", "failed", "failed", "failed"]  # fmt: skip


@pytest.mark.parametrize(
    ("places", "verdict", "checks"),
    [
        ([0, 1, 2], "passed", set()),
        ([1, 2], "passed", set()),  # the oldest have left
        ([0, 2], "failed", {"chain", "children"}),
        ([0, 0, 1, 2], "failed", {"chain", "job"}),
    ],
)
def test_a_chain_has_no_gap(places: list[int], verdict: str, checks: set[str]) -> None:
    """Whatever lies between two receipts is there."""
    lines = read_lines("\n".join(json.dumps(chain()[place]) for place in places))
    report = verify_chain(lines, read_keys(jwks()))

    assert (report.verdict, failed(report)) == (verdict, checks)


def test_a_run_is_of_one_workspace() -> None:
    """Two chains side by side have no gap where one alone would."""
    other = resigned(workspace_id=str(UUID(int=3)), job_id=str(UUID(int=4)), number=4, children=[])
    report = verify_chain([*chain(), other], read_keys(jwks()))

    assert (report.verdict, failed(report)) == ("failed", {"job"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"receipt": 1}', '{"a": 1, "a": 1}'])
def test_what_is_neither_receipt_nor_bundle_is_said_to_be_so(text: str) -> None:
    """With a sentence."""
    with pytest.raises(Unreadable):
        read_bundle(text)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        {},
        {"keys": [{**jwks()["keys"][0], "kid": "x"}]},
        {"keys": jwks()["keys"] * 2},
        {"keys": [{**jwks()["keys"][0], "x": "\ud800"}]},
        jwks(nbf="now"),
    ],
)
def test_a_key_set_that_could_mean_two_things_is_refused(keys: Any) -> None:
    """Which key counts must not be the verifier's guess."""
    with pytest.raises(Unreadable):
        read_keys(keys)


def test_keys_of_other_kinds_are_left_out() -> None:
    """A key set may serve other purposes as well."""
    assert read_keys({"keys": [{"kty": "RSA"}, *jwks()["keys"]]}).keys() == {
        jwks()["keys"][0]["kid"]
    }


def test_the_command_verifies_files_and_asks_no_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle, a chain, a changed word, no keys: an exit code for each."""
    for name in ("SUPABASE_URL", "API_URL", "MINUTEHAND_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    files = {
        "keys.json": json.dumps(jwks()),
        "whole.json": json.dumps(bundle(), indent=1),
        "chain.ndjson": "\n".join(json.dumps(each) for each in chain()),
        "gap.ndjson": "\n".join(json.dumps(each) for each in chain()[::2]),
        "bad.json": json.dumps(bundle(result="no")),
        "part.json": json.dumps(bundle(result=None)),
        "nothing.json": "[]",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    keys = ("--keys", str(tmp_path / "keys.json"))
    for name, code, *more in (
        ("whole.json", 0, *keys), ("chain.ndjson", 0, *keys), ("part.json", 0, "--partial", *keys),
        ("bad.json", 1, *keys), ("gap.ndjson", 1, *keys),
        ("part.json", 2, *keys), ("nothing.json", 2, *keys), ("whole.json", 2),
    ):  # fmt: skip
        Run(("receipts", "verify"))(str(tmp_path / name), *more, code=code)
