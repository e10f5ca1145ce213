"""Detects calls of a job's context that the processor never awaits.

Calls that are never awaited do nothing.

The context records its calls, so that a job that makes no calls has no overhead.
"""

import asyncio
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from types import CoroutineType
from typing import Any, Protocol, TypeVar, cast

from minutehand.queue.errors import ProcessorError

A = TypeVar("A", bound=Callable[..., Any])
T = TypeVar("T")

#: When this many calls are recorded, the tracker drops the calls that have ended.
PRUNE_AFTER = 32


class NotAwaited(ProcessorError):
    """The processor ended and had never awaited a call, which therefore did nothing."""

    def __init__(self, names: Iterable[str]) -> None:
        formatted = [f"{name}(…)" for name in dict.fromkeys(names)]
        super().__init__(
            f"{' and '.join(formatted)} was never awaited, so it did nothing; write "
            f"`await {formatted[0]}`, in an `async def`",
            retryable=False,  # each attempt would repeat the processor's earlier effects
        )


class CallTracker:
    """Records the calls of one attempt that have not ended."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, CoroutineType[Any, Any, Any]]] = []
        self._prune_at = PRUNE_AFTER

    def add(self, name: str, call: Any) -> None:
        """Record a call that has just been made."""
        if type(call) is not CoroutineType:
            return  # the call is a future, which runs without being awaited
        if len(self._calls) >= self._prune_at:
            self._calls = [entry for entry in self._calls if entry[1].cr_frame is not None]
            self._prune_at = max(PRUNE_AFTER, 2 * len(self._calls))
        self._calls.append((name, call))

    def end(self) -> tuple[list[str], list[str]]:
        """Return the names of the calls that never started, and of the calls that still run.

        The calls that never started are closed. Call this method after the processor has ended.
        """
        states = [(name, call, inspect.getcoroutinestate(call)) for name, call in self._calls]
        self._calls = []
        for _, call, state in states:
            if state == inspect.CORO_CREATED:
                call.close()  # closing breaks a reference cycle, and avoids Python's warning
        by_state = {
            expected_state: [name for name, _, state in states if state == expected_state]
            for expected_state in (inspect.CORO_CREATED, inspect.CORO_SUSPENDED)
        }
        return by_state[inspect.CORO_CREATED], by_state[inspect.CORO_SUSPENDED]


class TracksCalls(Protocol):
    """The part of a context that this module uses."""

    calls: CallTracker | None


def tracked(context: TracksCalls, name: str, call: T) -> T:
    """Record a call of a context, which the processor must await."""
    if context.calls is None:
        context.calls = CallTracker()
    context.calls.add(name, call)
    return call


def tracked_call(context: TracksCalls, call: Callable[[], T]) -> T:
    """Make a call that a middleware must await, because nothing would run otherwise."""
    return tracked(context, "call", call())


def must_await(method: A) -> A:
    """Decorate a coroutine method of a context, so that each call is recorded."""
    name = f"ctx.{method.__name__}"

    @wraps(method)
    def call(self: TracksCalls, /, *args: Any, **kwargs: Any) -> Any:
        return tracked(self, name, method(self, *args, **kwargs))

    # mark the wrapper as a coroutine function, because AsyncMock checks this
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(call)
    else:
        call._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return cast(A, call)
