"""The local stack's worker process: its loop, its wake-ups, and hot reload.

`minutehand.local.api` starts this process, and restarts it after it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from minutehand.config import Settings
from minutehand.functions.worker.app import Running, build_worker, end_process_with
from minutehand.functions.worker.database_access import find_database_access
from minutehand.functions.worker.process import serve_worker
from minutehand.functions.worker.processors import import_processors
from minutehand.functions.worker.routes import WorkerRoutes
from minutehand.local.hot_reload import Files, end_on_change, files_of, watched_folders
from minutehand.log import configure_logging
from minutehand.queue.errors import QueueError
from minutehand.worker.loop import Worker

logger = logging.getLogger("minutehand.local.worker")

DATA_API_SECONDS = 15.0
"""For the Data API to know the functions; what still fails then is logged as anything is."""
STOP_SECONDS = 3.0
"""For running jobs to be released when the process ends."""


@cache
def watched_files() -> Files:
    """Return the files whose change ends the process, as they were before they were imported."""
    return files_of(watched_folders(Settings.from_env(os.environ)))


def load() -> None:
    """Import the modules that the worker's processes share."""
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    watched_files()
    import_processors(settings)


@asynccontextmanager
async def start() -> AsyncIterator[Running]:
    """Run the loop, its wake-ups and hot reload."""
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    wakeups = asyncio.Event()
    database_url = settings.environ.get("DATABASE_URL", "")
    files = watched_files()
    access = await find_database_access(settings)
    access.log()
    worker = build_worker(settings, access=access, on_error=report_module)
    tasks = [
        asyncio.create_task(run_worker(worker, wakeups, database_url), name="worker"),
        asyncio.create_task(end_on_change(settings, files, end), name="reload"),
    ]
    if (listening := access.listen(wakeups.set)) is not None:
        tasks.append(listening)
    for task in tasks:
        end_process_with(task)
    try:
        yield Running(WorkerRoutes(settings, worker), wakeups.set, tasks[0])
    finally:
        worker.stop()
        for task in tasks[1:]:
            task.cancel()
        _ended, unfinished = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in unfinished:
            task.cancel()
        await worker.aclose()


def end() -> None:
    """Shut down this process."""
    os.kill(os.getpid(), signal.SIGTERM)


def report_module(name: str, error: Exception) -> None:
    """Log a module of processors that failed to load. Saving the file loads it again."""
    logger.error(
        "%s cannot be loaded; the others run, and saving it loads it",
        name,
        exc_info=error,
        extra={"event": "worker.module_failed"},
    )


async def run_worker(worker: Worker, wakeups: asyncio.Event, database_url: str) -> None:
    """Run the loop when the Data API responds, because an earlier run would fail."""
    # The Data API reads the schema shortly after the migrations. The loop reports lasting errors.
    until = time.monotonic() + DATA_API_SECONDS
    while database_url and time.monotonic() < until:
        try:
            await worker.queue.health()
            break
        except QueueError:
            await asyncio.sleep(0.1)
    await worker.run_forever(wakeups)


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.exit(serve_worker(os.environ, start, load))
