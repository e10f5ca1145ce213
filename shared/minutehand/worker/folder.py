"""A folder for one job's files, which goes with it, also when its worker is killed.

A killed worker removes nothing; the next folder made on that disk removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, Self

PREFIX: Final = "minutehand-job-"


class Folder:
    """Locked while its worker lives: the system lets go of the lock of a process that died.

    Args:
        below: Where it is made; the system's folder for temporary files unless given.
    """

    def __init__(self, below: Path | None = None) -> None:
        below = below or Path(tempfile.gettempdir())
        remove_orphans(below)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=below))
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():  # no one took it for an orphan before it was locked
                return
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_orphans(below: Path) -> None:
    """Remove the folders whose workers have died."""
    for path in below.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or deleted meanwhile
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
