"""A process that has imported the processors, and forks a process of the worker on request.

A forked process starts within milliseconds and shares the memory of the imported modules. The fork
server opens no connection and no event loop, because these do not survive a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

#: Environment variable with the file descriptor of the fork server's socket to its host.
FORK_SERVER: Final = "WORKER_FORK_SERVER"


class ForkServer:
    """The host's side. It starts the fork server before the first process, and after its end.

    Args:
        command: Command of a program that calls `serve_forks`.
        environ: Environment of the processes.
        pass_fds: File descriptors that the processes inherit.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, pass_fds: Sequence[int]
    ) -> None:
        self._command = command
        self._environ = environ
        self._pass_fds = pass_fds
        self._numbers = itertools.count()
        #: Exit codes and pids of the running processes, by number.
        self._codes: dict[int, asyncio.Future[int | None]] = {}
        self._pids: dict[int, int] = {}
        #: The socket to the running fork server, and the future of its end.
        self._socket: socket.socket | None = None
        self._ended: asyncio.Future[None]
        self._received = b""

    async def run(self, variables: Mapping[str, str]) -> int | None:
        """Run a process with these environment variables too, and return its exit code.

        Return None if the fork server has ended. Its processes then end as after SIGTERM.
        """
        loop = asyncio.get_running_loop()
        if self._socket is None:
            self._start(loop)
        assert self._socket is not None
        number = next(self._numbers)
        code = self._codes[number] = loop.create_future()
        with contextlib.suppress(ConnectionError):  # it has ended, and `_receive` is called next
            _send(self._socket, {"number": number, "variables": dict(variables)})
        return await asyncio.shield(code)

    async def aclose(self, *, timeout_seconds: float) -> None:
        """End all processes by SIGTERM, and kill them after the time-out."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        await asyncio.wait([self._ended], timeout=timeout_seconds)
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._ended

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._socket, server = socket.socketpair()
        self._socket.setblocking(False)
        self._ended = loop.create_future()
        with server:
            process = subprocess.Popen(
                self._command,
                env={**self._environ, FORK_SERVER: str(server.fileno())},
                stdin=subprocess.DEVNULL,
                pass_fds=(*self._pass_fds, server.fileno()),
            )
        loop.add_reader(self._socket, self._receive, self._socket, process)

    def _receive(self, server: socket.socket, process: subprocess.Popen[bytes]) -> None:
        data = b""
        with contextlib.suppress(ConnectionError):
            data = server.recv(65536)
        *lines, self._received = (self._received + data).split(b"\n")
        for message in map(json.loads, lines):
            number = message["number"]
            if "pid" in message:
                self._pids[number] = message["pid"]
            else:
                del self._pids[number]
                self._codes.pop(number).set_result(message["code"])
        if not data:
            asyncio.get_running_loop().remove_reader(server)
            server.close()
            process.wait()
            self._socket, self._received = None, b""
            self._pids.clear()
            while self._codes:
                self._codes.popitem()[1].set_result(None)
            self._ended.set_result(None)


def serve_forks(load: Callable[[], object]) -> None:
    """Start a process for each request of the host. Return only in a forked process.

    If importing fails, or has started a thread, which may hold a lock at the moment of a fork, each
    process runs this program again and imports the modules itself.

    Args:
        load: Imports the modules that the processes share.
    """
    host = socket.socket(fileno=int(os.environ.pop(FORK_SERVER)))
    host.set_inheritable(False)
    is_loaded = False
    with contextlib.suppress(Exception):  # the process reports the error when it imports again
        load()
        is_loaded = _is_single_threaded()
    gc.collect()
    gc.freeze()  # collections would otherwise copy the shared memory
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group
    #: The processes read the end of this pipe as their standard input. It ends with this process.
    alive, end = os.pipe()
    numbers: dict[int, int] = {}

    def report_exits(flags: int) -> None:
        for pid in list(numbers):
            ended, status = os.waitpid(pid, flags)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                _send(host, {"number": numbers.pop(pid), "code": code})

    signal.signal(signal.SIGCHLD, lambda *_: report_exits(os.WNOHANG))
    requests = host.makefile("rb")
    for request in map(json.loads, requests):
        sys.stdout.flush()
        sys.stderr.flush()
        # a process may end before its pid is known
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork() if is_loaded else _spawn(request["variables"], alive)
        if not pid:
            requests.close()
            host.close()
            os.dup2(alive, 0)
            os.close(alive)
            os.close(end)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            os.environ.update(request["variables"])
            return
        numbers[pid] = request["number"]
        _send(host, {"number": request["number"], "pid": pid})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    for pid in numbers:
        os.kill(pid, signal.SIGTERM)
    report_exits(0)
    sys.exit()


def _send(to: socket.socket, message: Mapping[str, Any]) -> None:
    to.sendall(json.dumps(message).encode() + b"\n")


def _spawn(variables: Mapping[str, str], stdin: int) -> int:
    """Start a new process of this program, and return its pid."""
    return os.posix_spawn(
        sys.executable,
        sys.orig_argv,
        {**os.environ, **variables},
        file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0)],
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGCHLD],
    )


def _is_single_threaded() -> bool:
    """Return whether this process has one thread, of Python or of a library."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except FileNotFoundError:  # not Linux, whose libraries alone survive a fork
        return False
