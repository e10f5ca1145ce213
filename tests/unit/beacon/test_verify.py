"""Verifying: what is whole passes, and a change anywhere is found and named."""

from __future__ import annotations

import copy
import json
import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minutehand.apps.beacon import jws as jose
from minutehand.apps.beacon.canonical import canonical, digest_of
from minutehand.apps.beacon.jws import SigningKey
from minutehand.apps.beacon.models import Bundle, Head
from minutehand.apps.beacon.verify import (
    Report,
    Unreadable,
    read_bundle,
    read_given,
    read_keys,
    verify,
)
from tests.unit.beacon.signed import AT, KEY, jwks, make_bundle

WHOLE = make_bundle()
TEXT = json.dumps(WHOLE, separators=(",", ":"))


def checked(bundle: dict[str, Any], keys: dict[str, Any] | None = None) -> Report:
    """The report on a bundle, by the usual keys."""
    return verify(read_bundle(json.dumps(bundle)), read_keys(keys or jwks()))


def failed(report: Report) -> set[tuple[str, str]]:
    """Which checks of which subjects failed."""
    return {(check.subject, check.name) for check in report.checks if check.state == "failed"}


def test_a_whole_bundle_passes_every_check() -> None:
    """Signatures, keys, schemas, spec, samples, verdicts, links, and the run's own receipt."""
    report = checked(WHOLE)

    assert report.verdict == "passed"
    assert {check.state for check in report.checks} == {"passed"}
    assert {check.name for check in report.checks} == {
        "form", "signature", "key", "schema", "spec", "regions", "samples", "verdict", "chain",
        "run",
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_anywhere_is_found(data: st.DataObject) -> None:
    """Every character of the bundle's text, replaced by another."""
    place = data.draw(st.integers(0, len(TEXT) - 1))
    other = data.draw(st.sampled_from(sorted(set('abzAZ019_-.{}[]":, ') - {TEXT[place]})))
    text = TEXT[:place] + other + TEXT[place + 1 :]
    try:
        bundle = read_bundle(text)
    except Unreadable:
        return  # found: it cannot even be read
    report = verify(bundle, read_keys(jwks()))

    # a space more between two tokens changes nothing
    assert report.verdict == "failed" or bundle == Bundle.model_validate(WHOLE)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    if isinstance(value, dict):
        nested = list(value.items())
    else:
        nested = list(enumerate(value)) if isinstance(value, list) else []
    return [path, *(found for key, one in nested for found in places(one, (*path, key)))]


PLACES = [path for path in places(WHOLE) if path]
ODD = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({})


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), ODD)
def test_a_bundle_with_anything_in_any_place_is_judged(path: tuple[Any, ...], odd: Any) -> None:
    """Whoever made it: verifying never breaks, and never passes what was not signed."""
    bundle = copy.deepcopy(WHOLE)
    inside = bundle
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = odd
    try:
        report = checked(bundle)
    except Unreadable:
        return

    same = read_bundle(json.dumps(bundle)) == Bundle.model_validate(WHOLE)
    proved = {check.name for check in report.checks if check.state == "not_made"}
    # what is left out is told as not checked; all else is found
    assert report.verdict == "failed" or same or proved & {"spec", "samples"}


def resigned(place: int, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The bundle with a receipt changed and signed again by its own key."""
    bundle = copy.deepcopy(WHOLE)
    payload = jose.parse(bundle["receipts"][place]["jws"]).payload
    change(payload)
    bundle["receipts"][place]["jws"] = KEY.sign(payload)
    return bundle


def drop_receipt(bundle: dict[str, Any]) -> None:
    del bundle["receipts"][1]


def swap_signatures(bundle: dict[str, Any]) -> None:
    one, two = (receipt["jws"].split(".") for receipt in bundle["receipts"][:2])
    bundle["receipts"][0]["jws"] = ".".join([*one[:2], two[2]])


def swap_samples(bundle: dict[str, Any]) -> None:
    one, two = bundle["receipts"][:2]
    one["samples"], two["samples"] = two["samples"], one["samples"]


def raise_threshold(bundle: dict[str, Any]) -> None:
    bundle["spec"]["thresholds"]["p95_ms"] = 60000


def faster_sample(bundle: dict[str, Any]) -> None:
    bundle["receipts"][0]["samples"]["latency_us"][0] -= 1


def repeat_receipt(bundle: dict[str, Any]) -> None:
    bundle["receipts"].append(bundle["receipts"][0])


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (swap_signatures, ("receipt 1", "signature")),
        (swap_samples, ("receipt 1", "samples")),
        (faster_sample, ("receipt 1", "samples")),
        (raise_threshold, ("receipt 3", "spec")),
        (repeat_receipt, ("receipt 1", "chain")),
    ],
)
def test_a_tampered_bundle_is_named(
    tamper: Callable[[dict[str, Any]], None], found: tuple[str, str]
) -> None:
    """The report says which receipt, and which check."""
    bundle = copy.deepcopy(WHOLE)

    tamper(bundle)

    report = checked(bundle)
    assert report.verdict == "failed"
    assert found in failed(report)


@pytest.mark.parametrize(
    ("place", "change", "found"),
    [
        (0, lambda p: p["statistics"].update(errors=0), ("receipt 1", "samples")),
        (0, lambda p: p.update(verdict="failed"), ("receipt 1", "verdict")),
        (0, lambda p: p.update(region_requested="ap-south-1"), ("receipt 1", "regions")),
        (0, lambda p: p.update(previous="sha256:" + "0" * 64), ("receipt 1", "chain")),
        (1, lambda p: p.update(previous="sha256:" + "0" * 64), ("receipt 2", "chain")),
        (1, lambda p: p.update(number=1), ("receipt 1", "chain")),
        (1, lambda p: p.update(extra=1), ("receipt 2", "schema")),
        (1, lambda p: p.update(attempt="1"), ("receipt 2", "schema")),
        (1, lambda p: p.pop("software"), ("receipt 2", "schema")),
        (2, lambda p: p.update(outcome="partial"), ("receipt 3", "run")),
        (2, lambda p: p.update(verdict="failed"), ("receipt 3", "run")),
        (2, lambda p: p["regions"].reverse(), ("receipt 3", "regions")),
        (2, lambda p: p["regions"][0].pop("receipt"), ("receipt 3", "run")),
        (0, lambda p: p.update(issued_at="2020-01-01T00:00:00.000Z"), ("receipt 1", "key")),
    ],
)
def test_a_lie_that_its_signer_signed_is_found_where_it_contradicts_itself(
    place: int, change: Callable[[dict[str, Any]], None], found: tuple[str, str]
) -> None:
    """Even whoever holds the key cannot change one receipt alone."""
    assert found in failed(checked(resigned(place, change)))


def test_another_key_proves_nothing() -> None:
    """A forger signs as well; only the keys tell who."""
    forger = SigningKey.from_seed(b"f" * 32)
    report = checked(make_bundle(forger))

    assert report.verdict == "failed"
    assert ("receipt 1", "signature") in failed(report)
    # the forger's key under the known key's id is refused as a key set
    keys = jwks()
    keys["keys"][0]["x"] = forger.x
    with pytest.raises(Unreadable, match="RFC 7638"):
        read_keys(keys)


def test_a_retired_key_still_verifies_what_it_signed_in_its_time() -> None:
    now = int(AT.timestamp())

    assert checked(WHOLE, jwks(exp=now + 1)).verdict == "passed"
    late = checked(WHOLE, jwks(exp=now - 1))
    assert ("receipt 1", "key") in failed(late)


def test_what_cannot_be_checked_is_said() -> None:
    """A receipt alone, without samples, spec or the one before it, passes as a part only."""
    bundle, alone = read_given(WHOLE["receipts"][1]["jws"])
    report = verify(bundle, read_keys(jwks()), partial=alone)

    skipped = {check.name for check in report.checks if check.state == "not_made"}
    assert (report.verdict, skipped) == ("passed", {"spec", "samples", "verdict", "chain", "run"})
    assert verify(bundle, read_keys(jwks())).verdict == "not_made"


def drop_samples(bundle: dict[str, Any]) -> None:
    del bundle["receipts"][1]["samples"]


def drop_run(bundle: dict[str, Any]) -> None:
    del bundle["receipts"][2]


def drop_spec(bundle: dict[str, Any]) -> None:
    del bundle["spec"]


@pytest.mark.parametrize(
    ("drop", "unchecked"),
    [
        (drop_receipt, {("receipt 3", "run")}),
        (drop_samples, {("receipt 2", "samples")}),
        (drop_run, {("run 00000000-0000-0000-0000-000000000002", "run")}),
        (drop_spec, {(f"receipt {n}", "spec") for n in (1, 2, 3)}
         | {(f"receipt {n}", "verdict") for n in (1, 2)}),
    ],
)  # fmt: skip
def test_an_incomplete_bundle_does_not_pass_unless_less_is_asked_for(
    drop: Callable[[dict[str, Any]], None], unchecked: set[tuple[str, str]]
) -> None:
    """Whoever hands a bundle out must not decide what of it is checked."""
    bundle = copy.deepcopy(WHOLE)
    drop(bundle)

    report = checked(bundle)
    assert report.verdict == "not_made"
    assert {(check.subject, check.name) for check in report.unchecked} == unchecked
    part = verify(read_bundle(json.dumps(bundle)), read_keys(jwks()), partial=True)
    assert (part.verdict, part.as_json()["partial"]) == ("passed", True)


def test_a_predecessor_outside_the_bundle_lowers_nothing() -> None:
    """Every run but a workspace's first has one."""
    report = checked(make_bundle(head=Head(number=7, digest="sha256:" + "7" * 64)))

    assert ("receipt 8", "chain", "not_made") in {
        (check.subject, check.name, check.state) for check in report.checks
    }
    assert report.verdict == "passed"


def test_a_key_that_stands_twice_is_refused() -> None:
    """Else the second one's validity would count, or the first's."""
    keys = jwks(exp=1)
    keys["keys"] += jwks()["keys"]

    with pytest.raises(Unreadable, match="stands twice"):
        read_keys(keys)


def test_a_receipt_of_the_future_is_named() -> None:
    """An hour is let pass: clocks differ."""
    bundle, keys = read_bundle(TEXT), read_keys(jwks())

    assert verify(bundle, keys, now=AT - timedelta(minutes=59)).verdict == "passed"
    early = verify(bundle, keys, now=AT - timedelta(minutes=61))
    assert early.verdict == "failed"
    assert "in the future" in next(c.detail for c in early.checks if c.name == "key")


def test_without_keys_nothing_is_proved() -> None:
    report = verify(read_bundle(TEXT), None)

    assert report.verdict == "not_made"
    assert failed(report) == set()


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "nonsense", '{"format": "minutehand-beacon-bundle/1", "receipts": []}',
     '{"format": "other/1", "receipts": [{"jws": "a.b.c"}]}', '{"jws": "a.b.c", "jws": "a.b.c"}',
     "[" * 100_000],
)  # fmt: skip
def test_what_is_no_bundle_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(Unreadable, match="this is"):
        read_bundle(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda jws: jws + "=",
        lambda jws: jws[:-1] + chr(ord(jws[-1]) + 1),  # spare bits of the last character
        lambda jws: jws.replace(".", "..", 1),
        lambda jws: jws.split(".")[0] + "." + jws.split(".")[1],
        lambda jws: "e30." + jws.split(".", 1)[1],
        lambda jws: "eyJhbGciOiJub25lIn0." + jws.split(".")[1] + ".",
    ],
)
def test_a_jws_is_read_strictly(change: Callable[[str], str]) -> None:
    """No algorithm but EdDSA, no second spelling of the same bytes."""
    with pytest.raises(jose.BadSignature):
        jose.parse(change(WHOLE["receipts"][0]["jws"]))


def test_the_thumbprint_is_the_standards() -> None:
    """RFC 8037, appendix A.2 and A.3."""
    key = SigningKey.from_text("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")

    assert key.x == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_private_key_stays_out_of_texts() -> None:
    key = SigningKey.generate()

    assert key.to_text() not in repr(key)
    assert repr(key.seed) not in repr(key)


def test_a_long_spec_is_read_once_and_never_multiplied() -> None:
    """A stranger's bundle costs what it is long: neither its receipts times its spec, nor more."""
    bundle = copy.deepcopy(WHOLE)
    bundle["spec"] = {"thresholds": {"p95_ms": "9" * 100_000, "error_rate": None}}
    bundle["spec"] |= {"regions": ["eu-west-1"], "rest": [[] for _ in range(500)]}
    payload = jose.parse(bundle["receipts"][0]["jws"]).payload
    forged = KEY.sign(payload | {"spec_digest": digest_of(bundle["spec"])})
    bundle["receipts"] = [{"jws": forged}] * 30
    read = read_bundle(json.dumps(bundle))
    written = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal written
        written += event == "call" and frame.f_code is canonical.__code__

    tracemalloc.start()
    sys.setprofile(count)
    try:
        report = verify(read, read_keys(jwks()))
    finally:
        sys.setprofile(None)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert ("receipt 1", "verdict") in failed(report)
    assert peak < 50_000_000
    assert written < 5_000  # each receipt's own payload, and the spec's 500 once
