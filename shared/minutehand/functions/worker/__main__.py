"""A worker for a host of your own: woken by the database, at arrival and every minute."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from minutehand.config import Settings
from minutehand.functions.worker.app import Running, build_worker, end_process_with
from minutehand.functions.worker.database_access import find_reach
from minutehand.functions.worker.process import serve_worker
from minutehand.functions.worker.routes import WorkerRoutes
from minutehand.log import configure_logging
from minutehand.tasks import end_tasks

#: For running jobs to be released when the process ends.
STOP_SECONDS: Final = 8.0


@asynccontextmanager
async def start() -> AsyncIterator[Running]:
    """Run the worker's loop until the process is to end."""
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    reach = await find_reach(settings)
    worker = build_worker(settings, reach=reach)
    wakeups = asyncio.Event()
    run = worker.run_forever(wakeups, poll_seconds=reach.look_seconds)
    loop = asyncio.create_task(run, name="loop")
    end_process_with(loop)
    listening = reach.listen(wakeups.set)
    try:
        yield Running(WorkerRoutes(settings, worker, wake=wakeups.set), wakeups.set, loop)
    finally:
        worker.stop()
        _, late = await asyncio.wait({loop}, timeout=STOP_SECONDS)
        await end_tasks([*late, *([listening] if listening else [])])
        await worker.aclose()


if __name__ == "__main__":
    sys.exit(serve_worker(os.environ, start))
