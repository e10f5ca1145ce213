"""One task that reports all running jobs, renews their leases, and learns which must stop.

It works beside the processors, so that a long job never looks dead; nor does one whose settle is
on its way or waits for its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from minutehand.clock import Clock
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import ReportItem, ReportResult
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.attempt import Attempt, LeaseKey
from minutehand.worker.context import Taken

logger = logging.getLogger(__name__)

NOTHING = Taken(None, (), (), None)


class Reporter:
    """Sends at most one report per `interval`, and one at least every third of a lease.

    Args:
        running: The tick's running attempts; read, never written.
        settling: Those that have ended and are being settled: their leases are renewed until the
            settle was answered, else one that hangs would let another worker run the job again.
        interval: Least seconds between two reports, unless a processor waits for its step.
    """

    #: Most jobs in one report.
    BATCH = 200

    def __init__(
        self,
        queue: WorkerQueue,
        running: Mapping[LeaseKey, Attempt],
        *,
        worker_id: str,
        tick_id: str,
        clock: Clock,
        interval: float = 0.25,
        settling: Mapping[LeaseKey, Attempt] | None = None,
    ) -> None:
        self._queue = queue
        self._running = running
        self._settling = settling if settling is not None else {}
        self._worker_id = worker_id
        self._tick_id = tick_id
        self._clock = clock
        self._interval = interval
        self._wake = asyncio.Event()
        self._sent_at = float("-inf")
        self._idle = asyncio.Event()
        self._idle.set()
        self.reports = 0

    def announce(self) -> None:
        """An attempt has updates, or began."""
        self._wake.set()

    async def wait_idle(self, *, seconds: float) -> None:
        """Return once no report is on its way, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._until_something_to_say()
            batch = self._batch()
            if batch:
                await self._send(batch)

    async def _until_something_to_say(self) -> None:
        while True:
            now = self._clock.monotonic()
            self._give_up_expired(now)
            if any(attempt.is_urgent for attempt in self._reportable()):
                return
            next_at = self._next_report_at()
            if next_at is not None and next_at <= now:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_at is None else next_at - now):
                    await self._wake.wait()

    def _reportable(self) -> list[Attempt]:
        """Running attempts; the last updates of an ended one travel with its settle."""
        return [
            attempt
            for attempt in self._running.values()
            if attempt.stop_reason != "lost" and attempt.ending is None
        ]

    def _renewable(self) -> list[Attempt]:
        """Attempts that have ended, that the queue does not know of yet."""
        waiting = [attempt for attempt in self._running.values() if attempt.ending is not None]
        return [
            attempt
            for attempt in (*waiting, *self._settling.values())
            if attempt.stop_reason != "lost"
        ]

    def _next_report_at(self) -> float | None:
        """When to send next: soon for updates, at a third of the lease to renew, never if idle."""
        soon = self._sent_at + self._interval
        dues = [
            soon if attempt.updates else max(soon, attempt.renew_at)
            for attempt in self._reportable()
        ]
        dues += [max(soon, attempt.renew_at) for attempt in self._renewable()]
        return min(dues, default=None)

    def _batch(self) -> list[Attempt]:
        """Attempts with updates, and those whose renewal would come up soon anyway."""
        now = self._clock.monotonic()
        chosen = [
            attempt
            for attempt in self._reportable()
            if attempt.updates or attempt.is_urgent or now >= attempt.may_renew_at
        ]
        chosen += [attempt for attempt in self._renewable() if now >= attempt.may_renew_at]
        # those that renewed longest ago first, should there be more than fit
        chosen.sort(key=lambda attempt: (not attempt.is_urgent, attempt.renewed_at))
        return chosen[: self.BATCH]

    async def _send(self, batch: list[Attempt]) -> None:
        sent_at = self._clock.monotonic()
        # the updates of an ended one travel with its settle
        taken = [attempt.updates.take() if attempt.ending is None else NOTHING for attempt in batch]
        items = [
            ReportItem(job_id=attempt.job_id, fence=attempt.fence, **updates._asdict())
            for attempt, updates in zip(batch, taken, strict=True)
        ]
        self._sent_at = sent_at
        self._idle.clear()
        carried = [attempt for attempt in batch if attempt.ending is None]
        for attempt in carried:
            attempt.reporting = True
        delivered = refused = False
        results: list[ReportResult] = []
        try:
            results = await self._queue.report(
                items, worker_id=self._worker_id, tick_id=self._tick_id
            )
            delivered = True
        except (QueueUnavailable, TokenRefused) as error:
            logger.warning(
                "Report did not arrive; it is sent again",
                extra={"event": "report.unavailable", "jobs": len(batch), "error": str(error)},
            )
        except QueueError as error:
            delivered = refused = True
            await self._send_one_by_one(batch, items, taken, error)
        finally:
            if not delivered:
                for attempt, updates in zip(batch, taken, strict=True):
                    attempt.updates.restore(updates)
            for attempt in carried:
                attempt.reporting = False
            self._idle.set()
        self.reports += 1
        if not delivered:
            await asyncio.sleep(self._interval)
            return
        if refused:
            return
        told = {(result.job_id, result.fence): result.outcome for result in results}
        for attempt in batch:
            self._hear(attempt, told.get(attempt.key), sent_at)

    async def _send_one_by_one(
        self,
        batch: list[Attempt],
        items: list[ReportItem],
        taken: list[Taken],
        error: QueueError,
    ) -> None:
        """One item was refused and the batch with it: send them alone, without the bad one."""
        logger.warning(
            "Report was refused; its jobs are reported one by one",
            extra={"event": "report.refused", "jobs": len(batch), "error": str(error)},
        )
        for attempt, item, updates in zip(batch, items, taken, strict=True):
            sent_at = self._clock.monotonic()
            try:
                results = await self._queue.report(
                    [item], worker_id=self._worker_id, tick_id=self._tick_id
                )
            except (QueueUnavailable, TokenRefused):
                attempt.updates.restore(updates)
                continue
            except QueueError as refusal:
                logger.error(
                    "The update of a job was refused and dropped",
                    extra={
                        "event": "report.dropped",
                        "job_id": attempt.job_id,
                        "job_type": attempt.job_type,
                        "error": str(refusal),
                    },
                )
                attempt.refused(refusal)
                continue
            for result in results:
                self._hear(attempt, result.outcome, sent_at)

    def _hear(self, attempt: Attempt, outcome: str | None, sent_at: float) -> None:
        if attempt.ending is not None:  # nothing is left to stop; its settle reports the rest
            if outcome in {"ok", "cancel"}:
                attempt.renewed(sent_at)
            return
        if outcome == "ok":
            attempt.renewed(sent_at)
        elif outcome == "cancel":
            attempt.renewed(sent_at)
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
        for attempt in list(self._running.values()):
            # one chance to renew first: after a SIGSTOP the lease may still be ours
            is_over = now > attempt.lease_until and self._sent_at > attempt.lease_until
            if is_over and attempt.ending is None and attempt.stop_reason != "lost":
                self._log_stop("Lease could not be renewed in time", attempt, "lost")
                attempt.stop("lost")

    def _log_stop(self, message: str, attempt: Attempt, reason: str) -> None:
        extra: dict[str, Any] = {
            "event": f"attempt.{reason}",
            "job_id": attempt.job_id,
            "job_type": attempt.job_type,
            "attempt": attempt.lease.job.attempts,
        }
        logger.warning(message, extra=extra)
