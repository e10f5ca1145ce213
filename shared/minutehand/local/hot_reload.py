"""Reloads the apps' processors when their files change, without ending what runs.

For the local host only. The routes keep the modules they were built with.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from pathlib import Path

from watchfiles import PythonFilter, awatch

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.worker.loop import Worker
from minutehand.worker.registry import default_registry

logger = logging.getLogger("minutehand.local.hot_reload")


async def reload_on_change(
    worker: Worker, settings: Settings, *, wakeups: asyncio.Event | None = None
) -> None:
    """Watch the folders of the apps until cancelled."""
    folders = watched_folders(settings)
    if not folders:
        return
    async for changes in awatch(*folders, watch_filter=PythonFilter(), step=100):
        names = sorted({Path(path).name for _, path in changes})
        if reload_processors(worker, settings) and wakeups is not None:
            wakeups.set()
        logger.info("files changed", extra={"event": "reload.seen", "files": names})


def watched_folders(settings: Settings) -> list[Path]:
    """The apps' folders; of `package.*` the one in which a new app would appear."""
    folders = {app.folder for app in find_apps(settings.apps)}
    folders |= {app.folder.parent for app in find_apps(_wildcards(settings))}
    return sorted(folders)


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
    except Exception:  # whatever a half-written file may raise
        sys.modules.update(before)
        logger.exception(
            "Processors could not be reloaded; the old ones go on", extra={"event": "reload.failed"}
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
