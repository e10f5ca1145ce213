"""Reserves TCP ports of this machine, so that stacks that start together use different ports.

A reservation is a locked file. The system unlocks the file when the process ends.
"""

import fcntl
import os
import random
import socket
import tempfile
from itertools import chain
from pathlib import Path

LOOPBACK = "127.0.0.1"
# ports below Linux's ephemeral range, because outgoing connections may use ports of that range
RANGE = range(20_000, 32_000)

_held: dict[int, int] = {}  # file descriptors of the locked files, by port


def reserve_port(preferred: int | None = None) -> int:
    """Reserve `preferred` if it is free, otherwise another free port, until this process ends."""
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
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # accept a port in TIME_WAIT, on which servers such as uvicorn and Node can listen
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
    except OSError:  # another process has reserved the port, or listens on it
        os.close(lock)
        return False
    _held[port] = lock
    return True
