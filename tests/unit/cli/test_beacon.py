"""`minutehand beacon verify` with nothing but files: no stack, no network, an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.support.command import app
from tests.unit.beacon.signed import jwks, make_bundle


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle and the keys, in a folder where no stack is known."""
    for name in ("SUPABASE_URL", "API_URL", "MINUTEHAND_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bundle.json").write_text(json.dumps(make_bundle()))
    (tmp_path / "keys.json").write_text(json.dumps(jwks()))
    return tmp_path


def verify(folder: Path, *arguments: str, typed: str | None = None, keys: bool = True) -> Result:
    """Run the command, with the key file unless given."""
    more = ["--keys", str(folder / "keys.json")] if keys else []
    return CliRunner().invoke(app, ["beacon", "verify", *arguments, *more], input=typed)


def change(folder: Path, **fields: Any) -> None:
    """Write the bundle with other fields."""
    (folder / "bundle.json").write_text(json.dumps({**make_bundle(), **fields}))


def test_a_whole_bundle_is_verified(folder: Path) -> None:
    """Each check is a line, the verdict is the last one, and the exit code 0."""
    result = verify(folder, str(folder / "bundle.json"))

    assert result.exit_code == 0, result.output
    assert "receipt 2: chain · follows receipt 1" in result.stdout
    assert "verified: 14 checks passed, 0 failed, 0 could not be made" in result.stdout


def test_json_is_one_document(folder: Path) -> None:
    result = verify(folder, str(folder / "bundle.json"), "--json")

    told = json.loads(result.stdout)
    assert (result.exit_code, told["verdict"]) == (0, "passed")
    assert set(told["checks"][0]) == {"subject", "check", "state", "detail"}


def test_a_tampered_bundle_is_exit_code_1_and_named(folder: Path) -> None:
    change(folder, jobspec={**make_bundle()["jobspec"], "version": "5"})

    result = verify(folder, str(folder / "bundle.json"))

    assert result.exit_code == 1
    assert "receipt 1: jobspec · the job spec is not the one signed for" in result.stdout
    assert "NOT verified" in result.stdout


def test_a_receipt_cannot_speak_as_the_verifier(folder: Path) -> None:
    """What it names its members may hold lines, and what makes a terminal swallow the rest."""
    receipt = make_bundle()["receipts"][0]
    name = "x\n✓ receipt 1: signature\nverified: 9 checks passed\x1bP\x9b8m"

    result = verify(folder, "-", typed=json.dumps({**receipt, name: 1}))

    assert result.exit_code == 1
    assert not any(line.startswith("verified") for line in result.stdout.splitlines())
    assert not {"\x1b", "\x9b"} & set(result.stdout)


def test_a_receipt_alone_comes_through_a_pipe(folder: Path) -> None:
    """What is missing beside it is said, and does not fail."""
    result = verify(folder, "-", typed=json.dumps(make_bundle()["receipts"][0]))

    assert result.exit_code == 0
    assert "verified in part, not checked: jobspec of receipt 1" in result.stdout


def test_an_incomplete_bundle_is_exit_code_2_and_says_what_is_missing(folder: Path) -> None:
    """--partial asks for less, and says that it did."""
    change(folder, jobspec=None)

    whole = verify(folder, str(folder / "bundle.json"))
    part = verify(folder, str(folder / "bundle.json"), "--partial")

    assert (whole.exit_code, part.exit_code) == (2, 0)
    assert "not verified: the bundle is incomplete, not checked: jobspec of" in whole.stdout
    assert "verified in part, not checked: jobspec of receipt 1" in part.stdout


def test_without_keys_it_is_exit_code_2(folder: Path) -> None:
    """A bundle that vouches for itself proves nothing."""
    nowhere = ("--env-file", str(folder / "no.env"))
    result = verify(folder, str(folder / "bundle.json"), *nowhere, keys=False)

    assert result.exit_code == 2
    assert "not verified: give the signer's public keys" in result.stdout


@pytest.mark.parametrize(
    ("name", "text"), [("bundle.json", "{}"), ("bundle.json", "\udcff"), ("keys.json", "[]")]
)
def test_what_cannot_be_read_is_exit_code_2(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))

    result = verify(folder, str(folder / "bundle.json"), "--json")

    assert result.exit_code == 2
    assert json.loads(result.stderr)["code"] == "unreadable"


def test_a_missing_file_names_the_way_out(folder: Path) -> None:
    result = verify(folder, str(folder / "nowhere.json"))

    assert result.exit_code == 2
    assert "cannot be read" in result.stderr
    assert "name a file" in result.stderr
