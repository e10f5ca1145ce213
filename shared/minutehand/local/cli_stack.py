"""Finds the stack that the Supabase CLI runs for a project, by `supabase status`."""

import shutil
import subprocess
from collections.abc import Mapping

import httpx

from minutehand.project import Project
from minutehand.terminal.connection import parse_env
from supabase_local.config import Config

#: Environment variable by which the Supabase CLI runs its stack without Docker.
NATIVE = "SUPABASE_EXPERIMENTAL_STACK"
#: Options that make `supabase status` print KEY=value lines. A stack without Docker rejects `-o
#: env`, and a stack with Docker rejects `--env`.
OPTIONS = (("--env",), ("-o", "env"))
STATUS_SECONDS = 30


def read_status(project: Project, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the stack that the Supabase CLI runs for the project, or {}.

    If nothing listens on the address in `config.toml`, the Supabase CLI is not called, because a
    call takes seconds.
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
                timeout=STATUS_SECONDS,
                env={**environ, "PATH": search_path},
            )
        except subprocess.TimeoutExpired:  # e.g. Docker does not respond
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
