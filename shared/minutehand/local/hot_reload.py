"""Ends the local worker when a file of its apps has changed: it is started again with the new ones.

What runs is released and runs again, from its last step.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from minutehand.app import find_apps
from minutehand.config import Settings

logger = logging.getLogger("minutehand.local.hot_reload")

#: Between two looks at some hundred files, which take milliseconds: a system under load drops
#: events, and files written into a new folder before it is watched raise none.
SCAN_SECONDS = 0.5

#: Python files by version: time of change in ns, and size.
Files = Mapping[Path, tuple[int, int]]


async def end_on_change(settings: Settings, loaded: Files, end: Callable[[], object]) -> None:
    """Watch the folders of the apps, and call `end` at the first change.

    Args:
        loaded: The files as they were when the worker's processors were loaded: what changed
            since is noticed at once.
    """
    folders, found = watched_folders(settings), loaded
    while found == loaded:
        await asyncio.sleep(SCAN_SECONDS)
        found = await asyncio.to_thread(files_of, folders)
    changed = [path for path in {*loaded, *found} if loaded.get(path) != found.get(path)]
    names = sorted(path.name for path in changed)
    logger.info("files changed", extra={"event": "reload.seen", "files": names})
    forget_compiled(changed)
    end()


def forget_compiled(paths: Iterable[Path]) -> None:
    """Remove what was compiled: Python thinks it fresh when second and size are the same."""
    for path in paths:
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def files_of(folders: Iterable[Path]) -> Files:
    """The Python files below the folders, as they are now."""
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        with suppress(FileNotFoundError):  # removed meanwhile
            found[path] = (path.stat().st_mtime_ns, path.stat().st_size)
    return found


def watched_folders(settings: Settings) -> list[Path]:
    """The apps' folders; of `package.*` the one in which a new app would appear."""
    wildcards = [package for package in settings.apps if package.endswith(".*")]
    own = (app for app in find_apps(wildcards) if not app.is_built_in)
    parents = {app.folder.parent for app in own}
    folders = {app.folder for app in find_apps(settings.apps)}
    return sorted(parents | {folder for folder in folders if folder.parent not in parents})
