"""`minutehand beacon verify` with nothing but files: no stack, no network, an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.support.command import Run
from tests.unit.beacon.signed import jwks, make_bundle


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle and the keys, in a folder where no stack is known."""
    for name in ("SUPABASE_URL", "API_URL", "MINUTEHAND_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bundle.json").write_text(json.dumps(make_bundle()))
    (tmp_path / "keys.json").write_text(json.dumps(jwks()))
    return tmp_path


def verify(
    folder: Path, *arguments: str, typed: str | None = None, keys: bool = True, code: int = 0
) -> Result:
    """Run the command, on the bundle and with the key file unless said otherwise."""
    more = ["--keys", str(folder / "keys.json")] if keys else []
    what = arguments or (str(folder / "bundle.json"),)
    return Run(("beacon", "verify"))(*what, *more, input=typed, code=code)


def change(folder: Path, **fields: Any) -> None:
    """Write the bundle with other fields."""
    (folder / "bundle.json").write_text(json.dumps({**make_bundle(), **fields}))


def test_a_whole_bundle_is_verified(folder: Path) -> None:
    """Each check is a line, the verdict is the last one, and the exit code 0."""
    result = verify(folder)
    told = json.loads(verify(folder, str(folder / "bundle.json"), "--json").stdout)

    assert "receipt 2: chain · follows receipt 1" in result.stdout
    assert "verified: 21 checks passed, 0 failed, 0 could not be made" in result.stdout
    assert told["verdict"] == "passed"
    assert set(told["checks"][0]) == {"subject", "check", "state", "detail"}


RECEIPT = make_bundle()["receipts"][0]
OTHER_SPEC = {**make_bundle()["jobspec"], "version": "5"}


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        # a region that looked bad cannot be dropped, and a running job is not a whole one
        ({"receipts": [RECEIPT]}, 1, "1 of 2 receipts are missing: eu-west"),
        ({"closing": None}, 1, "the receipt that closes the job is missing"),
        ({"closing": None, "running": True}, 2, "the job had not ended"),
        ({"jobspec": OTHER_SPEC}, 1, "receipt 1: jobspec · the job spec is not the one signed for"),
        ({"jobspec": OTHER_SPEC}, 1, "NOT verified"),
        ({"jobspec": None}, 2, "not verified: the bundle is incomplete, not checked: jobspec of"),
    ],
)
def test_a_bundle_that_is_not_whole_or_not_true_is_not_verified(
    folder: Path, fields: dict[str, Any], code: int, words: str
) -> None:
    """1 where something is wrong, 2 where something is missing that was to be checked."""
    change(folder, **fields)

    assert words in verify(folder, code=code).stdout


def test_a_chain_is_verified_line_by_line_and_a_gap_is_named(folder: Path) -> None:
    """Only what did not pass is listed: a chain is long."""
    lines = [json.dumps(each) for each in (*make_bundle()["receipts"], make_bundle()["closing"])]
    (folder / "chain.ndjson").write_text("\n".join(lines))
    whole = verify(folder, "--chain", str(folder / "chain.ndjson"))
    gap = verify(folder, "--chain", "-", typed="\n".join([lines[0], lines[2]]), code=1)

    assert len(whole.stdout.splitlines()) == 1
    assert "receipt 2: chain · it is missing" in gap.stdout


def test_a_receipt_cannot_speak_as_the_verifier(folder: Path) -> None:
    """What it names its members may hold lines, and what makes a terminal swallow the rest."""
    name = "x\n✓ receipt 1: signature\nverified: 9 checks passed\x1bP\x9b8m"

    result = verify(folder, "-", typed=json.dumps({**RECEIPT, name: 1}), code=1)

    assert not any(line.startswith("verified") for line in result.stdout.splitlines())
    assert not {"\x1b", "\x9b"} & set(result.stdout)


def test_a_part_is_verified_as_a_part(folder: Path) -> None:
    """A receipt alone through a pipe, or by --partial: what is not checked is said."""
    change(folder, jobspec=None)
    alone = verify(folder, "-", typed=json.dumps(RECEIPT))
    part = verify(folder, str(folder / "bundle.json"), "--partial")

    for result in (alone, part):
        assert "verified in part, not checked: jobspec of receipt 1" in result.stdout


def test_without_keys_it_is_exit_code_2(folder: Path) -> None:
    """A bundle that vouches for itself proves nothing."""
    nowhere = ("--env-file", str(folder / "no.env"))
    result = verify(folder, str(folder / "bundle.json"), *nowhere, keys=False, code=2)

    assert "not verified: give the signer's public keys" in result.stdout


@pytest.mark.parametrize(
    ("name", "text"), [("bundle.json", "{}"), ("bundle.json", "\udcff"), ("keys.json", "[]")]
)
def test_what_cannot_be_read_is_exit_code_2(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))

    result = verify(folder, str(folder / "bundle.json"), "--json", code=2)

    assert json.loads(result.stderr)["code"] == "unreadable"


def test_a_missing_file_names_the_way_out(folder: Path) -> None:
    result = verify(folder, str(folder / "nowhere.json"), code=2)

    assert "cannot be read" in result.stderr
    assert "name a file" in result.stderr
