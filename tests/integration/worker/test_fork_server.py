"""A fork server starts processes that share its imported modules.

It ends with its host. The processes are real, and each runs the code in its variable DO.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from minutehand.functions.worker.fork_server import ForkServer

PROGRAM = """
import os, psutil, signal, sys, threading
from minutehand.functions.worker.fork_server import FORK_SERVER, serve_forks

loaded_by = None

def load():
    global loaded_by
    loaded_by = os.getpid()
    exec(os.environ.get("LOAD", ""))

if FORK_SERVER in os.environ:
    serve_forks(load)
exec(os.environ["DO"])
"""
IN_MEMORY = "psutil.Process(os.getppid()).num_threads() * 10 + (loaded_by == os.getppid())"
THREAD = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
END_OTHERS = """
def end_others(pid, flags, waitpid=os.waitpid):
    os.waitpid = waitpid
    for child in psutil.Process().children():
        if child.pid != pid:
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return waitpid(pid, flags)

os.waitpid = end_others
"""
SAY_PID = "os.write(int(os.environ['SAYS']), b'%d' % os.getpid()); "


@asynccontextmanager
async def fork_server(**environ: str) -> AsyncIterator[tuple[ForkServer, int]]:
    """Start a fork server, and a pipe to which its processes may write."""
    read, write = os.pipe()
    environ = {**os.environ, "SAYS": str(write), **environ}
    server = ForkServer((sys.executable, "-c", PROGRAM), environ, pass_fds=(write,))
    try:
        yield server, read
    finally:
        await server.aclose(timeout_seconds=0)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("load", "is_forked"), [("", True), (THREAD, False), ("raise ValueError", False)]
)
async def test_a_process_is_forked_unless_a_module_failed_or_started_a_thread(
    load: str, is_forked: bool
) -> None:
    """A process is forked with the loaded modules.

    If a module fails or starts a thread, the process starts without them.
    """
    async with fork_server(LOAD=load) as (server, _):
        codes = await asyncio.gather(
            server.run({"DO": f"sys.exit({IN_MEMORY})"}),
            server.run({"DO": "os.kill(os.getpid(), signal.SIGKILL)"}),
            server.run({"DO": ""}),
        )

    assert [*codes] == [10 + is_forked, -signal.SIGKILL, 0]


async def waiting_process(
    server: ForkServer, pipe: int
) -> tuple[asyncio.Task[int | None], psutil.Process, psutil.Process]:
    """Start a process that waits. Return its run, the process and the fork server."""
    running = asyncio.create_task(server.run({"DO": SAY_PID + "os.read(0, 1)"}))
    process = psutil.Process(int(await asyncio.to_thread(os.read, pipe, 20)))
    parent = process.parent()
    assert parent is not None
    return running, process, parent


async def test_processes_notice_that_the_fork_server_was_killed() -> None:
    """When the fork server is killed, its processes end.

    The next process gets a new fork server.
    """
    async with fork_server() as (server, pipe):
        running, process, parent = await waiting_process(server, pipe)
        parent.kill()

        assert await running is None
        await asyncio.to_thread(process.wait, 60)
        assert await server.run({"DO": "sys.exit(3)"}) == 3


@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
@pytest.mark.parametrize("imports", [False, True])
async def test_the_host_ends_processes_by_sigterm_and_kills_the_others(
    handler: str, imports: bool
) -> None:
    """The host ends its processes with SIGTERM, and kills those that ignore it."""
    ends = handler == "SIG_DFL"
    waits = f"signal.signal(signal.SIGTERM, signal.{handler}); {SAY_PID} signal.pause()"
    async with fork_server(LOAD=waits if imports else "") as (server, pipe):
        running = asyncio.create_task(server.run({"DO": waits}))
        await asyncio.to_thread(os.read, pipe, 20)
        await server.aclose(timeout_seconds=60 if ends else 0.5)

        assert await running == (None if imports else -15 if ends else -9)


async def test_a_sigterm_to_the_process_group_leaves_the_fork_server_to_its_host() -> None:
    """The fork server ignores SIGTERM, so that its host can wait for the processes' end."""
    async with fork_server() as (server, pipe):
        running, process, parent = await waiting_process(server, pipe)
        parent.terminate()
        process.terminate()

        assert await running == -signal.SIGTERM


async def test_a_process_that_stays_stopped_is_killed() -> None:
    """The jobs of a process that SIGSTOP has stopped must not wait until their leases expire."""
    async with fork_server() as (server, pipe):
        running, process, _ = await waiting_process(server, pipe)
        process.suspend()

        assert await running == -signal.SIGSTOP


async def test_processes_that_end_together_end_no_other() -> None:
    """When several processes end at once, the fork server reports each end and keeps the others."""
    async with fork_server(LOAD=END_OTHERS) as (server, pipe):
        started = [await waiting_process(server, pipe) for _ in range(3)]
        runs, processes, _ = zip(*started, strict=True)
        processes[-1].kill()

        assert await asyncio.gather(*runs[1:]) == [-signal.SIGKILL] * 2
        assert await server.run({"DO": "sys.exit(3)"}) == 3
        processes[0].terminate()
        assert await runs[0] == -signal.SIGTERM


async def test_a_process_that_the_system_refuses_ends_no_other() -> None:
    """If the system rejects one fork, that run returns an error code and the next fork succeeds."""
    fails_once = "os.fork = lambda fork=os.fork: setattr(os, 'fork', fork) or os.rmdir('/none')"
    async with fork_server(LOAD=fails_once) as (server, _):
        assert await server.run({}) == os.EX_OSERR
        assert await server.run({"DO": "sys.exit(3)"}) == 3
    assert await ForkServer(["/none"], {}, pass_fds=()).run({}) == os.EX_OSERR
