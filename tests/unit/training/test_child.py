"""Child processes that handle uploaded files: their environment, limits and end."""

import asyncio
import contextlib
from pathlib import Path

import psutil
import pytest

from minutehand_apps.training.child import run_child


def program(folder: Path, does: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{does}")
    path.chmod(0o755)
    return str(path)


async def test_a_child_has_no_more_than_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child process has no secrets in its environment. Its memory, time and disk are limited."""
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "secret")
    result: list[str] = []
    # The memory limit is set last, so the program waits for it.
    speak = program(
        tmp_path,
        'until [ "$(ulimit -v)" = 2097152 ]; do :; done\n'
        "for limit in v t f c; do ulimit -$limit >&2; done; env >&2\n",
    )

    code = await run_child([speak], result.append, seconds=60, max_bytes=4096)

    assert (code, result[:4]) == (0, [str(2 * 1024**2), "60", "8", "0"])
    assert {line.partition("=")[0] for line in result[4:]} <= {"LC_ALL", "PWD", "SHLVL", "_"}
    with pytest.raises(FileNotFoundError):
        await run_child([str(tmp_path / "nowhere")], print, seconds=60)


async def test_a_child_ends_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out or a cancel ends a child process and the processes that it started."""
    monkeypatch.setattr("minutehand_apps.training.child.ELAPSED_PER_CPU_SECOND", 1)
    result: asyncio.Queue[str] = asyncio.Queue()
    forking = program(tmp_path, "sleep 600 & echo $! >&2; head -c 200000 /dev/zero >&2; wait\n")
    running = asyncio.create_task(run_child([forking], result.put_nowait, seconds=600))
    pid = int(await result.get())

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(TimeoutError):
        await run_child([forking], lambda _: None, seconds=0.1)

    with contextlib.suppress(psutil.NoSuchProcess):
        # The process is dead. init removes its entry later.
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - no child
            await asyncio.sleep(0.02)
