"""A fork server starts processes that share its imported modules, and ends with its host.

The processes are real. Each does what the variable DO says.
"""

from __future__ import annotations

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
import os, signal, sys, threading
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
THREAD = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
SAY_PID = "os.write(int(os.environ['SAYS']), b'%d' % os.getpid()); "


@asynccontextmanager
async def fork_server(**environ: str) -> AsyncIterator[tuple[ForkServer, int]]:
    """Yield a fork server, and a pipe to which its processes may write."""
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
    """Each process ends with its own exit code or signal."""
    async with fork_server(LOAD=load) as (server, _):
        codes = await asyncio.gather(
            server.run({"DO": "sys.exit(10 + (loaded_by == os.getppid()))"}),
            server.run({"DO": "os.kill(os.getpid(), signal.SIGKILL)"}),
            server.run({"DO": ""}),
        )

    assert [*codes] == [10 + is_forked, -signal.SIGKILL, 0]


async def test_processes_notice_that_the_fork_server_was_killed() -> None:
    """The standard input of the processes ends. The next process has another fork server."""
    async with fork_server() as (server, pipe):
        running = asyncio.create_task(server.run({"DO": SAY_PID + "os.read(0, 1)"}))
        process = psutil.Process(int(await asyncio.to_thread(os.read, pipe, 20)))
        parent = process.parent()
        assert parent is not None
        parent.kill()

        assert await running is None
        await asyncio.to_thread(process.wait, 60)
        assert await server.run({"DO": "sys.exit(3)"}) == 3


@pytest.mark.parametrize(("handler", "code"), [("SIG_DFL", 15), ("SIG_IGN", 9)])
async def test_the_host_ends_processes_by_sigterm_and_kills_the_others(
    handler: str, code: int
) -> None:
    async with fork_server() as (server, pipe):
        waits = f"signal.signal(signal.SIGTERM, signal.{handler}); {SAY_PID} os.read(0, 1)"
        running = asyncio.create_task(server.run({"DO": waits}))
        await asyncio.to_thread(os.read, pipe, 20)
        await server.aclose(timeout_seconds=60 if handler == "SIG_DFL" else 0.5)

        assert await running == -code
