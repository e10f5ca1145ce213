"""One task that reports all running jobs, renews their leases, and learns which must stop.

It works beside the processors, so that a long job never looks dead; nor does one whose settle is
on its way or waits for its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import ReportItem
from minutehand.worker.attempt import Attempt, LeaseKey
from minutehand.worker.updates import Taken

if TYPE_CHECKING:
    from minutehand.worker.tick import Tick

logger = logging.getLogger(__name__)


class Reporter:
    """Sends at most one report an interval, and one at least every third of a lease.

    The leases of attempts that are being settled are renewed until the settle was answered, else
    one that hangs would let another worker run the job again.
    """

    #: Most jobs in one report, and the least time between two.
    BATCH = 200
    INTERVAL_SECONDS = 0.25

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._clock = tick.clock
        self._wake = asyncio.Event()
        self._sent_at = float("-inf")
        self._idle = asyncio.Event()
        self._idle.set()

    def announce(self) -> None:
        """An attempt has updates, or began."""
        self._wake.set()

    async def wait_for(self, attempts: Sequence[Attempt], *, seconds: float) -> None:
        """Wait until what `attempts` said is not on its way: if it is lost, their settle has it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                while any(attempt.reporting for attempt in attempts):
                    await self._idle.wait()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._until_something_to_say()
            if batch := self._batch():
                await self._send(batch)

    async def _until_something_to_say(self) -> None:
        while True:
            now = self._clock.monotonic()
            self._give_up_expired(now)
            next_at = self._next_report_at()
            if next_at is not None and next_at <= now:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_at is None else next_at - now):
                    await self._wake.wait()

    def _known(self) -> list[Attempt]:
        """Attempts whose leases are this worker's, also those that have ended."""
        known = (*self._tick.running.values(), *self._tick.settling.values())
        return [attempt for attempt in known if attempt.stop_reason != "lost"]

    def _next_report_at(self) -> float | None:
        """When to send next: at once for a step, soon for updates, else to renew; None if idle."""
        soon = self._sent_at + self.INTERVAL_SECONDS
        dues = []
        for attempt in self._known():
            is_running = attempt.ending is None
            if is_running and attempt.is_urgent:
                return float("-inf")
            has_news = is_running and attempt.updates
            dues.append(soon if has_news else max(soon, attempt.renew_at))
        return min(dues, default=None)

    def _batch(self) -> list[Attempt]:
        """Attempts with updates, and those whose renewal would come up soon anyway."""
        now = self._clock.monotonic()
        chosen = [
            attempt
            for attempt in self._known()
            if now >= attempt.may_renew_at
            or (attempt.ending is None and (attempt.updates or attempt.is_urgent))
        ]
        # those that renewed longest ago first, should there be more than fit
        chosen.sort(key=lambda attempt: (not attempt.is_urgent, attempt.renew_at))
        return chosen[: self.BATCH]

    async def _send(self, batch: list[Attempt]) -> None:
        sent_at = self._sent_at = self._clock.monotonic()
        # the updates of one that has ended travel with its settle
        taken = [attempt.updates.take() if attempt.ending is None else Taken() for attempt in batch]
        for attempt in batch:
            attempt.reporting = attempt.ending is None
        self._idle.clear()
        problem: QueueError | None = QueueUnavailable("the report was cut off")
        outcomes: dict[LeaseKey, str] = {}
        try:
            items = [
                ReportItem(job_id=attempt.job_id, fence=attempt.fence, **updates._asdict())
                for attempt, updates in zip(batch, taken, strict=True)
            ]
            results = await self._tick.queue.report(
                items, worker_id=self._tick.names["worker_id"], tick_id=self._tick.tick_id
            )
            outcomes = {(result.job_id, result.fence): result.outcome for result in results}
            problem = None
        except QueueError as error:
            problem = error
        finally:
            is_refused = not isinstance(problem, QueueUnavailable | TokenRefused | None)
            for attempt, updates in zip(batch, taken, strict=True):
                if problem is not None and (len(batch) > 1 or not is_refused):
                    attempt.updates.restore(updates)
                attempt.reporting = False
            self._idle.set()
        self._tick.summary.reports += 1
        if problem is None:
            for attempt in batch:
                self._obey(attempt, outcomes.get(attempt.key), sent_at)
        elif not is_refused:
            logger.warning(
                "Report did not arrive; it is sent again",
                extra={"event": "report.unavailable", "jobs": len(batch), "error": str(problem)},
            )
            await asyncio.sleep(self.INTERVAL_SECONDS)
        elif len(batch) > 1:  # one item was refused and the batch with it
            for attempt in batch:
                await self._send([attempt])
        else:
            logger.error(
                "The update of a job was refused and dropped",
                extra={"event": "report.dropped", "error": str(problem), **batch[0].names},
            )
            batch[0].stored(problem)

    def _obey(self, attempt: Attempt, outcome: str | None, sent_at: float) -> None:
        """Renew or stop an attempt as the queue says, and release those who wait for its step."""
        if outcome in {"ok", "cancel"}:
            attempt.renewed(sent_at)
        if attempt.ending is not None:  # nothing is left to stop; its settle reports the rest
            return
        if outcome == "cancel":
            if attempt.stop_reason is None:
                self._log_stop("Job was cancelled; its processor is stopped", attempt, "cancel")
            attempt.stop("cancel")
        elif outcome == "lost":
            self._log_stop("Lease was lost; the processor is stopped", attempt, "lost")
            attempt.stop("lost")
        if not attempt.updates:
            attempt.stored()

    def _give_up_expired(self, now: float) -> None:
        """Stop what we could not renew for a whole lease: another worker may have it by now."""
        for attempt in list(self._tick.running.values()):
            # one chance to renew first: after a SIGSTOP the lease may still be ours
            is_over = now > attempt.lease_until and self._sent_at > attempt.lease_until
            if is_over and attempt.ending is None and attempt.stop_reason != "lost":
                self._log_stop("Lease could not be renewed in time", attempt, "lost")
                attempt.stop("lost")

    def _log_stop(self, message: str, attempt: Attempt, reason: str) -> None:
        attempts = attempt.lease.job.attempts
        extra = {"event": f"attempt.{reason}", "attempt": attempts, **attempt.names}
        logger.warning(message, extra=extra)
