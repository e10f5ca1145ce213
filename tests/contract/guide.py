"""What the guides' files share: a shell for their commands, and patience."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx


def bash(command: str, **variables: str) -> str:
    """What a command prints, run as the guide prints it."""
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(look: Callable[[], Any], *, within: float = 240) -> Any:
    """What `look` sees once it is something."""
    give_up = time.monotonic() + within
    while not (seen := look()):
        assert time.monotonic() < give_up, "it did not come"
        time.sleep(0.3)
    return seen


def ended(portal: httpx.Client, path: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        state: dict[str, Any] = portal.get(path).raise_for_status().json()
        return state if state["status"] in {"completed", "failed", "cancelled"} else None

    found: dict[str, Any] = until(look, within=600)
    return found


def in_threads(count: int, run: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))
