"""Cancellation of background tasks."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

#: Seconds after which a task that still runs is cancelled again. The clean-up of a cancelled task
#: takes less time.
RECANCEL_SECONDS = 5.0


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until all have ended. Errors of the tasks are ignored.

    A cancellation can get lost, because a task's code may catch it, and because `asyncio.wait_for`
    before Python 3.12 drops a cancellation if the awaited result arrives at the same time. A task
    that still runs is therefore cancelled again.
    """
    all_tasks = list(tasks)
    running = {task for task in all_tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=RECANCEL_SECONDS)
    await asyncio.gather(*all_tasks, return_exceptions=True)  # or asyncio would log their errors


async def first_of(*awaitables: Awaitable[Any]) -> Any:
    """Return the result, or raise the error, of the first task to end. Cancel the other tasks."""
    tasks = {asyncio.ensure_future(awaitable) for awaitable in awaitables}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)
    return done.pop().result()
