"""A temporary folder for one job.

A worker that is killed cannot delete its folder. The next job on the same disk deletes the folder.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "minutehand-job-"


@contextlib.contextmanager
def job_folder() -> Iterator[Path]:
    """Create a folder and lock it. The system removes the lock when the worker process ends."""
    below = Path(tempfile.gettempdir())
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
