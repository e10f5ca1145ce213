"""Starting extra workers for a backlog that one tick cannot carry, in time and once.

How many is fanout.py's to say, and how they are started the host's.
"""

from __future__ import annotations

import logging

from minutehand.clock import Clock
from minutehand.queue.errors import QueueUnavailable
from minutehand.worker.deadlines import Deadlines, in_time
from minutehand.worker.fanout import FanOut, StartExtraWorkers
from minutehand.worker.summary import TickSummary

logger = logging.getLogger(__name__)

#: Timeout of a call that the tick does not depend on.
SIDE_CALL_SECONDS = 3.0


class ExtraWorkers:
    """One tick's fan-out; without a policy or a way to start any it does nothing."""

    def __init__(
        self,
        policy: FanOut | None,
        start: StartExtraWorkers | None,
        *,
        summary: TickSummary,
        deadlines: Deadlines,
        clock: Clock,
        slots: int,
    ) -> None:
        self._policy = policy
        self._start = start
        self._summary = summary
        self._deadlines = deadlines
        self._clock = clock
        self._slots = slots

    @property
    def can_start(self) -> bool:
        """Whether there is anything to start extra workers with."""
        return self._policy is not None and self._start is not None

    async def for_backlog(self, due: int, *, runs: int) -> None:
        """Once per tick, when it sees more than it can carry after `runs` ended attempts."""
        if not self._summary.extra_workers:
            await self._start_some(self._wanted(due, runs), due)

    async def for_the_rest(self, due: int, *, runs: int) -> None:
        """At least one for what this tick leases no more."""
        if due > 0 and self._policy is not None:
            await self._start_some(min(self._policy.most, max(1, self._wanted(due, runs))), due)

    def _wanted(self, due: int, runs: int) -> int:
        if self._policy is None:
            return 0
        return self._policy.extra_workers(
            due=due,
            slots=self._slots,
            seconds_left=self._deadlines.stop_leasing - self._clock.monotonic(),
            mean_seconds=self._summary.busy_ms / runs / 1000 if runs else None,
        )

    async def _start_some(self, wanted: int, due: int) -> None:
        if wanted < 1 or self._policy is None or self._start is None:
            return
        names = {"worker_id": self._summary.worker_id, "tick_id": self._summary.tick_id}
        until = self._clock.monotonic() + SIDE_CALL_SECONDS
        try:
            accepted = await in_time(self._start(wanted), until, self._clock)
        except QueueUnavailable as error:
            logger.warning(
                "Extra workers could not be started in time",
                extra={"event": "fanout.late", **names, "error": str(error)},
            )
            accepted = 0
        self._summary.extra_workers += accepted
        logger.info(
            "Started extra workers",
            extra={"event": "tick.fanned_out", **names}
            | {"wanted": wanted, "accepted": accepted, "due": due},
        )
