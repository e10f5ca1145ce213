"""The clock that every part is given instead of reading the time itself.

Only the worker's own timeouts are measured here; leases expire on the database's clock alone.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall time for people and a steady time for durations."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never runs backwards."""
        ...


class SystemClock:
    """The machine's own clock."""

    #: Seconds from an arbitrary start; never runs backwards. Read some times for each job.
    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        return datetime.now(UTC)


class FrozenClock:
    """A clock for tests: it does not move until it is advanced."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        """The clock's present instant."""
        return self._now

    def monotonic(self) -> float:
        """Seconds this clock was advanced by in all."""
        return self._monotonic

    def advance(self, *, seconds: float) -> None:
        """Move both times forward."""
        if seconds < 0:
            raise ValueError(f"a clock cannot be advanced by {seconds} seconds")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
