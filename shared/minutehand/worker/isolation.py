"""Keeps tasks that a processor starts inside its attempt: none kills the loop, none outlives it.

Works through asyncio's task factory and a context variable, so other tasks are left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any


class ProcessorExit(Exception):
    """A processor raised SystemExit or KeyboardInterrupt; only its own attempt ends."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """For how long a processor kept the event loop, and in which line."""

    seconds: float
    at: str

    def __str__(self) -> str:
        return f"it blocked its worker for {self.seconds:.0f} s at {self.at}"


class TaskGroupOfAttempt:
    """The tasks one attempt started, and which attempt that is."""

    def __init__(self, job_id: str, job_type: str) -> None:
        self.job_id = job_id
        self.job_type = job_type
        #: The longest time for which it blocked the event loop, and where; None when it never did.
        self.blocked: Blocked | None = None
        #: Its tasks that have not ended.
        self.tasks: set[asyncio.Task[Any]] = set()

    def left_over(self) -> list[asyncio.Task[Any]]:
        """Tasks that still run."""
        return [task for task in self.tasks if not task.done()]


_current: contextvars.ContextVar[TaskGroupOfAttempt | None] = contextvars.ContextVar(
    "attempt", default=None
)
#: Which attempt a task belongs to, until it ends; read by the watchdog from its own thread.
_owners: dict[asyncio.Task[Any], TaskGroupOfAttempt] = {}


def owner_of(task: asyncio.Task[Any] | None) -> TaskGroupOfAttempt | None:
    """The attempt that `task` was started by, if any."""
    return None if task is None else _owners.get(task)


@contextlib.contextmanager
def belonging_to(group: TaskGroupOfAttempt) -> Iterator[None]:
    """Tasks created inside the block belong to `group`, and those that they create too."""
    token = _current.set(group)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def contained(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Keep the task factory installed on `loop` while any tick is inside such a block."""
    installed = loop.get_task_factory()
    if isinstance(installed, _Factory):
        factory = installed
    else:
        factory = _Factory(installed)
        loop.set_task_factory(factory)
    factory.users += 1
    try:
        yield
    finally:
        factory.users -= 1
        if factory.users == 0 and loop.get_task_factory() is factory:
            loop.set_task_factory(factory.before)


class _Factory:
    def __init__(self, before: Any) -> None:
        self.before = before
        self.users = 0

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        group = _current.get()
        if group is None:
            if self.before is not None:
                task: asyncio.Task[Any] = self.before(loop, coro, **options)
                return task
            return asyncio.Task(coro, loop=loop, **options)
        task = asyncio.Task(_guarded(coro), loop=loop, **options)
        group.tasks.add(task)
        _owners[task] = group

        def forget(ended: asyncio.Task[Any]) -> None:
            group.tasks.discard(ended)
            _owners.pop(ended, None)
            # cancelled before its first step, the guard never awaits what it guards
            coro.close()

        task.add_done_callback(forget)
        return task


async def _guarded(coro: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coro
    except (SystemExit, KeyboardInterrupt) as error:
        # asyncio would let these two stop the whole loop, and with it every other job
        raise ProcessorExit(f"the processor raised {type(error).__name__}({error})") from error
