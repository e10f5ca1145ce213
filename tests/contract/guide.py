"""Helpers for tests of the user guides: run a shell command, and wait for a job's end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.support.patience import until


def bash(command: str, **variables: str) -> str:
    """Run a shell command that a user guide prints, and return the command's output."""
    env = {**os.environ, **variables}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(portal: httpx.Client, path: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        state: dict[str, Any] = portal.get(path).raise_for_status().json()
        return state if state["status"] in {"completed", "failed", "cancelled"} else None

    return until(look, seconds=600, every=0.1)


def in_threads(count: int, run: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))
