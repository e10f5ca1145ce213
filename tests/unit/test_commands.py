"""The commands that the pages for contributors give can be typed as they stand there."""

from __future__ import annotations

import re

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
