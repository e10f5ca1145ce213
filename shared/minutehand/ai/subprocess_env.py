"""The environment of the subprocesses for repair and speech."""

from __future__ import annotations

import os
import sys


def subprocess_environment() -> dict[str, str]:
    """Return the paths of packages and, on Lambda, of Python's library, without any secret."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {**environment, "LD_LIBRARY_PATH": libraries} if libraries else environment
