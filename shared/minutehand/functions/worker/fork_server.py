"""A process that has imported the processors, and forks a worker process on request.

A forked process starts within milliseconds and shares the memory of the imported modules. The fork
server opens no connections and has no event loop, because neither works after a fork.
"""

import asyncio
import contextlib
import gc
import itertools
import json
import logging
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

#: Environment variable with the file descriptor of the fork server's socket to its host.
FORK_SERVER = "WORKER_FORK_SERVER"
#: Environment variable that is set if each forked process must import the modules itself.
_NOT_LOADED = "WORKER_FORK_SERVER_NOT_LOADED"
#: Log message for the error that the system cannot start a process.
NOT_STARTED = "The system cannot start a worker process"
#: Seconds after which a process that SIGSTOP has stopped is killed. Its jobs would otherwise wait
#: until their leases expire.
STOPPED_SECONDS = 5.0


class ForkServer:
    """Client of a fork server, for the host.

    The client starts the fork server when the host needs a worker process.

    Args:
        command: Command of a program that calls `serve_forks`.
        environ: Environment variables of the worker processes.
        pass_fds: File descriptors that the worker processes inherit.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, pass_fds: Sequence[int]
    ) -> None:
        self._command = command
        self._environ = environ
        self._pass_fds = pass_fds
        self._numbers = itertools.count()
        #: Exit codes and pids of the running worker processes, by request number.
        self._codes: dict[int, asyncio.Future[int | None]] = {}
        self._pids: dict[int, int] = {}
        #: Socket to the running fork server, process of the fork server, and a future that
        #: completes when the fork server ends.
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes]
        self._ended: asyncio.Future[None]
        self._received = b""

    async def run(self, variables: Mapping[str, str]) -> int | None:
        """Run a worker process with additional environment variables, and return its exit code.

        Return None if the fork server has ended. If a fork server ends, its worker processes
        release their jobs and end, as after SIGTERM. Return EX_OSERR if the system cannot start a
        process, and -SIGSTOP if the process was killed because it was stopped.
        """
        loop = asyncio.get_running_loop()
        try:
            server = self._socket or self._start(loop)
        except OSError as error:
            logger.error(NOT_STARTED, exc_info=error)
            return os.EX_OSERR
        number = next(self._numbers)
        code = self._codes[number] = loop.create_future()
        _send(server, {"number": number, "variables": dict(variables)})
        return await asyncio.shield(code)

    async def aclose(self, *, timeout_seconds: float) -> None:
        """End all processes by SIGTERM. Kill the processes that still run after the timeout."""
        if self._socket is None:
            return
        ended = self._ended
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._process.terminate()  # the server ignores SIGTERM after its imports
        await asyncio.wait([ended], timeout=timeout_seconds)
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not self._pids:  # a module that is being imported may ignore SIGTERM
            self._process.kill()
        await ended

    def _start(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        host, server = socket.socketpair()
        host.setblocking(False)
        with server:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    env={**self._environ, FORK_SERVER: str(server.fileno())},
                    stdin=subprocess.DEVNULL,
                    pass_fds=(*self._pass_fds, server.fileno()),
                )
            except OSError:
                host.close()
                raise
        self._socket = host
        self._ended = loop.create_future()
        loop.add_reader(host, self._receive, host)
        return host

    def _receive(self, server: socket.socket) -> None:
        data = b""
        with contextlib.suppress(ConnectionError):
            data = server.recv(65536)
        *lines, self._received = (self._received + data).split(b"\n")
        for message in map(json.loads, lines):
            number = message["number"]
            if "pid" in message:
                self._pids[number] = message["pid"]
            else:
                self._pids.pop(number, None)
                self._codes.pop(number).set_result(message["code"])
        if not data:
            asyncio.get_running_loop().remove_reader(server)
            server.close()
            self._process.wait()
            self._socket, self._received = None, b""
            self._pids.clear()
            while self._codes:
                self._codes.popitem()[1].set_result(None)
            self._ended.set_result(None)


def serve_forks(load: Callable[[], object]) -> None:
    """Start a process for each request of the host. Return only in a forked process.

    If the import of the modules fails or starts a thread, the fork server restarts without the
    modules, because a thread may hold a lock during a fork. Each worker process then runs this
    program from its start and imports the modules itself.

    Args:
        load: Function that imports the modules that worker processes share.
    """
    host = socket.socket(fileno=int(os.environ.pop(FORK_SERVER)))
    is_loaded = False
    if not os.environ.pop(_NOT_LOADED, None):
        # the worker process imports the modules again and logs the error
        with contextlib.suppress(Exception):
            load()
            is_loaded = _is_single_threaded()
        _flush()
        if not is_loaded:
            variables = {FORK_SERVER: str(host.fileno()), _NOT_LOADED: "1"}
            os.execve(sys.executable, sys.orig_argv, {**os.environ, **variables})
    host.set_inheritable(False)
    gc.collect()
    gc.freeze()  # garbage collection in a forked process would copy the shared memory
    # ignore signals that Ctrl-C, and some containers, send to the whole process group
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # block SIGTERM, because a forked process would lose the signal before it sets a handler
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    #: Pipe to which Python writes when a worker process has ended.
    exits, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    #: Pipe that worker processes read as their standard input. The pipe closes when the fork server
    #: ends.
    alive, end = os.pipe()
    numbers: dict[int, int] = {}

    #: Times at which stopped processes are killed, by pid.
    kills: dict[int, float] = {}

    def report_exits(flags: int) -> None:
        for pid in list(numbers):
            changed, status = os.waitpid(pid, flags)
            if not changed:
                continue
            was_stopped = kills.pop(pid, None) is not None
            if os.WIFSTOPPED(status):
                kills[pid] = time.monotonic() + STOPPED_SECONDS
            elif not os.WIFCONTINUED(status):
                code = -signal.SIGSTOP if was_stopped else os.waitstatus_to_exitcode(status)
                _send(host, {"number": numbers.pop(pid), "code": code})

    def kill_stopped() -> float | None:
        """Kill processes that were stopped too long. Return milliseconds until the next kill."""
        now = time.monotonic()
        for pid in [pid for pid, at in kills.items() if at <= now]:
            os.kill(pid, signal.SIGKILL)
            kills[pid] = math.inf
        first = min(kills.values(), default=math.inf)
        return None if first == math.inf else (first - now) * 1000 + 1

    requests = host.makefile("rb", buffering=0)  # `poll` does not see a buffered request
    events = select.poll()
    events.register(host, select.POLLIN)
    events.register(exits, select.POLLIN)
    while True:
        ready = dict(events.poll(kill_stopped()))
        if exits in ready:
            os.read(exits, 4096)
            report_exits(os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if host.fileno() not in ready:
            continue
        line = b""
        with contextlib.suppress(ConnectionError):
            line = requests.readline()
        if not line.endswith(b"\n"):  # the host has ended, or ends the fork server
            break
        request = json.loads(line)
        _flush()
        try:
            pid = os.fork() if is_loaded else _start_process(request["variables"], alive)
        except OSError as error:
            logger.error(NOT_STARTED, exc_info=error)
            _send(host, {"number": request["number"], "code": os.EX_OSERR})
            continue
        if not pid:
            signal.set_wakeup_fd(-1)
            requests.close()
            host.close()
            os.dup2(alive, 0)
            for descriptor in (alive, end, exits, wakeup):
                os.close(descriptor)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            os.environ.update(request["variables"])
            return
        numbers[pid] = request["number"]
        _send(host, {"number": request["number"], "pid": pid})
    for pid in numbers:
        os.kill(pid, signal.SIGTERM)
    report_exits(0)
    sys.exit()


def _send(to: socket.socket, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):  # the next read shows that the other end has closed
        to.sendall(json.dumps(message).encode() + b"\n")


def _flush() -> None:
    """Write buffered output now. A fork would duplicate the output, and an exec would lose it."""
    sys.stdout.flush()
    sys.stderr.flush()


def _start_process(variables: Mapping[str, str], stdin: int) -> int:
    """Start a new process of this program instead of a fork, and return its pid."""
    return os.posix_spawn(
        sys.executable,
        sys.orig_argv,
        {**os.environ, **variables},
        file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0)],
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGCHLD],
    )


def _is_single_threaded() -> bool:
    """Return whether this process has only one thread.

    The threads that libraries have started count too.
    """
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except FileNotFoundError:  # do not fork outside of Linux, where libraries may fail after a fork
        return False
