"""What a process of our own is started with, beside its program."""

from __future__ import annotations

import os
import sys


def own_environment() -> dict[str, str]:
    """Where it finds its packages and, as on Lambda, Python its library; no secret."""
    found = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {**found, "LD_LIBRARY_PATH": libraries} if libraries else found
