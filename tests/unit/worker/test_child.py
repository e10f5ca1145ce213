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
from minutehand.worker import child, child_process
from minutehand.worker.child import LINE_BYTES, NotRunnable, run_child
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


def is_running(pid: int) -> bool:
    try:
        return not has_ended(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


async def test_a_child_gets_no_environment_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are in a worker's environment, and a stranger's file has the word in there."""
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "secret")
    said: list[str] = []

    tell = program(tmp_path, "env >&2\n")
    assert await run_child([tell], said.append, seconds=60) == 0

    assert {line.partition("=")[0] for line in said} <= {"LC_ALL", "PWD", "SHLVL", "_"}


def test_what_starts_a_child_finds_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Lambda no Python starts without it."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/var/lang/lib")
    assert child._environment() == {"LD_LIBRARY_PATH": "/var/lang/lib"}
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert child._environment() == {}


async def test_a_child_has_no_more_memory_time_and_disk_than_it_is_given(tmp_path: Path) -> None:
    """What others of the machine do is none of its fault: the time is its processor's."""
    said: list[str] = []
    file = tmp_path / "written"
    tell = program(
        tmp_path,
        "for limit in v t f c; do ulimit -$limit >&2; done\n"
        f"exec head -c 5000 /dev/zero >{file} 2>/dev/null\n",
    )

    code = await run_child([tell], said.append, seconds=60.5, memory_bytes=1024**3, most_bytes=4096)

    assert said == [str(1024**2), "61", "8", "0"]
    assert (code != 0, file.stat().st_size) == (True, 4096)


@pytest.mark.parametrize("does", ["exec sleep 600", "sleep 600 & echo $! >&2; wait"])
async def test_a_child_that_takes_too_long_is_ended_with_all_it_started(
    tmp_path: Path, does: str
) -> None:
    """A wrapper's program holds the pipe, and would keep the job until it ends by itself."""
    said: list[str] = []
    forking = program(tmp_path, f"echo $$ >&2\n{does}\n")
    running = asyncio.create_task(run_child([forking], said.append, seconds=0.3))

    await asyncio.wait({running}, timeout=60)

    assert running.done()
    assert isinstance(running.exception(), TimeoutError)
    # who is no child of ours is not waited for: the signal may be on its way
    async with asyncio.timeout(60):
        while any(is_running(int(child)) for child in said):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_is_no_program_is_said_to_be_none(tmp_path: Path) -> None:
    """And not taken for a program that failed over its input."""
    with pytest.raises(NotRunnable, match="nowhere cannot be run"):
        await run_child([str(tmp_path / "nowhere")], print, seconds=60)


async def test_a_line_without_end_is_read_in_parts(tmp_path: Path) -> None:
    """Its length is up to who wrote the file, and no reason to fail."""
    said: list[str] = []
    tell = program(tmp_path, "head -c 2000000 /dev/zero | tr '\\0' x >&2\nprintf .end >&2\n")

    assert await run_child([tell], said.append, seconds=60) == 0

    assert "".join(said) == "x" * 2_000_000 + ".end"
    # what asyncio holds of a pipe before it stops reading, and one reading of the most it takes
    assert max(map(len, said)) <= 2 * LINE_BYTES + 256 * 1024


def test_a_child_whose_parent_died_while_it_started_does_not_begin(tmp_path: Path) -> None:
    """No one would end it."""
    began = tmp_path / "began"
    limits = ("1", str(2**31), "60", "0")
    command = [sys.executable, child_process.__file__, *limits, "/bin/mkdir", str(began)]

    code = subprocess.run(command, check=False, timeout=60).returncode

    assert (code, began.exists()) == (1, False)


async def test_a_cancel_ends_the_child(slow: str) -> None:
    """Nothing runs on for a job that was stopped."""
    said: asyncio.Queue[str] = asyncio.Queue()
    running = asyncio.create_task(run_child([slow], said.put_nowait, seconds=600))
    pid = int(await said.get())

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not psutil.pid_exists(pid)


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
