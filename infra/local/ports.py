"""Free TCP ports on loopback: the preferred number when nobody listens there, else any.

A port can be taken between the choice and the bind; callers bind soon and retry.
"""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Tell whether a server could bind `port` on loopback right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # a port in TIME_WAIT after a restart is free for a listener, as for uvicorn and Node
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return `count` different free ports; held open together so that none repeats."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def choose_port(preferred: int) -> int:
    """Return `preferred` when it is free, else any free port."""
    return preferred if is_free(preferred) else free_ports(1)[0]
