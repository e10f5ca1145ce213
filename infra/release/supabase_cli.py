"""The Supabase CLI from npm, and other programs that npm has; kept from run to run."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

CLI: Final = "supabase@3.1.0"
MACHINE: Final = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SYSTEM: Final = f"{sys.platform}-{MACHINE}"
CACHE: Final = Path(tempfile.gettempdir()) / "minutehand-compatibility"


class PushRefused(Exception):
    """`supabase db push` ended with an error; the message holds its words."""


def supabase_cli() -> Path:
    """Fetch the CLI unless it is there; return the program."""
    return fetch("cli", CLI) / "@supabase" / f"cli-{SYSTEM}" / "bin" / "supabase"


def fetch(name: str, *packages: str) -> Path:
    """Install npm packages into a folder of their own, unless it is there; return node_modules.

    Of several processes that ask at once one installs it and the others wait.
    """
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # npm writes this file last: without it an install was cut off, and is done again
        if not (folder / "node_modules" / ".package-lock.json").exists():
            (folder / "package.json").write_text('{"private": true}')
            binaries = Path(sys.executable).parent
            path = f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"
            subprocess.run(
                [binaries / "npm", "install", "--no-progress", "--loglevel=error", *packages],
                check=True,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PATH": path, "NODE_OPTIONS": "--use-system-ca"},
            )
    return folder / "node_modules"


def push(cli: Path, project: Path, url: str, *flags: str) -> str:
    """Run `supabase db push` in a project's folder; return what it printed.

    Raises:
        PushRefused: It ended with an error.
    """
    done = subprocess.run(
        [cli, "db", "push", f"--remote={url}?sslmode=disable", "--yes", *flags],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"},
    )
    if done.returncode:
        raise PushRefused(f"{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
