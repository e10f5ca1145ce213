"""The calls of a context that are to be awaited: one that never is would be work lost in silence.

The context remembers its own calls, so that nothing is asked of a job that makes none.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from types import CoroutineType
from typing import Any, Final, Protocol, TypeVar, cast

from minutehand.queue.errors import ProcessorError

A = TypeVar("A", bound=Callable[..., Any])
T = TypeVar("T")

#: Calls that are kept before those that have ended are dropped.
FEW: Final = 32


class NotAwaited(ProcessorError):
    """The processor ended and had called what it never awaited, of which nothing was done."""

    def __init__(self, names: Iterable[str]) -> None:
        said = [f"{name}(…)" for name in dict.fromkeys(names)]
        super().__init__(
            f"{' and '.join(said)} was never awaited, so nothing of it was done: write "
            f"`await {said[0]}`, in an `async def`",
            retryable=False,  # each attempt would repeat what the processor did beside
        )


class Calls:
    """The calls of one attempt, until they have ended."""

    def __init__(self) -> None:
        self._begun: list[tuple[str, CoroutineType[Any, Any, Any]]] = []
        self._most = FEW

    def add(self, name: str, call: Any) -> None:
        """Remember one that was made just now."""
        if type(call) is not CoroutineType:
            return  # a future, which runs by itself
        if len(self._begun) >= self._most:
            self._begun = [each for each in self._begun if each[1].cr_frame is not None]
            self._most = max(FEW, 2 * len(self._begun))
        self._begun.append((name, call))

    def end(self) -> tuple[list[str], list[str]]:
        """Names of the calls that never began, which now cannot any more, and of those under way.

        To be asked once the processor has ended.
        """
        states = [(name, call, inspect.getcoroutinestate(call)) for name, call in self._begun]
        self._begun = []
        for _, call, state in states:
            if state == inspect.CORO_CREATED:
                call.close()  # a cycle with the context; and what would say so in no job's log
        by_state = {
            wanted: [name for name, _, state in states if state == wanted]
            for wanted in (inspect.CORO_CREATED, inspect.CORO_SUSPENDED)
        }
        return by_state[inspect.CORO_CREATED], by_state[inspect.CORO_SUSPENDED]


class Calling(Protocol):
    """A context, as far as this file knows it."""

    calls: Calls | None


def noted(context: Calling, name: str, call: T) -> T:
    """Have a context remember a call that is to be awaited before the processor ends."""
    if context.calls is None:
        context.calls = Calls()
    context.calls.add(name, call)
    return call


def to_be_awaited(method: A) -> A:
    """Have a context remember each call of this coroutine method of it."""
    name = f"ctx.{method.__name__}"

    @wraps(method)
    def call(self: Calling, /, *args: Any, **kwargs: Any) -> Any:
        return noted(self, name, method(self, *args, **kwargs))

    # what makes a mock of a context, as AsyncMock does, asks whether to make it awaitable
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(call)
    else:
        call._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return cast(A, call)
