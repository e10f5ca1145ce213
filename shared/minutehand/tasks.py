"""Cancellation of background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

#: Seconds until a task that still runs is cancelled again; longer than clean-up takes.
RECANCEL_SECONDS = 5.0


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until all have ended; their errors are ignored.

    A cancellation can get lost, because code may catch it, and because `asyncio.wait_for` before
    Python 3.12 drops it if the awaited result arrives at the same time. Therefore a task that still
    runs is cancelled again.
    """
    all_tasks = list(tasks)
    running = {task for task in all_tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=RECANCEL_SECONDS)
    await asyncio.gather(*all_tasks, return_exceptions=True)  # otherwise asyncio logs their errors


async def first_of(*awaitables: Awaitable[Any]) -> Any:
    """Return the result or raise the error of the first to end, and cancel the other tasks."""
    tasks = {asyncio.ensure_future(awaitable) for awaitable in awaitables}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)
    return done.pop().result()
