"""Programs that work on strangers' bytes: children with bounded time, memory and output."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import signal
from collections.abc import Callable, Sequence
from typing import Final

MEMORY_BYTES: Final = 2 * 1024**3
#: A program gets its processor time within so many times that of a clock: others run here too.
PATIENCE: Final = 10


async def run_child(
    command: Sequence[str], on_line: Callable[[str], None], *, seconds: float, most_bytes: int = 0
) -> int:
    """Run a program without a shell and give its errors line by line; returns its exit code.

    It gets no variable and no input of ours. Cancelling ends it, with all it has started, before
    anything else happens; the bounds, which end in a TimeoutError, hold for one whose worker was
    killed, too.
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
        _bind(child.pid, math.ceil(seconds), most_bytes)
        async with asyncio.timeout(seconds * PATIENCE):
            while line := await _line(child.stderr):
                on_line(line.decode("utf-8", "replace").rstrip())
            code = await child.wait()
    finally:
        if child.returncode is None:
            # with what it has started, which would outlive it and hold our end of the pipe
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            # and not `wait`, which never ends while unread output keeps the pipe paused
            await asyncio.shield(child.communicate())
    if code in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise TimeoutError
    return code


def _bind(pid: int, seconds: int, most_bytes: int) -> None:
    """Limit a process that has just begun; Linux can."""
    limits = {"CORE": 0, "CPU": seconds, "FSIZE": most_bytes, "AS": MEMORY_BYTES}
    for name, most in limits.items() if hasattr(resource, "prlimit") else ():
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, getattr(resource, f"RLIMIT_{name}"), (most, most))


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or a part of one that has no end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)
