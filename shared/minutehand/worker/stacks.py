"""The stack of a running attempt. `exit_report.py` reads the stacks of ended processes."""

import asyncio
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from traceback import walk_stack
from types import FrameType
from typing import Any

from minutehand.worker.current_job import run_recorded
from minutehand.worker.errors import CodeLocation, location_in, stack_in


def _running(task: asyncio.Task[Any] | None, thread: str) -> list[tuple[FrameType, int]]:
    """Return the frames that an attempt executes now, the outermost first."""
    running = sys._current_frames()
    for candidate in threading.enumerate():
        if candidate.name == thread and candidate.ident in running:
            return [*walk_stack(running[candidate.ident])][::-1]
    frames = [] if task is None else [*_awaited(task.get_coro())]
    if frames and frames[-1][0].f_code is asyncio.to_thread.__code__:
        # `to_thread` runs each call in a context of its own, so the context identifies the thread
        context = frames[-1][0].f_locals["ctx"]
        frames += next(filter(None, (_called_in(context, top) for top in running.values())), [])
    return frames


def _called_in(context: Context, top: FrameType) -> list[tuple[FrameType, int]]:
    """Return a thread's frames inside `context.run`, or no frames if it runs another call."""
    frames = [*walk_stack(top)]
    for number, (frame, _) in enumerate(frames):
        if frame.f_code is run_recorded.__code__:
            start = getattr(frame.f_locals["run"], "func", None)
            return frames[:number][::-1] if getattr(start, "__self__", None) is context else []
    return []


def stack_of(task: asyncio.Task[Any] | None, thread: str, module: str) -> list[dict[str, Any]]:
    """Return the stack frames that an attempt executes now, in the format of a traceback."""
    return stack_in(_running(task, thread), module)


def database_sessions(task: asyncio.Task[Any] | None, thread: str) -> list[int]:
    """Return the process ids of the Postgres sessions that an attempt has opened by psycopg.

    The first one runs a query. Return no process ids while none runs a query.
    """
    if (psycopg := sys.modules.get("psycopg")) is None:
        return []
    kinds = psycopg.Connection | psycopg.AsyncConnection
    found: dict[int, None] = {}
    for frame, _ in _running(task, thread)[::-1]:
        names = frame.f_locals
        values: list[Any] = [*names.values()] if found else [names.get("self")]
        for value in values:
            if issubclass(type(value), kinds) and not value.closed:
                found[value.info.backend_pid] = None
    return [*found]


def child_process(task: asyncio.Task[Any] | None, thread: str) -> str | None:
    """Return the program for which an attempt waits, with its process id, or None.

    If the program has ended, return a process that keeps its output open.
    """
    for frame, _ in _running(task, thread)[::-1]:
        program: Any = frame.f_locals.get("self")
        if type(program) is asyncio.subprocess.Process:
            program = vars(program)["_transport"].get_extra_info("subprocess")
        # `isinstance` would run code of a lazy object of the user
        if issubclass(type(program), subprocess.Popen):
            args: Any = program.args
            first = args[0] if isinstance(args, list | tuple) else args
            known = isinstance(first, str | bytes | os.PathLike)
            word = os.fsdecode(first).partition(" ")[0] if known else ""
            # other arguments, and variables before a command, may be secrets
            name = "sh" if "=" in word else Path(word).name[:100]
            if not _has_ended(program):
                return f"the program {name} (pid {program.pid})".replace("  ", " ")
            if keeper := _keeper_of_output(program):
                return f"the program {keeper}, which keeps the output of {name or 'a program'} open"
    return None


def awaited_lock(task: asyncio.Task[Any] | None, thread: str) -> str | None:
    """Return the kind of the lock for which an attempt waits, and the number of waiting tasks."""
    for frame, _ in _running(task, thread)[-1:]:
        lock: Any = frame.f_locals.get("self")
        kinds = asyncio.Lock, asyncio.Semaphore, asyncio.BoundedSemaphore
        # `in` would run code of a metaclass of the user
        if any(type(lock) is kind for kind in kinds):
            count = len(vars(lock)["_waiters"] or ())
            return f"an asyncio.{type(lock).__name__} (tasks that wait for it: {count})"
    return None


def _has_ended(program: subprocess.Popen[Any]) -> bool:
    if program.returncode is not None:
        return True
    try:
        state = Path(f"/proc/{program.pid}/stat").read_bytes()
    except OSError:
        return Path("/proc/self/stat").exists()
    return state.rpartition(b") ")[2][:1] in b"ZX"


def _keeper_of_output(program: subprocess.Popen[Any]) -> str | None:
    """Return the name and the process id of a later process that can write into its output."""
    with suppress(OSError, ValueError):  # the system has no such folder, or a pipe was closed
        pipes = {
            os.readlink(f"/proc/self/fd/{pipe.fileno()}")
            for pipe in (program.stdout, program.stderr)
            if pipe is not None
        }
        for process in Path("/proc").iterdir():
            # a child usually has a greater id than its parent, so few processes are read
            if process.name.isdigit() and int(process.name) > program.pid:
                with suppress(OSError):  # the process has ended, or belongs to another user
                    for file in (process / "fd").iterdir():
                        if os.readlink(file) in pipes and file.lstat().st_mode & stat.S_IWUSR:
                            name = (process / "comm").read_text().strip()
                            return f"{name} (pid {process.name})"
    return None


def code_location(task: asyncio.Task[Any] | None, thread: str, module: str) -> CodeLocation | None:
    """Return the line that an attempt executes, or None after the attempt's end."""
    return location_in(_running(task, thread), module)


def peak_memory_mb() -> int:
    """Return the peak memory of this process in megabytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _awaited(coroutine: Any) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a coroutine and of the coroutines that it awaits, the outermost first."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            return
        yield frame, frame.f_lineno
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
