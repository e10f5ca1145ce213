"""How long to wait before the next attempt: published to the database, which applies it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from minutehand.queue.models import compact_number
from minutehand.worker.option_checks import check_options
from minutehand.worker.outcomes import Seconds, seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential: `first`, then times `factor` each, never above `cap`.

    The database draws 80 to 100 % of that for each wait.

    Attributes:
        first: Wait after the first failed attempt, at most a day.
        cap: Longest wait, at most a week.
        factor: 1 to 10.
    """

    first: Seconds = 60
    cap: Seconds = 3600
    factor: float = 2.0

    def __post_init__(self) -> None:
        check_options("Backoff", Backoff, asdict(self))

    def delay(self, attempt: int) -> float:
        """Seconds before the attempt after `attempt` (counted from 1), without jitter."""
        # a float ends at 10^308
        grown = seconds(self.first) * float(self.factor) ** min(attempt - 1, 300)
        return min(seconds(self.cap), grown)

    def wire(self) -> dict[str, Any]:
        """The policy as the database keeps it."""
        lengths = {"first_seconds": self.first, "cap_seconds": self.cap, "factor": self.factor}
        return {name: compact_number(seconds(length)) for name, length in lengths.items()}
