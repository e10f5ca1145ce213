"""Programs that work on strangers' bytes: what they are given, and that none outlives its job."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from minutehand.local.processes import has_ended
from minutehand.worker.child import run_child
from tests.support.paths import ROOT


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """A program that says who it is, and goes on for minutes."""
    return program(tmp_path, "echo $$ >&2\nexec sleep 600\n")


def program(folder: Path, does: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{does}")
    path.chmod(0o755)
    return str(path)


async def test_a_child_gets_no_environment_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are in a worker's environment, and a stranger's file has the word in there."""
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "secret")
    said: list[str] = []

    tell = program(tmp_path, "env >&2\nulimit -v >&2\n")
    await run_child([tell], said.append, seconds=60, memory_bytes=1024**3)

    assert {line.partition("=")[0] for line in said[:-1]} <= {"LC_ALL", "PWD", "SHLVL", "_"}
    assert said[-1] == str(1024**2)


async def test_a_cancel_ends_the_child(slow: str) -> None:
    """Nothing runs on for a job that was stopped."""
    said: asyncio.Queue[str] = asyncio.Queue()
    running = asyncio.create_task(run_child([slow], said.put_nowait, seconds=600))
    child = int(await said.get())

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not psutil.pid_exists(child)


def test_a_child_dies_with_its_parent(slow: str) -> None:
    """A killed worker leaves none behind."""
    script = f"""
        import asyncio
        from minutehand.worker.child import run_child
        asyncio.run(run_child([{slow!r}], lambda line: print(line, flush=True), seconds=600))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)

    give_up = time.monotonic() + 60
    while not has_ended(child):
        assert time.monotonic() < give_up
        time.sleep(0.02)
