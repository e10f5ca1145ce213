"""A folder for one job's files, which goes with it, also when its worker is killed.

A killed worker removes nothing; the next folder made on that disk removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "minutehand-job-"


@contextlib.contextmanager
def job_folder(below: Path | None = None) -> Iterator[Path]:
    """Make one, locked while its worker lives: the system lets go of the lock of one that died."""
    below = below or Path(tempfile.gettempdir())
    for orphan in below.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _locked(orphan):
            shutil.rmtree(orphan, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=below) as name, _locked(Path(name)):
        yield Path(name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)
