"""Two background tasks for running jobs, of which one reports updates and one renews leases.

The two tasks also run during settlements, so that no lease of a live job expires. The tasks are
separate, so that a report that waits for a lock does not delay renewals.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from minutehand.queue.data_api import encode
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import ReportItem, ReportResult
from minutehand.worker.attempt import Attempt
from minutehand.worker.in_flight import InFlight
from minutehand.worker.run import LeaseKey, Run
from minutehand.worker.updates import UpdateBatch

logger = logging.getLogger(__name__)


class Reporter:
    """Sends reports of running jobs at intervals, and renews each lease every few seconds.

    At most one report and one renewal are in flight. A failed call is repeated after a growing
    delay.
    """

    #: Maximum jobs of one report, approximate maximum bytes of one report, maximum bytes of log
    #: rows per job, and minimum seconds between two reports.
    BATCH = 200
    BATCH_BYTES = 1_000_000
    LOG_BYTES = 250_000
    INTERVAL_SECONDS = 0.25
    #: Maximum delay after failed reports, and after failed renewals.
    MAX_DELAY_SECONDS = 5.0
    MAX_RENEW_DELAY_SECONDS = 1.0
    #: Seconds before the updates of a job are sent again after its row was locked.
    BUSY_SECONDS = 1.0

    def __init__(self, run: Run, in_flight: InFlight) -> None:
        self._run = run
        self._in_flight = in_flight
        self._clock = run.clock
        self._updates_event = asyncio.Event()
        self._renewal_event = asyncio.Event()
        self._full_report_at = self._renewed_at = float("-inf")
        #: Time at which the next renewal is due.
        self._renewal_at: float | None = None
        self._idle = asyncio.Event()

    def notify_updates(self) -> None:
        """Record that an attempt has updates."""
        self._updates_event.set()

    def begin(self, report_due_at: float) -> None:
        """Record the start of attempts, whose first report is due at `report_due_at`."""
        if self._renewal_at is None or report_due_at < self._renewal_at:
            self._renewal_event.set()

    async def wait_for(self, attempts: Sequence[Attempt], *, seconds: float) -> None:
        """Wait until no report of `attempts` is in flight.

        A settlement sends lost updates again.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                while any(attempt.has_open_report for attempt in attempts):
                    await self._idle.wait()

    async def report(self) -> None:
        """Send reports of updates until this task is cancelled."""
        retries = 0
        while True:
            await self._until(self._updates_event, self._next_report_at)
            if batch := self._with_updates_due():
                arrived = await self._send(batch)
                retries = 0 if arrived else retries + 1
                await self._wait_after(retries, self.MAX_DELAY_SECONDS)

    async def renew(self) -> None:
        """Renew leases and stop cancelled jobs, until this task is cancelled."""
        retries = 0
        while True:
            await self._until(self._renewal_event, self._next_renewal_at)
            if batch := self._due_for_report():
                self._renewed_at = self._clock.monotonic()
                arrived = await self._call(batch, [UpdateBatch()] * len(batch)) is None
                retries = 0 if arrived else retries + 1
                await self._wait_after(retries, self.MAX_RENEW_DELAY_SECONDS)

    async def _until(self, wake: asyncio.Event, when: Callable[[], float | None]) -> None:
        while True:
            now = self._clock.monotonic()
            self._give_up_expired(now)
            at = when()
            if at is not None and at <= now:
                return
            wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if at is None else at - now):
                    await wake.wait()

    async def _wait_after(self, retries: int, max_seconds: float) -> None:
        if retries:
            await asyncio.sleep(min(max_seconds, self.INTERVAL_SECONDS * 2 ** min(retries - 1, 8)))

    def _known(self) -> list[Attempt]:
        """Return running and ended attempts that still have their leases."""
        return [attempt for attempt in self._in_flight.attempts() if attempt.stop_reason != "lost"]

    def _next_report_at(self) -> float | None:
        """Return the time of the next report, or None if no attempt has updates."""
        return min(map(self._report_at, self._with_updates()), default=None)

    def _report_at(self, attempt: Attempt) -> float:
        """Return when an attempt's updates are due.

        Updates for which a caller waits are due now, and other updates at intervals.
        """
        if attempt.busy_until is not None:
            return attempt.busy_until
        if attempt.is_urgent:
            return float("-inf")
        if not attempt.updates.has_updates:
            return attempt.output_at
        return min(self._full_report_at + self.INTERVAL_SECONDS, attempt.output_at)

    def _with_updates(self) -> list[Attempt]:
        known = (attempt for attempt in self._known() if attempt.result is None)
        return [attempt for attempt in known if attempt.updates or attempt.is_urgent]

    def _next_renewal_at(self) -> float | None:
        self._renewal_at = min((attempt.report_due_at() for attempt in self._known()), default=None)
        return self._renewal_at

    def _with_updates_due(self) -> list[Attempt]:
        now = self._clock.monotonic()
        attempts = [
            attempt for attempt in self._with_updates() if (attempt.busy_until or now) <= now
        ]
        if not self._is_full_report(attempts):
            attempts = [attempt for attempt in attempts if attempt.output_at <= now]
        # the attempts that have waited longest come first, because one report may not contain all
        attempts.sort(key=lambda attempt: (not attempt.is_urgent, attempt.report_due_at()))
        return attempts[: self.BATCH]

    def _is_full_report(self, batch: Sequence[Attempt]) -> bool:
        """Return whether to report all updates now.

        If the result is false, the next report contains only output.
        """
        is_time = self._clock.monotonic() >= self._full_report_at + self.INTERVAL_SECONDS
        return any(
            attempt.is_urgent or (is_time and attempt.updates.has_updates) for attempt in batch
        )

    def _due_for_report(self) -> list[Attempt]:
        now = self._clock.monotonic()
        attempts = [attempt for attempt in self._known() if now >= attempt.report_due_at(0.75)]
        attempts.sort(key=Attempt.report_due_at)
        return attempts[: self.BATCH]

    async def _send(self, batch: list[Attempt]) -> bool:
        """Send the updates that fit into one call. Return whether the report arrived."""
        now = self._clock.monotonic()
        if is_full := self._is_full_report(batch):
            self._full_report_at = now
        attempts: list[Attempt] = []
        taken: list[UpdateBatch] = []
        size = 0
        for attempt in batch:
            if size > self.BATCH_BYTES:
                break  # the next report contains the other attempts
            updates = attempt.updates.take(max_bytes=self.LOG_BYTES, is_full=is_full)
            if updates.output:
                attempt.output_sent_at = now
            if updates.logs or updates.steps or updates.output:
                size += len(encode(updates))
            attempts.append(attempt)
            taken.append(updates)
            attempt.has_open_report = True
        self._idle.clear()
        # if this task is cancelled during the call, the settlement sends the updates
        error: QueueError | None = QueueUnavailable("the report was cancelled")
        for attempt in attempts:
            attempt.busy_until = None
        try:
            error = await self._call(attempts, taken)
        finally:
            is_rejected = _is_rejection(error)
            for attempt, updates in zip(attempts, taken, strict=True):
                is_lost = error is not None and (len(attempts) > 1 or not is_rejected)
                if is_lost or attempt.busy_until is not None:
                    attempt.updates.restore(updates)
                attempt.has_open_report = False
            self._idle.set()
        if is_rejected and len(attempts) > 1:  # send each attempt alone to find the rejected one
            for attempt in attempts:
                await self._send([attempt])
            return True
        if is_rejected and error is not None:
            logger.error(
                "The updates of a job were rejected and dropped",
                extra={"event": "report.dropped", "error": str(error), **attempts[0].names},
            )
            attempts[0].finish_flush(error)
            return True
        for attempt in attempts if error is None else ():
            is_reported = not attempt.updates and attempt.busy_until is None
            if attempt.result is None and is_reported:
                attempt.finish_flush()
        return error is None

    async def _call(
        self, batch: Sequence[Attempt], updates: Sequence[UpdateBatch]
    ) -> QueueError | None:
        """Send one report and apply its results.

        Return the error of a report that did not arrive.
        """
        sent_at = self._clock.monotonic()
        items = [
            ReportItem(
                job_id=attempt.job_id,
                fence=attempt.fence,
                pulse=attempt.pulse(has_updates=any(update)),
                **update._asdict(),
            )
            for attempt, update in zip(batch, updates, strict=True)
        ]
        self._run.summary.reports += 1
        try:
            results = await self._run.queue.report(items)
        except QueueError as error:
            if not _is_rejection(error):
                logger.warning(
                    "A report failed and is sent again",
                    extra={"event": "report.unavailable", "jobs": len(batch), "error": str(error)},
                )
            return error
        by_key: dict[LeaseKey, ReportResult] = {
            (result.job_id, result.fence): result for result in results
        }
        for attempt in batch:
            if (result := by_key.get(attempt.key)) is not None:
                self._apply_result(attempt, result.outcome, sent_at)
                if result.output is not None:
                    attempt.has_reader = result.output == "followed"
                if result.output == "refused":
                    attempt.updates.drop_output()
        return None

    def _apply_result(self, attempt: Attempt, outcome: str, sent_at: float) -> None:
        if outcome in {"ok", "cancel", "busy"}:
            attempt.mark_reported(sent_at)
        if outcome == "busy":  # another transaction has locked the job's row
            attempt.busy_until = self._clock.monotonic() + self.BUSY_SECONDS
        if attempt.result is not None:  # the settlement reports the remaining updates
            return
        if outcome == "cancel":
            if attempt.stop_reason is None:
                self._log_stop("Job was cancelled; its processor is stopped", attempt, "cancel")
            attempt.stop("cancel")
        elif outcome == "lost":
            self._log_stop("Lease was lost; the processor is stopped", attempt, "lost")
            attempt.stop("lost")

    def _give_up_expired(self, now: float) -> None:
        """Stop jobs whose leases were not renewed in time, because other workers may have them."""
        for attempt in list(self._in_flight.running.values()):
            # stop a job only after a renewal that failed, because the lease may still be valid
            # after a SIGSTOP
            has_expired = now > attempt.lease_until and self._renewed_at > attempt.lease_until
            if has_expired and attempt.result is None and attempt.stop_reason != "lost":
                self._log_stop("Lease could not be renewed in time", attempt, "lost")
                attempt.stop("lost")

    def _log_stop(self, message: str, attempt: Attempt, reason: str) -> None:
        attempts = attempt.lease.job.attempts
        extra = {"event": f"attempt.{reason}", "attempt": attempts, **attempt.names}
        logger.warning(message, extra=extra)


def _is_rejection(error: QueueError | None) -> bool:
    return not isinstance(error, QueueUnavailable | TokenRefused | None)
