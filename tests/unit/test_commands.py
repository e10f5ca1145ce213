"""The targets of make that the pages for contributors name are there."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

PAGES = (".github/CONTRIBUTING.md", "README.md", "tests/README.md", "infra/bench/README.md")


def test_every_make_target_of_a_page_is_there() -> None:
    """In code alone: prose may make anything."""
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8")))
    text = "".join((ROOT / page).read_text("utf-8") for page in PAGES)
    code = re.findall(r"(?s)```sh\n.*?```|`[^`\n]+`", text)

    assert set(re.findall(r"(?m)^`?make ([a-z-]+)", "\n".join(code))) <= targets
