"""Environment variables of the subprocesses that repair JSON and transcribe audio."""

import os
import sys


def subprocess_environment() -> dict[str, str]:
    """Return variables with the paths of Python's packages and, on Lambda, of shared libraries."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {**environment, "LD_LIBRARY_PATH": libraries} if libraries else environment
