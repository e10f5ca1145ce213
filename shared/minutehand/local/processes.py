"""Child processes that never outlive their launcher, and what the launcher knows of them.

Linux ends a child by PR_SET_PDEATHSIG when its launcher dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1


def die_with_parent(end_by: signal.Signals = signal.SIGTERM) -> Callable[[], None] | None:
    """Build the hook that asks Linux to signal the caller when its parent's thread ends.

    Start children from the main thread: the kernel watches the thread, not the process.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork
    launcher = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(end_by), 0, 0, 0)
        if os.getpid() != launcher and os.getppid() != launcher:  # died between fork and prctl
            os.kill(os.getpid(), end_by)

    return ask


def spawn(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: int | None = None,
    group: int | None = None,
    end_by: signal.Signals = signal.SIGTERM,
    output: int | None = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a child in a group of its own, so that a Ctrl-C reaches the launcher alone."""
    return subprocess.Popen(
        [os.fspath(part) for part in command],
        env=None if env is None else dict(env),
        cwd=cwd,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        process_group=0,
        preexec_fn=die_with_parent(end_by),  # runs after setuid, which would clear the request
    )


def stop(
    process: subprocess.Popen[bytes], *, by: signal.Signals = signal.SIGTERM, seconds: float = 5.0
) -> None:
    """End a child and its whole group: politely, then by force."""
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
    end_group(process.pid)


def end_group(group: int) -> None:
    """Kill what is left of a group whose leader has ended and was waited for."""
    if psutil.pid_exists(group):  # its number is another process's by now
        return
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


@dataclass(frozen=True)
class Identity:
    """A process that cannot be confused with a later one of the same pid."""

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Read the identity of a live process; psutil.NoSuchProcess when there is none."""
        return cls(pid, psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """Return the process when it still is the same one, else None."""
        try:
            process = psutil.Process(self.pid)
            # the clock behind create_time is rounded to ticks and may be stepped a little
            same = abs(process.create_time() - self.started_at) < 2.0
        except psutil.NoSuchProcess:
            return None
        return process if same and not has_ended(process) else None


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process that may not be our child has ended, reaped or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return True


def wait_gone(process: psutil.Process, seconds: float) -> bool:
    """Wait until a process that may not be our child has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if has_ended(process):
            return True
        time.sleep(0.05)
    return False


def send_signal(process: psutil.Process, by: signal.Signals) -> None:
    """Signal a process, which may have ended since it was found."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(by)
