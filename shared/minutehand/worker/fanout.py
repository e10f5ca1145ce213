"""How many extra workers a tick starts: by backlog, capped, one level deep.

Starting them is a callback's work; a refusal is normal, the next tick takes the rest.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

#: Starts up to so many extra workers and returns how many were accepted.
StartExtraWorkers = Callable[[int], Awaitable[int]]


#: A backlog should be begun within this time. A short one costs hardly more: run time is billed, on
#: any worker.
TARGET_SECONDS: Final = 5.0
#: How long a job is taken to run while nothing is known.
TYPICAL_SECONDS: Final = 1.0
#: Fewer due jobs than this never start an extra worker.
LEAST_BACKLOG: Final = 10


@dataclass(frozen=True, slots=True)
class FanOut:
    """The policy: at most `most` extra workers are started by one tick."""

    most: int = 10

    def extra_workers(
        self, *, due: int, slots: int, seconds_left: float, mean_seconds: float | None = None
    ) -> int:
        """Extra workers that `due` jobs are worth, left once this one is full; not bounded here."""
        if due < LEAST_BACKLOG or slots < 1:
            return 0
        each = max(0.001, TYPICAL_SECONDS if mean_seconds is None else mean_seconds)
        horizon = min(TARGET_SECONDS, max(1.0, seconds_left))
        carried = max(slots, int(slots * horizon / each))
        return math.ceil(due / carried) - 1
