"""A host starts extra processes for suspects: jobs that may have ended a worker's process.

The processes are real.
"""

from __future__ import annotations

import asyncio
import os
from itertools import groupby
from pathlib import Path

import pytest

from minutehand.functions.worker.process import WorkerProcess
from tests.support.engine import Engine

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
    """The host's pause between processes for suspects doubles until a process leases suspects."""
    (tmp_path / "suspects_worker.py").write_text(WORKER)
    file = tmp_path / "starts"
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    host = WorkerProcess("suspects_worker", {**os.environ, "PYTHONPATH": path, "STARTS": str(file)})
    pauses: list[float] = []
    has_leased = asyncio.Event()
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        starts = file.stat().st_size if file.exists() else 0
        pauses.append(seconds)
        if starts >= 6 and seconds == 1:
            has_leased.set()
            await asyncio.Event().wait()
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)
    host.start()
    await has_leased.wait()
    await host.aclose(timeout_seconds=60)

    assert [seconds for seconds, _ in groupby(pauses)] == [1, 2, 4, 8, 16, 30, 1]


async def test_the_pause_does_not_grow_while_each_process_leases_suspects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suspects run long, so that no process ends."""
    leased = WORKER.replace("number // 6", "1").replace("sys.exit()", "os.read(0, 1)")
    (tmp_path / "suspects_worker.py").write_text(leased)
    file = tmp_path / "starts"
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    host = WorkerProcess("suspects_worker", {**os.environ, "PYTHONPATH": path, "STARTS": str(file)})
    pauses: list[float] = []
    have_started = asyncio.Event()
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if file.exists() and file.stat().st_size >= 6:
            have_started.set()
        await sleep(0.01)

    monkeypatch.setattr(asyncio, "sleep", pause)
    host.start()
    async with asyncio.timeout(60):
        await have_started.wait()
    await host.aclose(timeout_seconds=60)

    assert max(pauses) == 2


#: A worker program. Each of its processes for suspects ends without a lease when the test creates
#: the file `end`.
DYING = """
import json, os, sys, time
from pathlib import Path
from minutehand.functions.worker.fork_server import FORK_SERVER, serve_forks

folder = Path(os.environ["FOLDER"])

def wait(name, count=1):
    while len([*folder.glob(name)]) < count:
        time.sleep(0.01)

if FORK_SERVER in os.environ:
    serve_forks(lambda: None)
if "WORKER_SUSPECTS_ONLY" in os.environ:
    (folder / f"started-{os.getpid()}").touch()
    wait("end")
    (folder / f"ended-{os.getpid()}").touch()
    sys.exit()
pipe, died = int(os.environ["WORKER_SUSPECTS_PIPE"]), folder / "died"
if "JOBS" in os.environ and not died.exists():
    died.touch()
    evidence = Path(os.environ["WORKER_EVIDENCE"])
    Path(f"{evidence}.stacks").touch()
    jobs = os.environ["JOBS"].split()
    evidence.write_text(json.dumps({"worker_id": "dies", "leased": 8, "jobs": jobs}))
    sys.exit(1)
if "JOBS" not in os.environ:
    os.write(pipe, b".")
wait("started-*")
for file in folder.glob("ended-*"):
    while Path(f"/proc/{file.name.removeprefix('ended-')}").exists():
        time.sleep(0.01)
os.write(pipe, b".")
time.sleep(600)
"""


def count_started(folder: Path) -> int:
    """Return how many processes for suspects have started."""
    return len([*folder.glob("started-*")])


async def test_suspects_found_beside_a_process_that_leases_none_get_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker finds suspects while an earlier process for suspects still runs.

    The host then starts another process.
    """
    (tmp_path / "dying_worker.py").write_text(DYING)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    environ = {**os.environ, "PYTHONPATH": path, "FOLDER": str(tmp_path)}
    host = WorkerProcess("dying_worker", environ)
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        await sleep(0.01)
        if count_started(tmp_path):
            asyncio.get_running_loop().call_soon((tmp_path / "end").touch)

    monkeypatch.setattr(asyncio, "sleep", pause)
    host.start()
    async with asyncio.timeout(60):
        while count_started(tmp_path) < 2:
            await sleep(0.01)
    await host.aclose(timeout_seconds=60)


async def test_processes_that_share_the_suspects_of_a_death_delay_no_later_process(
    engine: Engine, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight processes start for eight suspects.

    Those that find no suspect do not delay the next process.
    """
    engine.register()
    jobs = " ".join(engine.enqueue_many(8))
    engine.lease(8, worker="dies")
    (tmp_path / "dying_worker.py").write_text(DYING.replace('"started-*")', '"ended-*", 8)'))
    (tmp_path / "end").touch()
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    folder = {"PYTHONPATH": path, "FOLDER": str(tmp_path), "JOBS": jobs}
    host = WorkerProcess("dying_worker", {**os.environ, **environ, **folder})
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0.01)

    monkeypatch.setattr(asyncio, "sleep", pause)
    host.start()
    async with asyncio.timeout(60):
        while not pauses:
            await sleep(0.01)
    await host.aclose(timeout_seconds=60)
    assert pauses[0] == 1
    assert count_started(tmp_path) == 8
