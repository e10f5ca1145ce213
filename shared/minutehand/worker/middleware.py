"""Middleware around every processor, such as tracing, error reports or a rate limiter."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from minutehand.queue.models import JobId
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Returned
from minutehand.worker.threads import run_in_thread
from minutehand.worker.unawaited import tracked_call

#: Function that runs the processor, or the next middleware, and returns the result.
Call = Callable[[], Awaitable[Returned]]


#: Async function around each attempt. A middleware awaits `call()` once and returns its result. A
#: processor chooses an outcome by a returned value (`Retry`, `Snooze`, …) or by raising `Suspended`
#: or `AttemptEnded`. `Suspended` and `AttemptEnded` are BaseExceptions, so that `except Exception`
#: catches only failures.
Middleware = Callable[[Job[Any], JobContext, Call], Awaitable[Returned]]


def wrap(around: Sequence[Middleware], call: Call, job: Job[Any], ctx: JobContext) -> Call:
    """Return a call of the processor inside all middleware. The first middleware is outermost."""
    for middleware in reversed(around):
        call = partial(middleware, job, ctx, partial(tracked_call, ctx, call))
    return call


def calling(run: Callable[..., Any], *args: Any, thread: str | None) -> Callable[[], Any]:
    """Return a function that calls a processor with the given arguments.

    The processor runs in the thread `thread`, or on the event loop if `thread` is None.
    """
    return partial(run, *args) if thread is None else partial(_in_thread, run, args, thread)


async def _in_thread(run: Callable[..., Any], args: Sequence[Any], thread: str) -> Any:
    result = await run_in_thread(partial(run, *args), name=thread)
    # a synchronous processor may return a coroutine
    return await result if isinstance(result, Awaitable) else result


def thread_name(job_id: JobId, fence: int) -> str:
    """Return the name of the thread in which an attempt's synchronous processor runs."""
    return f"job:{job_id}:{fence}"


def is_async(run: object) -> bool:
    """Return True for an async function, or an object with an async `__call__`."""
    return inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(
        getattr(run, "__call__", None)  # noqa: B004
    )
