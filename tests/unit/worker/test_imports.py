"""What the worker may import at its start: a tick every minute pays for each module."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = {
    "boto3",
    "botocore",
    "fastapi",
    "starlette",
    "mangum",
    "uvicorn",
    "supabase",
    "postgrest",
    "realtime",
    "rich",
    "h2",
    "pygments",
    "click",
    "typer",
    "jwt",
    "psycopg",
    "opentelemetry",
}
LIST_MODULES = "import json, sys; import {module}; print(json.dumps(sorted(sys.modules)))"
ENVIRONMENT = {
    "SUPABASE_URL": "https://project.example",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
    "SUPABASE_SECRET_KEY": "sb_secret_x",
    "WORKER_SECRET_TOKEN": "x",
}


def modules_after_importing(module: str, repository: Path) -> set[str]:
    listed = subprocess.run(
        [sys.executable, "-c", LIST_MODULES.format(module=module)],
        cwd=repository,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(listed.stdout)}


@pytest.mark.parametrize(
    "module", ["minutehand.queue", "minutehand.worker", "minutehand.functions.worker.handler"]
)
def test_no_heavy_module_is_imported_at_the_start(module: str, repository: Path) -> None:
    assert modules_after_importing(module, repository) & FORBIDDEN == set()


def test_settings_and_logs_need_almost_nothing(repository: Path) -> None:
    """The health function imports these."""
    loaded = modules_after_importing("minutehand.log, minutehand.clock", repository)

    assert loaded & (FORBIDDEN | {"pydantic", "httpx", "asyncio"}) == set()


def test_what_is_not_imported_in_case_is_found_when_asked_for(repository: Path) -> None:
    """A processor may well speak HTTP/2."""
    script = (
        "from minutehand.queue.lean_httpx import httpx; httpx.Client(http2=True).close();"
        "from httpcore._async.http2 import AsyncHTTP2Connection; import httpx._main"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=repository,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
