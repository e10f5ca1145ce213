"""Folders that the first test process creates, and all test processes of a run use."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def folder_of_run(factory: pytest.TempPathFactory) -> Path:
    """Return the folder above the folders of all test processes."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name` of the test run, which `make` filled once. Tests only read it."""
    return made_once_in(folder_of_run(factory) / name, make)


def made_once_in(folder: Path, make: Callable[[Path], object]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    whole = folder.with_name(f"{folder.name}.whole")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # remains of a failed creation
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder
