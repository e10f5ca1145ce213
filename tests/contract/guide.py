"""What the guides' files share: a shell for their commands, and patience."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any


def bash(command: str, **variables: str) -> str:
    """What a command prints, run as the guide prints it."""
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(look: Callable[[], Any], *, within: float = 240) -> Any:
    """What `look` sees once it is something."""
    give_up = time.monotonic() + within
    while not (seen := look()):
        assert time.monotonic() < give_up, "it did not come"
        time.sleep(0.3)
    return seen
