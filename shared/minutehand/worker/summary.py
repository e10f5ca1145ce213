"""Counts of one tick, for its log line, its HTTP response, its metrics and the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class TickSummary:
    """Counts of one tick. `failed` counts dead letters, `retried` attempts that are retried."""

    worker_id: str
    tick_id: str
    leased: int = 0
    completed: int = 0
    retried: int = 0
    failed: int = 0
    snoozed: int = 0
    released: int = 0
    waiting: int = 0
    cancelled: int = 0
    #: Attempts whose lease was lost before they could be settled.
    lost: int = 0
    reclaimed: int = 0
    promoted: int = 0
    #: Number of due jobs that the last lease of the tick did not return.
    due_left: int = field(default=0, compare=False)
    extra_workers: int = 0
    calls: int = 0
    reports: int = 0
    duration_ms: float = field(default=0.0, compare=False)
    busy_ms: float = 0.0
    #: Seconds by which the worker's clock is ahead of the database's. None if the clocks agree.
    clock_skew_seconds: float | None = field(default=None, compare=False)
    error: str | None = None
    #: True if the maximum number of workers was running, so that this worker leased nothing.
    crowded_out: bool = False
    #: Milliseconds until the next job falls due. None without a scheduled job.
    next_due_in_ms: float | None = field(default=None, compare=False)
    #: Milliseconds until there may be more jobs, and the reason, see `tick_scheduler.py`. None if
    #: only a notification announces jobs.
    next_in_ms: float | None = field(default=None, compare=False)
    next_reason: str | None = field(default=None, compare=False)

    def count(self, outcome: str) -> None:
        """Count one settled job."""
        name = "retried" if outcome == "retry" else outcome
        setattr(self, name, getattr(self, name) + 1)

    @property
    def is_worth_reporting(self) -> bool:
        """True if the tick changed anything."""
        return self.leased > 0 or self.reclaimed > 0 or self.error is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}
