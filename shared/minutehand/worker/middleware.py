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
from minutehand.worker.unawaited import noted

#: Runs the processor, or the next middleware, and returns what it returned.
Call = Callable[[], Awaitable[Returned]]


#: An async function around each attempt: it awaits `call()` once and returns what it likes. Planned
#: endings pass through as returned values (`Retry`, `Snooze`, …) or as the BaseExceptions
#: `Suspended` and `AttemptEnded`; an `except Exception` sees failures alone.
Middleware = Callable[[Job[Any], JobContext, Call], Awaitable[Returned]]


def within(around: Sequence[Middleware], call: Call, job: Job[Any], ctx: JobContext) -> Call:
    """What runs a processor inside every middleware, the first outermost."""
    for middleware in reversed(around):
        call = partial(middleware, job, ctx, partial(_expected, call, ctx))
    return call


def _expected(call: Call, ctx: JobContext) -> Awaitable[Returned]:
    """Call what a middleware must await: else its job would be completed and never run."""
    return noted(ctx, "call", call())


def calling(run: Callable[..., Any], *args: Any, thread: str | None) -> Callable[[], Any]:
    """What runs a processor with these arguments: a plain one in a thread of this name."""
    return partial(run, *args) if thread is None else partial(_in_thread, run, args, thread)


async def _in_thread(run: Callable[..., Any], args: Sequence[Any], thread: str) -> Any:
    returned = await run_in_thread(partial(run, *args), name=thread)
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
