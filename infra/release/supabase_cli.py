"""The Supabase CLI and other npm packages, which are cached between runs."""

import fcntl
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

CLI = "supabase@3.1.0"
MACHINE = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SYSTEM = f"{sys.platform}-{MACHINE}"
CACHE = Path(tempfile.gettempdir()) / "minutehand-compatibility"


class PushFailed(Exception):
    """`supabase db push` failed. The error's message is the output of the command."""


def supabase_cli() -> Path:
    """Install the Supabase CLI if it is missing, and return the path of its program."""
    return fetch("cli", CLI) / "@supabase" / f"cli-{SYSTEM}" / "bin" / "supabase"


def fetch(name: str, *packages: str) -> Path:
    """Install npm packages into the cache folder `name` if missing.

    Return the folder `node_modules`.

    If several processes call this function at the same time, one installs the packages and the
    others wait.
    """
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # npm writes `.package-lock.json` at the end of an installation. If the file is missing, an
        # earlier installation was interrupted.
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


def push(project: Path, url: str, *flags: str) -> str:
    """Run `supabase db push` in the folder of a project, and return its output.

    Raises:
        PushFailed: The command failed.
    """
    done = subprocess.run(
        [supabase_cli(), "db", "push", f"--remote={url}?sslmode=disable", "--yes", *flags],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"},
    )
    if done.returncode:
        raise PushFailed(f"{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
