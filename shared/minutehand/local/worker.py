"""The worker process of the local stack, which reloads changed files of apps.

`minutehand.local.api` starts the worker process, and starts a new worker process when the old one
ends.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from minutehand.config import Settings
from minutehand.functions.worker.app import Running, end_process_with, load, run_worker
from minutehand.functions.worker.process import serve_worker
from minutehand.local.hot_reload import Files, end_on_change, files_of, reload_folders
from minutehand.tasks import end_tasks

logger = logging.getLogger("minutehand.local.worker")

#: Maximum seconds in which a worker process that ends releases its running jobs.
STOP_SECONDS = 3.0


@cache
def reload_files() -> Files:
    """Return the versions of the apps' files at the first call.

    A change of a file ends this process.
    """
    return files_of(reload_folders(Settings.from_env(os.environ)))


def load_reload_files() -> None:
    """Store the versions of the apps' files, then import the worker processes' common modules."""
    reload_files()
    load()


@asynccontextmanager
async def start() -> AsyncIterator[Running]:
    """Run the worker's loop, and end the process when a file of an app changes."""
    settings, files = Settings.from_env(os.environ), reload_files()
    worker = run_worker(
        poll_seconds=1.0, tick_per_request=True, on_error=report_module, stop_seconds=STOP_SECONDS
    )
    async with worker as running:
        reload = asyncio.create_task(end_on_change(settings, files, end), name="reload")
        end_process_with(reload)
        try:
            yield running
        finally:
            await end_tasks([reload])


def end() -> None:
    """Shut down this worker process."""
    os.kill(os.getpid(), signal.SIGTERM)


def report_module(name: str, error: Exception) -> None:
    """Log that a module of processors could not be loaded.

    When the module's file changes, hot reload loads the module again.
    """
    logger.error(
        "%s cannot be loaded; the others run, and saving it loads it",
        name,
        exc_info=error,
        extra={"event": "worker.module_failed"},
    )


if __name__ == "__main__":
    serve_worker(os.environ, start, load_reload_files)
