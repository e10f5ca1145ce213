"""How long to wait before the next attempt, as arithmetic.

The database applies it; this copy publishes the policy and predicts it for people and tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from minutehand.queue.models import BackoffOptions
from minutehand.worker.outcomes import Seconds, seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential: `first`, then times `factor` each, never above `cap`.

    The database draws each wait within a tenth of that; at the cap, up to a fifth below.

    Attributes:
        first: Wait after the first failed attempt, at most a day.
        cap: Longest wait, at most a week.
        factor: 1 to 10.
    """

    first: Seconds = 60
    cap: Seconds = 3600
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= _signed(self.first) <= 86_400:
            raise ValueError(f"first={self.first} must be from 0 seconds to a day")
        if not seconds(self.first) <= seconds(self.cap) <= 604_800:
            raise ValueError(f"cap={self.cap} must be from first to a week")
        if not 1 <= self.factor <= 10:
            raise ValueError(f"factor={self.factor} must be from 1 to 10")

    def delay(self, attempt: int) -> float:
        """Seconds before the attempt after `attempt` (counted from 1), without jitter."""
        # a float ends at 10^308
        grown = seconds(self.first) * float(self.factor) ** min(attempt - 1, 300)
        return min(seconds(self.cap), grown)

    def wire(self) -> BackoffOptions:
        """The policy as the database keeps it."""
        return BackoffOptions(
            first_seconds=seconds(self.first), cap_seconds=seconds(self.cap), factor=self.factor
        )


def _signed(value: Seconds) -> float:
    # `seconds` clamps at 0, which would hide a negative policy
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
