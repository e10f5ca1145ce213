"""What runs around every processor: tracing, error reports, a session, a rate limiter."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from minutehand.queue.models import JobId
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Returned
from minutehand.worker.threads import run_in_thread

#: Runs the processor, or the next middleware, and returns what it returned.
Call = Callable[[], Awaitable[Returned]]


#: An async function around each attempt: it awaits `call()` once and returns what it likes. Planned
#: endings pass through as returned values (`Retry`, `Snooze`, …) or as the BaseExceptions
#: `Suspended` and `TurnEnded`; an `except Exception` sees failures alone.
Middleware = Callable[[Job[Any], JobContext, Call], Awaitable[Returned]]


async def run_within(
    around: Sequence[Middleware],
    run: Callable[..., Any],
    job: Job[Any],
    ctx: JobContext,
    *,
    in_thread: bool,
) -> Any:
    """Run a processor inside every middleware, the first outermost; a plain one in a thread."""
    call: Call = partial(_in_thread, run, job, ctx) if in_thread else partial(run, job, ctx)
    for middleware in reversed(around):
        call = partial(middleware, job, ctx, call)
    return await call()


async def _in_thread(run: Callable[..., Any], job: Job[Any], ctx: JobContext) -> Any:
    returned = await run_in_thread(partial(run, job, ctx), name=thread_name(job.id))
    # a plain function that returns a coroutine is an async processor in disguise
    return await returned if isinstance(returned, Awaitable) else returned


def thread_name(job_id: JobId) -> str:
    """What the thread of a plain processor is called."""
    return f"job:{job_id}"


def is_async(run: object) -> bool:
    """Whether it is an async function, or an object with an async `__call__`."""
    return inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(
        getattr(run, "__call__", None)  # noqa: B004
    )
