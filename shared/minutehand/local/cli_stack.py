"""The stack of the Supabase CLI for a project, as `supabase status` describes it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

import httpx

from minutehand.project import Project
from minutehand.terminal.connection import parse_env
from supabase_local.config import Config

#: Environment variable with which the CLI runs its stack without Docker.
NATIVE = "SUPABASE_EXPERIMENTAL_STACK"
#: Options that print the values. A stack without Docker rejects the second option, and other stacks
#: reject the first.
OPTIONS = (("--env",), ("-o", "env"))
STATUS_SECONDS = 30


def read_status(project: Project, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the project's running stack of the Supabase CLI, or none.

    The CLI is not called if nothing listens at the address in `config.toml`, because a call takes
    seconds.
    """
    folder = project.root / "node_modules" / ".bin"
    search_path = f"{folder}:{environ.get('PATH', '')}"
    program = shutil.which("supabase", path=search_path)
    if program is None or not (environ.get(NATIVE) or _responds(Config.read(project.root).address)):
        return {}
    for option in OPTIONS:
        try:
            result = subprocess.run(
                [program, "status", *option],
                cwd=project.root,
                capture_output=True,
                text=True,
                check=False,
                timeout=STATUS_SECONDS,
                env={**environ, "PATH": search_path},
            )
        except subprocess.TimeoutExpired:  # e.g. because Docker hangs
            return {}
        values = parse_env(result.stdout)
        if result.returncode == 0 and values.get("API_URL"):
            return values
    return {}


def _responds(url: str) -> bool:
    try:
        httpx.get(f"{url}/rest/v1/", timeout=1)
    except httpx.HTTPError:
        return False
    return True
