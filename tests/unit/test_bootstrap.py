"""`make setup` on a machine whose Python is missing, old or whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

#: A Python of some version, with or without venv, that notes what it is asked.
PYTHON = """\
#!/bin/sh
case "$2" in
  *version_info*) exec "{python}" -c "
import sys
sys.version_info = {version}
${{2#import sys; }}" ;;
  *ensurepip*) exit {venv} ;;
esac
echo "$(basename "$0") $*" >> "{log}"
case "$*" in *venv*) mkdir -p .venv/bin && for name in python pip uv; do
  [ -e .venv/bin/$name ] || cp "$0" .venv/bin/$name; done ;; esac
"""


def bootstrap(repository: Path, folder: Path, version: str, *, venv: int = 0) -> tuple[int, str]:
    """Run it in `folder` with such a Python: its exit code, and what it said or asked."""
    python, log = folder / "python3.x", folder / "log"
    text = PYTHON.format(
        python=repository / ".venv/bin/python", version=version, venv=venv, log=log
    )
    python.write_text(text)
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", repository / "infra/bootstrap/bootstrap.sh", str(python)],
        cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr + (log.read_text() if log.exists() else "")


@pytest.mark.parametrize(
    ("version", "venv", "said"),
    [
        ("(3, 10, 14)", 0, "needs Python 3.11 or newer"),
        ("(3, 11, 0)", 1, "without venv"),
    ],
)
def test_a_python_that_cannot_do_it_is_refused_before_anything_is_made(
    repository: Path, tmp_path: Path, version: str, venv: int, said: str
) -> None:
    """With what to install."""
    code, words = bootstrap(repository, tmp_path, version, venv=venv)

    assert code == 1
    assert said in words
    assert not (tmp_path / ".venv").exists()
    missing = ["sh", str(repository / "infra/bootstrap/bootstrap.sh"), "no-such-python"]
    assert subprocess.run(missing, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_packages_are_installed_by_their_hashes_alone(repository: Path, tmp_path: Path) -> None:
    """The installer by its own lock, everything else by it."""
    code, asked = bootstrap(repository, tmp_path, "(3, 11, 0)")

    assert code == 0
    assert "-m venv --clear .venv" in asked
    assert "--require-hashes -r infra/bootstrap/bootstrap.lock" in asked
    [sync] = [line for line in asked.splitlines() if line.startswith("uv pip sync")]
    assert "--require-hashes --python .venv/bin/python requirements-dev.lock" in sync
