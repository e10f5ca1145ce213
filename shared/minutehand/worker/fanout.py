"""How many extra workers a tick starts: by backlog, capped, one level deep.

Starting them is a callback's work; a refusal is normal, the next tick takes the rest.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

#: Starts up to so many extra workers and returns how many were accepted.
StartExtraWorkers = Callable[[int], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class FanOut:
    """The policy.

    Attributes:
        most: Most extra workers one tick starts.
        target_wait_seconds: A backlog should be begun within this time. A short one costs hardly
            more: run time is billed, on any worker.
        typical_seconds: How long a job is taken to run while nothing is known.
        minimum_backlog: Fewer due jobs than this never start an extra worker.
    """

    most: int = 10
    target_wait_seconds: float = 5.0
    typical_seconds: float = 1.0
    minimum_backlog: int = 10

    def extra_workers(
        self,
        *,
        due: int,
        slots: int,
        seconds_left: float,
        mean_seconds: float | None = None,
    ) -> int:
        """Extra workers that `due` jobs are worth, left once this one is full; not bounded here."""
        if due < self.minimum_backlog or slots < 1:
            return 0
        each = max(0.001, self.typical_seconds if mean_seconds is None else mean_seconds)
        horizon = min(self.target_wait_seconds, max(1.0, seconds_left))
        carried = max(slots, int(slots * horizon / each))
        return math.ceil(due / carried) - 1
