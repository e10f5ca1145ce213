"""The pure half of the console's library, under Node's own test runner."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent / "js"


def node() -> str:
    """Node from the wheel of this environment, else the one on the path."""
    beside = Path(sys.executable).parent / "node"
    return str(beside) if beside.exists() else (shutil.which("node") or "node")


@pytest.mark.parametrize("file", sorted(HERE.glob("*.test.mjs")), ids=lambda file: file.stem)
def test_the_javascript_tests_pass(file: Path) -> None:
    """What needs no browser is tested without one."""
    done = subprocess.run(
        [node(), "--test", str(file)], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
