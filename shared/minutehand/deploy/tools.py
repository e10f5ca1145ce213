"""Programs that the packager runs: how each is found, and what is said when one fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from minutehand.deploy.bundles import PackagingError
from minutehand.node import CERTIFICATES


def find_tool(name: str) -> str:
    """The program beside this interpreter first: a virtual environment need not be activated.

    Raises:
        PackagingError: It is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise PackagingError(f'{name} is not installed: pip install "minutehand[deploy]"')
    return found


def uv() -> str:
    """The program uv."""
    return find_tool("uv")


def with_certificates(command: list[str]) -> list[str]:
    """Add the machine's own certificates, where there are any: a proxy may sign with its own."""
    return [*command, "--system-certs"] if any(path.exists() for path in CERTIFICATES) else command


def run_tool(command: list[str], what: str, *, given: str | None = None) -> str:
    """Run a program and return what it printed.

    Raises:
        PackagingError: It ended with an error; its own words follow `what`.
    """
    if Path(command[0]).stem == "uv":
        command = with_certificates(command)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackagingError(f"{what}: {' '.join(command[:4])}… said\n{done.stdout}{done.stderr}")
    return done.stdout
