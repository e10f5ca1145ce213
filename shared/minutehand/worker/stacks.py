"""The stack of a running attempt. `exit_report.py` reads the stacks of ended processes."""

import asyncio
import fcntl
import io
import os
import re
import resource
import socket
import ssl
import stat
import sys
import termios
import threading
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from subprocess import Popen
from traceback import walk_stack
from types import FrameType
from typing import Any

from minutehand.worker.current_job import run_recorded

#: Methods of the standard library that wait, with the kind of the remedy.
_WAITS = {"acquire": "lock", "get": "event", "wait": "event", "join": None, "result": None}
#: Names of their modules.
_LIBRARY = {
    "asyncio.locks": "an asyncio",
    "asyncio.queues": "an asyncio",
    "concurrent.futures._base": "a concurrent.futures",
    "queue": "a queue",
    "threading": "a threading",
}
#: Methods that wait for data from a server: of asyncio, of anyio (used by httpx) and of threads.
_READS = frozenset({"StreamReader._wait_for_data", "SocketStream.receive", "SocketIO.readinto"})
#: Types of a program's outputs. A method of another type could be the user's.
_OUTPUTS = asyncio.StreamReader, io.BufferedReader, io.FileIO, io.TextIOWrapper
#: Frames with the lines that they execute, the outermost first.
Frames = list[tuple[FrameType, int]]


def running_frames(task: asyncio.Task[Any] | None, thread: str) -> Frames:
    """Return the frames that an attempt executes now."""
    running = sys._current_frames()
    for candidate in threading.enumerate():
        if candidate.name == thread and candidate.ident in running:
            return [*walk_stack(running[candidate.ident])][::-1]
    frames = [] if task is None else [*_awaited(task.get_coro())]
    last = frames[-1][0] if frames else None
    if last and last.f_code is asyncio.to_thread.__code__ and "ctx" in last.f_locals:
        # `to_thread` runs each call in a context of its own, so the context identifies the thread.
        # It has no context before it starts.
        context = last.f_locals["ctx"]
        frames += next(filter(None, (_called_in(context, top) for top in running.values())), [])
    return frames


def _called_in(context: Context, top: FrameType) -> Frames:
    """Return a thread's frames inside `context.run`, or no frames if it runs another call."""
    frames = [*walk_stack(top)]
    for number, (frame, _) in enumerate(frames):
        if frame.f_code is run_recorded.__code__:
            start = getattr(frame.f_locals["run"], "func", None)
            return frames[:number][::-1] if getattr(start, "__self__", None) is context else []
    return []


def database_sessions(frames: Frames) -> list[int]:
    """Return the process ids of the Postgres sessions that an attempt has opened by psycopg.

    The first one runs a query. Return no process ids while none runs a query.
    """
    if (psycopg := sys.modules.get("psycopg")) is None:
        return []
    kinds = psycopg.Connection | psycopg.AsyncConnection
    found: dict[int, None] = {}
    for frame, _ in frames[::-1]:
        names = frame.f_locals
        values: list[Any] = [*names.values()] if found else [names.get("self")]
        for value in values:
            if issubclass(type(value), kinds) and not value.closed:
                found[value.info.backend_pid] = None
    return [*found]


def awaited(frames: Frames) -> tuple[str | None, str | None]:
    """Return the program, server or object for which an attempt waits, and the kind of the remedy.

    If the program has ended, return a process that keeps its output open.
    """
    for frame, _ in frames[::-1]:
        program: Any = frame.f_locals.get("self")
        pid, ended, outputs = 0, None, []
        # reading an object of another type could run code of the user
        if type(program) is Process:
            names = vars(program)
            transport = names["_transport"]
            pid, ended = names["pid"], transport.get_returncode()
            outputs = [names["stdout"], names["stderr"]]
            program = transport.get_extra_info("subprocess")  # uvloop has none
        if type(program) is Popen:  # a new one has no fields yet
            names = vars(program)
            pid, ended = names.get("pid", 0), names.get("returncode")
            outputs += [names.get("stdout"), names.get("stderr")]
        outputs = [each for each in outputs if any(type(each) is kind for kind in _OUTPUTS)]
        if ended is None and pid and (name := _running_program(pid)):
            if "wait" in frame.f_code.co_name and any(map(_is_full, outputs)):  # not communicate
                return f"the program {name}, whose unread output fills its buffer", "output"
            return f"the program {name}", None
        if pid and (name := _keeper(pid, outputs)):
            return f"the program {name}, which keeps the output of an ended program open", None
        if server := _server_read(frame):
            return f"data from {server}", "data"
    found: tuple[str | None, str | None] = None, None
    for frame, _ in frames[::-1]:
        module = frame.f_globals.get("__name__")
        if type(module) is not str or (library := _LIBRARY.get(module)) is None:
            break
        owner, _, method = frame.f_code.co_qualname.rpartition(".")
        if owner and method in _WAITS:
            item = "an item of " if method == "get" else ""
            found = f"{item}{library}.{owner}", _WAITS[method]
    return found


def _server_read(frame: FrameType) -> str | None:
    """Return the address of the server from which a call reads, or None."""
    if frame.f_code.co_qualname not in _READS:
        return None
    reader: Any = frame.f_locals.get("self")
    anyio = sys.modules.get("anyio._backends._asyncio")
    address: Any = None
    with suppress(Exception):  # the connection was closed, or the user replaced a part
        # a part of another type could run code of the user
        if type(reader) is socket.SocketIO:
            connection = vars(reader)["_sock"]
            if any(type(connection) is kind for kind in (socket.socket, ssl.SSLSocket)):
                address = connection.getpeername()
        elif type(reader) is asyncio.StreamReader or (
            anyio is not None and type(reader) is anyio.SocketStream
        ):
            transport = vars(reader)["_transport"]
            if re.match(r"(asyncio|uvloop)\b", type(transport).__module__):
                address = transport.get_extra_info("peername")
    if type(address) is not tuple or type(address[0]) is not str:  # a pipe, or a local socket
        return None
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _running_program(pid: int) -> str | None:
    """Return the name and the process id of a program, or None if it has ended.

    Its arguments may be secrets. Only Linux has the name.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None if Path("/proc/self/stat").exists() else f"with pid {pid}"
    name, _, state = state.partition("(")[2].rpartition(") ")
    return None if state[0] in "ZX" else f"{name} (pid {pid})"


def _is_full(output: Any) -> bool:
    """Return whether a program must wait until someone reads its output."""
    if type(output) is asyncio.StreamReader:
        return bool(vars(output)["_paused"])
    with suppress(AttributeError, OSError, TypeError, ValueError):  # no pipe, or no Linux
        size = fcntl.fcntl(output, fcntl.F_GETPIPE_SZ)
        unread = int.from_bytes(fcntl.ioctl(output, termios.FIONREAD, bytes(4)), sys.byteorder)
        # with more bytes than this, a pipe has no empty page
        return unread > size - resource.getpagesize()
    return False


def _keeper(pid: int, outputs: list[Any]) -> str | None:
    """Return the name and the process id of a later process that can write into a pipe."""
    with suppress(OSError, ValueError):  # the system has no such folder, or a pipe was closed
        pipes = {
            os.readlink(f"/proc/self/fd/{output.fileno()}")
            for output in outputs
            if hasattr(output, "fileno")
        }
        for process in Path("/proc").iterdir() if pipes else ():
            # a child usually has a greater id than its parent. All processes take 70 times as long.
            if process.name.isdigit() and int(process.name) > pid:
                with suppress(OSError):  # the process has ended, or belongs to another user
                    for file in (process / "fd").iterdir():
                        if os.readlink(file) in pipes and file.lstat().st_mode & stat.S_IWUSR:
                            return _running_program(int(process.name))
    return None


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
