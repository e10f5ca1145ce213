"""The container's recipe, carried out step by step in fresh folders, and what it makes, started."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from minutehand.local.ports import reserve_port
from minutehand.node import node_binary
from tests.integration.serve.test_serve import eventually
from tests.support.dockerfile import build
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack


@pytest.mark.weekly(only=True)
@pytest.mark.timeout(1500)  # a fresh environment of fifty wheels
def test_the_recipe_makes_a_service_that_answers(stack: RunningStack, tmp_path: Path) -> None:
    """By its own lock alone: health, the console, the health check, a stop that is clean."""
    path = f"{Path(sys.executable).parent}:{Path(node_binary()).parent}:/usr/bin:/bin"
    image = build(
        ROOT / "infra" / "container" / "Dockerfile",
        ROOT,
        tmp_path,
        PATH=path,
        HOME=str(Path.home()),
        npm_config_prefer_offline="true",
    )
    port = str(reserve_port())
    names = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_JWT_SECRET")
    environment = image.environment(
        PATH=path,
        WORKER_SECRET_TOKEN="w" * 40,
        BACKGROUND_JOB_TOKEN="b" * 40,
        **{name: stack.values[name] for name in names},
    ) | {"PORT": port}

    assert image.user != "root"
    with (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(
            image.command, cwd=image.path("."), env=environment, stdout=log, stderr=log
        )
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/health", service), seconds=120)
        page = httpx.get(f"http://127.0.0.1:{port}/jobs")
        checked = subprocess.run(image.healthcheck, env=environment, timeout=60, check=False)
        service.send_signal(signal.SIGTERM)
        ended = service.wait(60)
    finally:
        service.kill()
        service.wait(60)

    assert page.status_code == 200
    assert "<title>" in page.text
    assert checked.returncode == 0
    # uvicorn ends by the signal it was sent, once everything is closed
    assert ended in {0, -signal.SIGTERM}
    assert "Application shutdown complete" in (tmp_path / "log").read_text(errors="replace")


def answers(url: str, service: subprocess.Popen[bytes]) -> bool:
    """Whether it is up; one that ended will never be."""
    assert service.poll() is None
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False
