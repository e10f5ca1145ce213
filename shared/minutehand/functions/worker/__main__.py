"""A worker for your own host. The database wakes it when jobs arrive, and every minute."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Final

from minutehand.config import Settings
from minutehand.functions.worker.app import SUSPECTS_ONLY, Running, build_worker, end_process_with
from minutehand.functions.worker.database_access import find_database_access
from minutehand.functions.worker.process import serve_worker
from minutehand.functions.worker.processors import import_processors
from minutehand.functions.worker.routes import WorkerRoutes
from minutehand.log import configure_logging
from minutehand.tasks import end_tasks

#: Seconds for the release of running jobs when the process ends.
STOP_SECONDS: Final = 8.0


def load() -> None:
    """Import the modules that the worker's processes share."""
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    import_processors(settings)
    if "DATABASE_URL" in os.environ:
        import_module("minutehand.queue.direct")  # here, because psycopg is an extra


@asynccontextmanager
async def start() -> AsyncIterator[Running]:
    """Run the worker's loop until the context ends."""
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    access = await find_database_access(settings)
    access.log()
    wakeups = asyncio.Event()
    realtime = None
    if not access.is_notified and SUSPECTS_ONLY not in os.environ:
        # here, because its import takes 0.2 s
        from minutehand.functions.worker.realtime_wakeups import RealtimeWakeups

        realtime = RealtimeWakeups(settings, wakeups.set)
    worker = build_worker(settings, access=access, realtime=realtime)
    run = worker.run_forever(wakeups, poll_seconds=access.poll_seconds)
    loop = asyncio.create_task(run, name="loop")
    end_process_with(loop)
    listening = None
    if realtime is not None:
        listening = asyncio.create_task(realtime.run(worker.registry), name="realtime")
    elif SUSPECTS_ONLY not in os.environ:
        listening = access.listen(wakeups.set)
    try:
        yield Running(WorkerRoutes(settings, worker, wake=wakeups.set), wakeups.set, loop)
    finally:
        worker.stop()
        _, unfinished = await asyncio.wait({loop}, timeout=STOP_SECONDS)
        await end_tasks([*unfinished, *([listening] if listening else [])])
        await worker.aclose()


if __name__ == "__main__":
    sys.exit(serve_worker(os.environ, start, load))
