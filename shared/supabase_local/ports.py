"""TCP ports on loopback, reserved so that two stacks starting at once never choose the same one.

A reservation is a locked file; it ends with the process, however that dies.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from itertools import chain
from pathlib import Path

LOOPBACK = "127.0.0.1"
# below Linux's ephemeral range, whose numbers outgoing connections may hold at any moment
RANGE = range(20_000, 32_000)

_held: dict[int, int] = {}  # port to the descriptor that holds its lock


def is_free(port: int) -> bool:
    """Return whether a server could bind `port` on loopback right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # a port in TIME_WAIT after a restart is free for a listener, as for uvicorn and Node
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def reserve_port(preferred: int | None = None) -> int:
    """Reserve `preferred` when no one has it, else any free port, until this process ends."""
    if preferred is not None and _reserve(preferred):
        return preferred
    first = random.SystemRandom().randrange(len(RANGE))
    for port in chain(RANGE[first:], RANGE[:first]):
        if _reserve(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} between {RANGE.start} and {RANGE.stop}")


def _reserve(port: int) -> bool:
    if port in _held:
        return False
    folder = Path(tempfile.gettempdir()) / f"supabase-local-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    if not is_free(port):
        os.close(lock)
        return False
    _held[port] = lock
    return True
