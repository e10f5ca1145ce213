"""The console's modules that need no page, under Node's own test runner."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from minutehand.node import node_binary

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("file", sorted(HERE.glob("*.test.mjs")), ids=lambda file: file.stem)
def test_the_javascript_tests_pass(file: Path) -> None:
    """What needs no browser is tested without one."""
    done = subprocess.run(
        [node_binary(), str(file)],  # by `--test` it would be two processes
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
