"""Runs child processes for untrusted files, with limits on time, memory and output."""

import asyncio
import contextlib
import math
import os
import resource
import signal
from collections.abc import Callable, Sequence

MEMORY_BYTES = 2 * 1024**3
#: Limit of elapsed time as a multiple of the CPU time limit, because other programs run too.
ELAPSED_PER_CPU_SECOND = 10


async def run_child(
    command: Sequence[str], on_line: Callable[[str], None], *, seconds: float, max_bytes: int = 0
) -> int:
    """Run a program without a shell, pass on its stderr line by line, and return its exit code.

    The program gets no input, and only the environment variable `LC_ALL`. If the caller is
    cancelled, the program and its child processes are killed first. The limits also apply after the
    worker was killed.

    Raises:
        TimeoutError: The program has reached its time limit.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"LC_ALL": "C"},
        start_new_session=True,
    )
    assert child.stderr is not None
    try:
        _bind(child.pid, math.ceil(seconds), max_bytes)
        async with asyncio.timeout(seconds * ELAPSED_PER_CPU_SECOND):
            while line := await _line(child.stderr):
                on_line(line.decode("utf-8", "replace").rstrip())
            code = await child.wait()
    finally:
        if child.returncode is None:
            # kill the whole process group, because another child process would keep the pipe open
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            # do not call `wait`, because `wait` never returns while unread output blocks the pipe
            await asyncio.shield(child.communicate())
    if code in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise TimeoutError
    return code


def _bind(pid: int, seconds: int, max_bytes: int) -> None:
    """Set the resource limits of a process that has just started.

    Only Linux has the function `prlimit`.
    """
    limits = {"CORE": 0, "CPU": seconds, "FSIZE": max_bytes, "AS": MEMORY_BYTES}
    for name, limit in limits.items() if hasattr(resource, "prlimit") else ():
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, getattr(resource, f"RLIMIT_{name}"), (limit, limit))


async def _line(stream: asyncio.StreamReader) -> bytes:
    """Read the next line. If the line is too long, read the part that fits into the buffer."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)
