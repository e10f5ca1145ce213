"""A host starts a process for suspects that its worker has found.

The processes are real, and the worker always finds suspects.
"""

from __future__ import annotations

import asyncio
import os
from itertools import groupby
from pathlib import Path

import pytest

from minutehand.functions.worker.process import WorkerProcess

WORKER = """
import json, os, select, sys
from pathlib import Path
from minutehand.functions.worker.fork_server import FORK_SERVER, serve_forks

if FORK_SERVER in os.environ:
    serve_forks(lambda: None)
if "WORKER_SUSPECTS_ONLY" in os.environ:
    starts = Path(os.environ["STARTS"])
    with starts.open("a") as file:
        print(file=file)
    number = starts.stat().st_size
    evidence = os.environ["WORKER_EVIDENCE"]
    Path(f"{evidence}.stacks").touch()
    Path(evidence).write_text(json.dumps({"leased": number // 6}))
    sys.exit()
pipe = int(os.environ["WORKER_SUSPECTS_PIPE"])
while select.select([], [pipe], []):
    os.write(pipe, b".")
"""


async def test_the_pause_doubles_until_a_process_leases_suspects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the sixth process can lease suspects. No pause takes time in this test."""
    (tmp_path / "suspects_worker.py").write_text(WORKER)
    file = tmp_path / "starts"
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    host = WorkerProcess("suspects_worker", {**os.environ, "PYTHONPATH": path, "STARTS": str(file)})
    #: The pauses, and the number of processes that had started before each.
    pauses: list[tuple[float, int]] = []
    has_leased = asyncio.Event()
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        starts = file.stat().st_size if file.exists() else 0
        pauses.append((seconds, starts))
        if starts >= 6 and seconds == 1:
            has_leased.set()
            await asyncio.Event().wait()
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)
    host.start()
    await has_leased.wait()
    await host.aclose(timeout_seconds=60)

    different = [seconds for seconds, _ in groupby(pauses, key=lambda each: each[0])]
    assert different == [1, 2, 4, 8, 16, 30, 1]
    assert next(starts for seconds, starts in pauses if seconds == 30) == 5
