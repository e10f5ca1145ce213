"""Helpers for tests of the user guides: run a shell command, and wait for a job's end."""

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from minutehand_apps.training.media import find_ffmpeg
from tests.support.paths import ROOT
from tests.support.patience import until

#: A JSON object, such as a request or a response.
Json = dict[str, Any]

SAMPLE = ROOT / "shared/minutehand_apps/training/console/sample.mp4"


def bash(command: str, **variables: str) -> str:
    """Run a shell command that a user guide prints, and return the command's output."""
    env = {**os.environ, **variables}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(portal: httpx.Client, path: str) -> Json:
    def look() -> Json | None:
        state: Json = portal.get(path).raise_for_status().json()
        return state if state["status"] in {"completed", "failed", "cancelled"} else None

    return until(look, seconds=600, every=0.1)


def in_threads(count: int, run: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def first_sentence(folder: Path) -> bytes:
    """Return the first three seconds of the sample, of which a transcript takes a second."""
    file = folder / "sentence.mp4"
    cut = ("-v", "error", "-i", str(SAMPLE), "-t", "3", "-c", "copy", str(file))
    subprocess.run([find_ffmpeg({}), *cut], check=True)
    return file.read_bytes()
