"""Counts of one worker run (tick), for its log line, HTTP response, metrics and database row."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TickSummary:
    """Counts of one worker run. `failed` counts dead letters. `retried` counts failed attempts."""

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
    #: Attempts whose lease the worker lost before it could settle them.
    lost: int = 0
    reclaimed: int = 0
    promoted: int = 0
    #: Number of due jobs that the last lease request of the run did not return.
    due_left: int = field(default=0, compare=False)
    extra_workers: int = 0
    calls: int = 0
    reports: int = 0
    duration_ms: float = field(default=0.0, compare=False)
    busy_ms: float = 0.0
    #: Seconds by which the worker's clock is ahead of the database's clock. `clock_skew_seconds` is
    #: None if the clocks agree.
    clock_skew_seconds: float | None = field(default=None, compare=False)
    error: str | None = None
    #: True if the maximum number of workers already ran, so that this worker leased nothing.
    crowded_out: bool = False
    #: Milliseconds until the next scheduled job falls due. `next_due_in_ms` is None if no job is
    #: scheduled.
    next_due_in_ms: float | None = field(default=None, compare=False)

    def count(self, outcome: str) -> None:
        """Count one settled job."""
        name = "retried" if outcome == "retry" else outcome
        setattr(self, name, getattr(self, name) + 1)

    @property
    def is_worth_reporting(self) -> bool:
        """True if the run leased or reclaimed jobs, or ended with an error."""
        return self.leased > 0 or self.reclaimed > 0 or self.error is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return dict(vars(self))
