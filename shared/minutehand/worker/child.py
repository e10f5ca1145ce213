"""Programs that work on strangers' bytes: children with bounded time, memory, output and rights.

What is run, and what its end means, is the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from minutehand.worker.child_process import NOT_RUNNABLE

MEMORY_BYTES: Final = 2 * 1024**3
LINE_BYTES: Final = 64 * 1024
#: A program gets its processor time within so many times that of a clock: others run here too.
PATIENCE: Final = 10
_PROCESS: Final = Path(__file__).with_name("child_process.py")


class NotRunnable(Exception):
    """What should be a program cannot be run here."""


async def run_child(
    command: Sequence[str],
    on_line: Callable[[str], None],
    *,
    seconds: float,
    most_bytes: int = 0,
    memory_bytes: int = MEMORY_BYTES,
) -> int:
    """Run a program without a shell and give its errors line by line; returns its exit code.

    It gets no variable and no input of ours, and dies with this process. Cancelling ends it before
    anything else happens.

    Args:
        seconds: Most processor time.
        most_bytes: Longest file that it may write.
        memory_bytes: Most address space.

    Raises:
        NotRunnable: There is no such program.
        TimeoutError: It took longer, or hung.
    """
    limits = (os.getpid(), memory_bytes, math.ceil(seconds), most_bytes)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(_PROCESS), *map(str, limits), *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
        limit=LINE_BYTES,
        start_new_session=True,
    )
    assert child.stderr is not None
    try:
        async with asyncio.timeout(seconds * PATIENCE):
            while line := await _line(child.stderr):
                on_line(line.decode("utf-8", "replace").rstrip())
            code = await child.wait()
    finally:
        if child.returncode is None:
            # with what it has started, which would outlive it and hold our end of the pipe
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.shield(child.wait())
    if code in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise TimeoutError
    if code == NOT_RUNNABLE:
        raise NotRunnable(f"{command[0]} cannot be run")
    return code


def _environment() -> dict[str, str]:
    """What Python needs to start, as on Lambda its library; the program gets nothing of it."""
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": libraries} if libraries else {}


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or a part of one that has no end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)
