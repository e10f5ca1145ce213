"""What one tick did, as counts: for its log line, its HTTP answer, its metrics and the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class TickSummary:
    """Counts of one tick; `failed` are dead letters, `retried` go round again."""

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
    #: Due jobs left when the tick ended, as far as it knows.
    due_left: int = field(default=0, compare=False)
    extra_workers: int = 0
    calls: int = 0
    reports: int = 0
    duration_ms: float = field(default=0.0, compare=False)
    busy_ms: float = 0.0
    error: str | None = None
    #: As many workers as the stage allows were running: this one leased nothing.
    crowded_out: bool = False
    #: Milliseconds until the next job falls due; None when none is planned.
    next_due_in_ms: float | None = field(default=None, compare=False)
    #: When there may be more, in milliseconds, and why, see `minutehand.worker.agenda`; without a
    #: time: once it is notified.
    next_in_ms: float | None = field(default=None, compare=False)
    next_reason: str | None = field(default=None, compare=False)

    def count(self, outcome: str) -> None:
        """Add one applied settle."""
        name = "retried" if outcome == "retry" else outcome
        setattr(self, name, getattr(self, name) + 1)

    @property
    def is_worth_reporting(self) -> bool:
        """Whether the tick changed anything worth a line."""
        return self.leased > 0 or self.reclaimed > 0 or self.error is not None

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON takes it."""
        return {name: getattr(self, name) for name in self.__slots__}
