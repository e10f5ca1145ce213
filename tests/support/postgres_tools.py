"""Runs Postgres's programs as the user of the server."""

import os
import subprocess
from pathlib import Path

from supabase_local.postgres import Postgres


def run_tool(server: Postgres, name: str, *arguments: object, text: str = "") -> str:
    """Run a program of Postgres and return its output, or fail with its errors."""
    account = server.user.pw_uid if server.user else None
    done = subprocess.run(
        [server.binary(name), *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        cwd=own_folder(server),
        user=account,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


def own_folder(server: Postgres) -> Path:
    """Return a folder next to the data in which the server's user may write."""
    folder = server.home / "tools"
    folder.mkdir(exist_ok=True)
    if server.user:
        os.chown(folder, server.user.pw_uid, server.user.pw_gid)
    return folder
