"""Plain processors in threads: what passes in and out, and how one is stopped."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

import pytest

from minutehand.worker.threads import ThreadStopped, interrupt, run_in_thread

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request")


async def test_a_call_has_a_thread_of_its_own_and_its_callers_context() -> None:
    """A daemon: one that cannot be stopped keeps no process from ending."""
    REQUEST.set("r")

    def call() -> Any:
        own = threading.current_thread()
        return own.daemon, own.name.rpartition("-")[0], own.ident, REQUEST.get()

    is_daemon, name, thread, request = await run_in_thread(call, name="job:1")

    assert (is_daemon, name, request) == (True, "job:1", "r")
    assert thread != threading.get_ident()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), ThreadStopped("itself")])
async def test_what_a_call_raises_is_its_callers(error: BaseException) -> None:
    def call() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await run_in_thread(call, name="job:1")

    assert raised.value is error


class Spinning:
    """A call that runs until it is stopped."""

    def __init__(self, *, resists: bool = False) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()
        self.stopped = False
        self._resists = resists

    def __call__(self) -> str:
        self.begun.set()
        try:
            while not self.release.is_set():
                time.sleep(0.001)
        except ThreadStopped:
            self.stopped = True
            if not self._resists:
                raise
            self.release.wait(60)
        return "what it has"


async def begun(call: Spinning) -> asyncio.Task[Any]:
    task = asyncio.create_task(run_in_thread(call, name="job:1"))
    assert await asyncio.to_thread(call.begun.wait, 60)
    return task


async def test_a_cancel_stops_the_thread_and_waits_for_its_end() -> None:
    call = Spinning()
    task = await begun(call)

    task.cancel()
    await asyncio.wait({task}, timeout=60)

    assert (task.cancelled(), call.stopped) == (True, True)


async def test_one_that_is_stopped_may_still_return_what_it_has() -> None:
    call = Spinning(resists=True)
    task = await begun(call)

    task.cancel()
    call.release.set()

    assert await asyncio.wait_for(task, 60) == "what it has"


async def test_a_second_cancel_no_longer_waits() -> None:
    """One that sits in C code must not keep its slot."""
    call = Spinning(resists=True)
    task = await begun(call)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()

    task.cancel()
    await asyncio.wait({task}, timeout=60)

    assert task.cancelled()
    call.release.set()


def test_a_thread_that_has_ended_is_not_interrupted() -> None:
    """Its number may be another's by now."""
    thread = threading.Thread(target=int)
    assert not interrupt(thread)
    thread.start()
    thread.join()

    assert not interrupt(thread)
