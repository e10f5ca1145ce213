"""Simulated time: an event loop that jumps to its next timer."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")
BEGAN = datetime(2026, 11, 20, 8, tzinfo=UTC)


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer when nothing is ready and no thread runs.

    Args:
        network_seconds: Real seconds within which data between sockets of the loop arrives.
    """

    def __init__(self, network_seconds: float) -> None:
        super().__init__()
        self._at = 0.0
        self._in_threads: set[asyncio.Future[Any]] = set()
        waits = self._selector.select  # type: ignore[attr-defined]

        def leap(timeout: float | None = None) -> Any:
            if self._in_threads:
                return waits(timeout)
            ready = waits(timeout and min(timeout, network_seconds))
            if timeout and not ready:
                self._at += timeout
            return ready

        self._selector.select = leap  # type: ignore[attr-defined]

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        """Run a call in a thread. The simulated time stops until the call has ended."""
        called = super().run_in_executor(executor, func, *args)
        self._in_threads.add(called)
        called.add_done_callback(self._in_threads.discard)
        return called

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait without a timeout, which since Python 3.12 the loop would leap to."""
        await super().shutdown_default_executor()

    def time(self) -> float:
        return self._at


class LoopClock:
    """A clock that shows the time of the event loop in which it was created."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> datetime:
        """Return a fixed time plus the elapsed seconds of the loop."""
        return BEGAN + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return self._loop.time()


def leaping(story: Coroutine[Any, Any, T], network_seconds: float = 0.0) -> T:
    """Run a coroutine to its end with simulated time."""
    with asyncio.Runner(loop_factory=lambda: LeapingLoop(network_seconds)) as runner:
        return runner.run(story)


def pass_time(seconds: float) -> None:
    """Advance the simulated time while the loop is blocked, as by a processor."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    loop._at += seconds
