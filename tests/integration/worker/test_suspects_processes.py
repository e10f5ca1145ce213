"""A host starts extra processes for suspects: jobs that may have ended a worker's process.

The processes are real.
"""

import asyncio
import os
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from minutehand.functions.worker.process import WorkerProcess
from tests.support.engine import Engine

#: A worker program that finds suspects as soon as the last process for suspects has ended. The
#: sixth process for suspects leases some.
WORKER = """
import itertools, json, os, sys, time
from pathlib import Path
from minutehand.functions.worker.fork_server import FORK_SERVER, serve_forks

if FORK_SERVER in os.environ:
    serve_forks(lambda: None)
starts = Path(os.environ["FOLDER"]) / "starts"
evidence = Path(os.environ["WORKER_EVIDENCE"])
if "WORKER_SUSPECTS_ONLY" in os.environ:
    Path(f"{evidence}.stacks").touch()
    with starts.open("a") as file:
        print(file=file)
    evidence.write_text(json.dumps({"leased": starts.stat().st_size // 6}))
    sys.exit()
starts.touch()
for count in itertools.count(1):
    os.write(int(os.environ["WORKER_SUSPECTS_PIPE"]), b".")
    while starts.stat().st_size < count or [*evidence.parent.glob("*.stacks")]:
        time.sleep(0.01)
"""


class Hosts:
    """Runs a host of a worker program. The host's pauses last 10 ms, and are recorded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pauses: list[float] = []
        self.folder = folder
        sleep = asyncio.sleep

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)
            await sleep(0.01)

        self._sleep = sleep
        monkeypatch.setattr(asyncio, "sleep", pause)

    async def run(self, program: str, until: Callable[[], object], **environ: str) -> None:
        """Run a host until the condition holds."""
        (self.folder / "suspects_worker.py").write_text(program)
        path = f"{self.folder}:{os.environ.get('PYTHONPATH', '')}"
        environ = {**os.environ, "PYTHONPATH": path, "FOLDER": str(self.folder), **environ}
        host = WorkerProcess("suspects_worker", environ)
        host.start()
        async with asyncio.timeout(60):
            while not until():
                await self._sleep(0.01)
        await host.aclose(timeout_seconds=60)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    return Hosts(tmp_path, monkeypatch)


async def test_the_pause_doubles_until_a_process_leases_suspects(hosts: Hosts) -> None:
    """The host's pause between processes for suspects doubles until a process leases suspects."""
    await hosts.run(WORKER, lambda: 30 in hosts.pauses and hosts.pauses[-1] == 1)

    assert [seconds for seconds, _ in groupby(hosts.pauses)] == [1, 2, 4, 8, 16, 30, 1]


async def test_the_pause_does_not_grow_while_each_process_leases_suspects(hosts: Hosts) -> None:
    """The suspects run long, so that no process ends."""
    program = WORKER.replace(" // 6", "").replace("sys.exit()", "os.read(0, 1)")
    program = program.replace(' or [*evidence.parent.glob("*.stacks")]', "")
    starts = hosts.folder / "starts"
    await hosts.run(program, lambda: starts.exists() and starts.stat().st_size >= 6)

    assert max(hosts.pauses) == 2


async def test_the_pause_grows_while_one_process_runs_suspects_and_others_find_none(
    hosts: Hosts,
) -> None:
    """A limit may block all other suspects for as long as the first one runs."""
    is_first = "starts.stat().st_size == 1"
    program = WORKER.replace("starts.stat().st_size // 6", is_first)
    program = program.replace("sys.exit()", f"os.read(0, 1) if {is_first} else sys.exit()")
    program = program.replace(' or [*evidence.parent.glob("*.stacks")]', "")
    await hosts.run(program, lambda: 30 in hosts.pauses)


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


async def test_suspects_found_beside_a_process_that_leases_none_get_a_process(hosts: Hosts) -> None:
    """The worker finds suspects while an earlier process for suspects still runs.

    The host then starts another process.
    """

    def has_started_two() -> bool:
        count = count_started(hosts.folder)
        if count == 1 and 2 in hosts.pauses:
            (hosts.folder / "end").touch()
        return count == 2

    await hosts.run(DYING, has_started_two)


async def test_processes_that_share_the_suspects_of_a_death_delay_no_later_process(
    engine: Engine, environ: dict[str, str], hosts: Hosts
) -> None:
    """Eight processes start for eight suspects.

    Those that find no suspect do not delay the next process.
    """
    engine.register()
    jobs = " ".join(engine.enqueue_many(8))
    engine.lease(8, worker="dies")
    program = DYING.replace('"started-*")', '"ended-*", 8)')
    (hosts.folder / "end").touch()

    await hosts.run(program, lambda: hosts.pauses, **environ, JOBS=jobs)

    assert hosts.pauses[0] == 1
    assert count_started(hosts.folder) == 8
