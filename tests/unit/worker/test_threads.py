"""Threads that run plain functions are reused, unless a stop was raised in them."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from minutehand.worker.threads import ThreadStopped, run_in_thread

CALLER: ContextVar[str] = ContextVar("CALLER")


def who() -> tuple[int, str, str]:
    thread = threading.current_thread()
    return thread.ident or 0, thread.name, CALLER.get("")


async def test_a_thread_runs_one_call_after_another_each_under_its_name() -> None:
    CALLER.set("test")
    first, second = [await run_in_thread(who, name=name) for name in ("job:1", "job:2")]

    assert first[0] == second[0]
    assert (first[1:], second[1:]) == (("job:1", "test"), ("job:2", "test"))
    assert not [each for each in threading.enumerate() if each.name.startswith("job:")]


@pytest.mark.parametrize("turns", range(4))
async def test_a_stop_reaches_its_own_call_alone(turns: int) -> None:
    """A stop of a call in a thread does not stop the thread's next call."""
    stopped: list[threading.Thread] = []

    def spin() -> None:
        try:
            while True:
                pass
        except ThreadStopped:
            stopped.append(threading.current_thread())
            raise

    calls: tuple[Callable[[], Any], ...] = (spin, who)
    for call in calls * 10:
        task = asyncio.create_task(run_in_thread(call, name="job:1"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert await run_in_thread(lambda: "unharmed", name="job:2") == "unharmed"

    for thread in stopped:
        thread.join()
    assert len(set(stopped)) == len(stopped)
