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

import shared.apps
from functions.worker.processors import load_processors
from shared.config import Settings
from shared.worker.loop import Worker
from shared.worker.registry import default_registry

logger = logging.getLogger("infra.local.hot_reload")

PREFIX = f"{shared.apps.__name__}."


async def reload_on_change(
    worker: Worker,
    settings: Settings,
    *,
    wakeups: asyncio.Event | None = None,
    folder: Path | None = None,
) -> None:
    """Watch `folder`, the apps' own when None, until cancelled."""
    watched = folder or Path(shared.apps.__path__[0])
    async for changes in awatch(watched, watch_filter=PythonFilter(), step=100):
        names = sorted({Path(path).name for _, path in changes})
        if reload_processors(worker, settings) and wakeups is not None:
            wakeups.set()
        logger.info("files changed", extra={"event": "reload.seen", "files": names})


def reload_processors(worker: Worker, settings: Settings) -> bool:
    """Import the apps anew and let the worker adopt them; on an error the old ones stay."""
    before = {name: module for name, module in sys.modules.items() if name.startswith(PREFIX)}
    for name in before:
        del sys.modules[name]
    importlib.invalidate_caches()
    default_registry.forget(PREFIX)
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
