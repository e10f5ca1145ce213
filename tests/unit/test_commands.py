"""The commands that the pages for contributors give can be typed as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

PAGES = (".github/CONTRIBUTING.md", "README.md", "tests/README.md", "infra/bench/README.md")
TEXT = {page: (ROOT / page).read_text("utf-8") for page in PAGES}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_of_a_page_is_there(page: str) -> None:
    """In code alone: prose may make anything."""
    code = re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", TEXT[page], re.DOTALL)
    named = {
        target
        for block, line in code
        for target in re.findall(r"^make ([a-z-]+)", block + line, re.MULTILINE)
    }

    assert named <= TARGETS


@pytest.mark.lint
def test_every_pytest_call_of_a_page_finds_tests() -> None:
    """The first line that a contributor types."""
    calls = {
        call
        for text in TEXT.values()
        for call in re.findall(r"\.venv/bin/python -m (pytest [^`\n]+)", text)
        + [f"pytest {given}" for given in re.findall(r'make test ARGS="(tests/[^"]+)"', text)]
    }

    assert len(calls) >= 2
    for call in sorted(calls):
        words = [sys.executable, "-m", *shlex.split(call), "--collect-only", "-q"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{call}: {done.stdout[-500:]}"
