"""Tasks that a processor starts: whose they are, and what they cannot do to the loop."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from minutehand.worker.isolation import (
    Blocked,
    ProcessorExit,
    TaskGroupOfAttempt,
    belonging_to,
    contained,
    owner_of,
)


async def rest() -> None:
    await asyncio.sleep(3600)


async def test_what_an_attempt_starts_is_its_own_until_it_ends() -> None:
    """And what that starts; the tasks of others stay as they are."""
    loop = asyncio.get_running_loop()
    group = TaskGroupOfAttempt("j", "t")
    children: list[asyncio.Task[None]] = []

    async def parent() -> str:
        children.append(asyncio.create_task(rest(), name="child"))
        return "done"

    with contained(loop):
        with belonging_to(group):
            own = asyncio.create_task(parent(), name="own")
        foreign = asyncio.create_task(rest())
        result = await own
        [child] = children

        assert (result, own.get_name(), child.get_name()) == ("done", "own", "child")
        assert group.left_over() == [child]
        assert (group.job_id, group.job_type, group.blocked) == ("j", "t", None)
        assert (owner_of(child), owner_of(foreign), owner_of(None)) == (group, None, None)

        child.cancel()
        foreign.cancel()
        await asyncio.wait({child, foreign})
        assert group.left_over() == []
        await asyncio.sleep(0)

    assert group.tasks == set()
    assert (owner_of(own), owner_of(child)) == (None, None), "a worker runs many in a day"


@pytest.mark.parametrize("exits", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_is_an_error_of_its_own_task(exits: BaseException) -> None:
    """Asyncio would let it stop the loop, and every other job with it."""

    async def leave() -> None:
        raise exits

    with contained(asyncio.get_running_loop()), belonging_to(TaskGroupOfAttempt("j", "t")):
        task = asyncio.create_task(leave())
        await asyncio.wait({task})

    assert isinstance(task.exception(), ProcessorExit)
    assert type(exits).__name__ in str(task.exception())


async def test_a_task_that_was_cancelled_before_it_began_leaves_nothing_unawaited() -> None:
    coro = rest()
    with contained(asyncio.get_running_loop()), belonging_to(TaskGroupOfAttempt("j", "t")):
        task = asyncio.create_task(coro)
        task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(0)

    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_an_applications_task_factory_serves_all_others_and_is_put_back() -> None:
    """When the last of several runs has ended: the first to end would leave the rest unguarded."""
    loop = asyncio.get_running_loop()
    made: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    async def nothing() -> None:
        pass

    loop.set_task_factory(factory)
    first, second = contained(loop), contained(loop)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    group = TaskGroupOfAttempt("j", "t")

    await asyncio.create_task(nothing())
    with belonging_to(group):
        task = asyncio.create_task(nothing())
    assert owner_of(task) is group
    await task
    second.__exit__(None, None, None)

    assert len(made) == 1
    assert loop.get_task_factory() is factory


async def test_a_task_factory_that_was_set_meanwhile_stays() -> None:
    loop = asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=loop, **options)

    with contained(loop):
        loop.set_task_factory(factory)

    assert loop.get_task_factory() is factory


def test_who_blocked_a_worker_is_said_in_words() -> None:
    assert str(Blocked(3.6, "app.py:7")) == "it blocked its worker for 4 s at app.py:7"
