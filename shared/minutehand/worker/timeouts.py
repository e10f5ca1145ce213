"""Stops what has run for too long, by one timer of a run's for all that it runs."""

from __future__ import annotations

import asyncio
import math

from minutehand.clock import Clock
from minutehand.worker.held import Held


class Timeouts:
    """Rings at the first end of what runs; what ended before it is no longer there."""

    def __init__(self, clock: Clock, held: Held) -> None:
        self._clock = clock
        self._held = held
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def begun(self, timeout_at: float) -> None:
        """An attempt began, which is to be stopped then."""
        if timeout_at < self._rings_at:
            self._ring_at(timeout_at)

    def end(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_at = None, math.inf

    def _ring_at(self, at: float) -> None:
        self.end()
        delay = max(0.0, at - self._clock.monotonic())
        self._timer, self._rings_at = asyncio.get_running_loop().call_later(delay, self._ring), at

    def _ring(self) -> None:
        now = self._clock.monotonic()
        running = [each for each in self._held.running.values() if each.stop_reason is None]
        for attempt in running:
            if attempt.timeout_at <= now:
                attempt.stop("timeout")
        self._timer, self._rings_at = None, math.inf
        left = (each.timeout_at for each in running if each.timeout_at > now)
        self.begun(min(left, default=math.inf))
