"""Child processes that do not outlive who started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

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
