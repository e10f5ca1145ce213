"""Starts child processes that end when their launcher ends.

On Linux, PR_SET_PDEATHSIG sends a child process a signal when its launcher dies.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1


def die_with_parent(end_by: signal.Signals = signal.SIGTERM) -> Callable[[], None] | None:
    """Return a hook by which Linux sends a child process a signal when its parent's thread ends.

    Start child processes from the main thread, because the kernel watches the thread that starts
    them.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # load libc now, before the fork
    launcher = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(end_by), 0, 0, 0)
        # end this process if the launcher died between fork and prctl
        if os.getpid() != launcher and os.getppid() != launcher:
            os.kill(os.getpid(), end_by)

    return ask


def spawn(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    user: int | None = None,
    group: int | None = None,
    end_by: signal.Signals = signal.SIGTERM,
    output: int | None = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a child process in its own process group, so that Ctrl-C reaches only the launcher."""
    return subprocess.Popen(
        [os.fspath(part) for part in command],
        env=dict(env),
        cwd=cwd,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        process_group=0,
        preexec_fn=die_with_parent(end_by),  # runs after setuid, which resets the signal
    )


def stop(
    process: subprocess.Popen[bytes], *, by: signal.Signals = signal.SIGTERM, seconds: float = 5.0
) -> None:
    """End a child process by the signal `by`, then kill the other processes of its group."""
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
    if not psutil.pid_exists(process.pid):  # otherwise another process has this id now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
