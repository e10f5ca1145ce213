"""Background tasks end, also those that lose a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine

import pytest

from minutehand import tasks
from minutehand.tasks import end_tasks


async def forever() -> None:
    await asyncio.Event().wait()


async def deaf(times: int) -> None:
    """Ignore so many cancellations."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
    await forever()


async def failing() -> None:
    try:
        await forever()
    finally:
        raise RuntimeError("while it was ended")


async def started(*coroutines: Coroutine[None, None, None]) -> list[asyncio.Task[None]]:
    made = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    return made


async def test_a_task_that_loses_its_cancellation_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_SECONDS", 0.01)
    running = await started(forever(), deaf(times=3))

    await end_tasks(running)

    assert all(task.cancelled() for task in running)


async def test_errors_of_ended_tasks_reach_no_one(caplog: pytest.LogCaptureFixture) -> None:
    running = await started(failing(), forever())
    already = await started(asyncio.sleep(0))
    await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        await end_tasks([*running, *already])
        del running[0]

    assert not caplog.records


async def test_nothing_to_end_is_no_error() -> None:
    await end_tasks([])
