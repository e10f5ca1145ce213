"""Reloads the apps' processors when their files change, without ending what runs.

For the local host only. The routes keep the modules they were built with.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from watchfiles import awatch

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.worker.loop import Worker
from minutehand.worker.registry import default_registry

logger = logging.getLogger("minutehand.local.hot_reload")

#: Events are a hint, and files are compared at least so often: a system under load drops events,
#: and files written into a new folder before it is watched raise none.
SCAN_SECONDS = 1.0

#: Python files by version: time of change in ns, and size.
Files = Mapping[Path, tuple[int, int]]


async def reload_on_change(
    worker: Worker,
    settings: Settings,
    *,
    wakeups: asyncio.Event | None = None,
    loaded: Files | None = None,
    scan_seconds: float = SCAN_SECONDS,
) -> None:
    """Watch the folders of the apps until cancelled.

    Args:
        loaded: The files as they were when the worker's processors were loaded: what changed
            since is noticed at once. Those of now when None.
    """
    folders = watched_folders(settings)
    if not folders:
        return
    known = files_of(folders) if loaded is None else loaded
    async for _ in _hints(folders, scan_seconds):
        found = await asyncio.to_thread(files_of, folders)
        changed = sorted(path for path in {*known, *found} if known.get(path) != found.get(path))
        if not changed:
            continue
        known = found
        logger.info(
            "files changed",
            extra={"event": "reload.seen", "files": [path.name for path in changed]},
        )
        forget_compiled(changed)
        if reload_processors(worker, settings) and wakeups is not None:
            wakeups.set()


async def _hints(folders: Iterable[Path], scan_seconds: float) -> AsyncIterator[None]:
    """Yield once at the start, on each event, and every `scan_seconds`."""
    yield
    milliseconds = max(1, round(scan_seconds * 1000))
    try:
        async for _ in awatch(
            *folders, watch_filter=None, step=100, rust_timeout=milliseconds, yield_on_timeout=True
        ):
            yield
    except (OSError, RuntimeError) as error:  # e.g. no watch is left on this machine
        logger.warning(
            "Files cannot be watched; they are compared every second",
            extra={"event": "reload.polling", "error": str(error)},
        )
    while True:
        await asyncio.sleep(scan_seconds)
        yield


def files_of(folders: Iterable[Path]) -> Files:
    """The Python files below the folders, as they are now."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*.py"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue  # removed meanwhile
            found[path] = (facts.st_mtime_ns, facts.st_size)
    return found


def watched_folders(settings: Settings) -> list[Path]:
    """The apps' folders; of `package.*` the one in which a new app would appear."""
    parents = {app.folder.parent for app in find_apps(_wildcards(settings))}
    folders = {app.folder for app in find_apps(settings.apps)}
    return sorted(parents | {folder for folder in folders if folder.parent not in parents})


def forget_compiled(paths: Iterable[Path]) -> None:
    """Remove what was compiled of files that changed.

    Python considers it fresh when second and size are the same, as after a quick edit of a letter.
    """
    for path in paths:
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def reload_processors(worker: Worker, settings: Settings) -> bool:
    """Import the apps again and let the worker adopt them; on an error the old ones stay."""
    prefixes = _prefixes(settings)
    before = {
        name: module for name, module in sys.modules.items() if f"{name}.".startswith(prefixes)
    }
    for name in before:
        del sys.modules[name]
    importlib.invalidate_caches()
    for prefix in prefixes:
        default_registry.forget(prefix)
    try:
        registry = load_processors(settings)
    except Exception:  # a half-written file may raise anything
        sys.modules.update(before)
        logger.exception(
            "Processors could not be reloaded; the old ones stay in use",
            extra={"event": "reload.failed"},
        )
        return False
    worker.adopt(registry)
    logger.info(
        "Processors reloaded", extra={"event": "reload.done", "job_types": list(registry.names)}
    )
    return True


def _wildcards(settings: Settings) -> list[str]:
    return [package for package in settings.apps if package.endswith(".*")]


def _prefixes(settings: Settings) -> tuple[str, ...]:
    return tuple(f"{app.package}." for app in find_apps(settings.apps))
