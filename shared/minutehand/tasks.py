"""The end of background tasks, for all who start some."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

#: Seconds until a task that still runs is cancelled again; cleaning up takes less.
AGAIN_SECONDS = 5.0


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until all have ended; their errors are ignored.

    A cancellation can get lost: code may catch it, and `asyncio.wait_for` before Python 3.12 drops
    one that comes together with what it waits for. A task that still runs is cancelled again.
    """
    ending = list(tasks)
    left = {task for task in ending if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_SECONDS)
    await asyncio.gather(*ending, return_exceptions=True)  # else asyncio logs their errors


async def first_of(*work: Awaitable[Any]) -> Any:
    """Return or raise as the first of them that ends; the others are cancelled."""
    tasks = {asyncio.ensure_future(each) for each in work}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)
    return done.pop().result()
