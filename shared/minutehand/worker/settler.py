"""Settles attempts. Settlements are retried until the queue responds or the time is over."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from minutehand.queue.data_api import encode
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import (
    ErrorInfo,
    LeaseRequest,
    LeaseResponse,
    SettleItem,
    SettleResponse,
    SettleResult,
)
from minutehand.worker.attempt import Attempt
from minutehand.worker.deadlines import in_time
from minutehand.worker.run import LeaseKey, Run
from minutehand.worker.serialization import text

logger = logging.getLogger(__name__)

#: Thread for redaction only, because processors may occupy all threads of the event loop.
_THREAD = ThreadPoolExecutor(1, "settlement")


class Settler:
    """Settles the attempts of one worker run, and counts the outcomes in its summary."""

    #: Maximum items of one call, and approximate maximum bytes of one call.
    BATCH = 500
    BATCH_BYTES = 1_000_000
    #: Seconds before a settlement is repeated. The pause doubles up to the maximum.
    RETRY_DELAY_SECONDS = 0.3
    MAX_RETRY_DELAY_SECONDS = 5.0
    #: Maximum INFO lines for settled jobs per second. One more line counts the settled jobs that
    #: got no line.
    LINES_PER_SECOND = 100

    def __init__(self, run: Run) -> None:
        self._run = run
        self._summary = run.summary
        #: Items whose job's row was locked, and which are settled again later.
        self.busy: list[SettleItem] = []
        self._period = self._logged = self._skipped_lines = 0

    async def redacted_item(self, attempt: Attempt) -> SettleItem | None:
        """Build the item to settle in a thread, because redaction would block the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_THREAD, copy_context().run, self.build_item, attempt)

    def build_item(self, attempt: Attempt) -> SettleItem | None:
        """Return an attempt's item to settle, or None if nothing may be stored.

        If the values of one attempt cannot be serialized, only this attempt fails.
        """
        try:
            item = attempt.settlement()
            if item is not None and not item.is_light:
                encode(item.wire())
        except BaseException as error:
            logger.exception(
                "The outcome of an attempt could not be serialized; the attempt fails",
                extra=self._run.extra("attempt.unwritten") | attempt.names,
            )
            message = f"the outcome of the attempt could not be serialized: {text(error, 500)}"
            return SettleItem(
                job_id=attempt.job_id,
                fence=attempt.fence,
                outcome="failed",
                error=ErrorInfo(type=type(error).__name__, message=message),
            )
        return item

    async def settle(
        self,
        items: Sequence[SettleItem],
        attempts: Mapping[LeaseKey, Attempt],
        lease: LeaseRequest | None,
    ) -> LeaseResponse | None:
        """Settle `items`. With `lease`, the last call also leases the next jobs."""
        lease_response: LeaseResponse | None = None
        batches = list(self._batches(items))
        for batch in batches:
            is_last = batch is batches[-1]
            lease_response = await self._settle_batch(batch, attempts, lease if is_last else None)
        return lease_response

    def _batches(self, items: Sequence[SettleItem]) -> Iterator[list[SettleItem]]:
        batch: list[SettleItem] = []
        size = 0
        for item in items:
            # measure only items that may be large, because measuring takes time
            bytes_ = 200 if item.is_light else len(encode(item.wire()))
            if batch and (len(batch) >= self.BATCH or size + bytes_ > self.BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += bytes_
        if batch:
            yield batch

    async def _settle_batch(
        self,
        items: Sequence[SettleItem],
        attempts: Mapping[LeaseKey, Attempt],
        lease: LeaseRequest | None,
    ) -> LeaseResponse | None:
        try:
            response = await self._settle_with_retry(items, lease)
        except QueueError as error:
            extra = {"job_ids": [item.job_id for item in items[:20]], "error": str(error)}
            if isinstance(error, QueueUnavailable | TokenRefused):
                # the leases expire, and the jobs run again. Jobs are executed at least once, so a
                # job may run again.
                self._summary.lost += len(items)
                self._summary.error = str(error)
                logger.error(
                    "A settlement failed; its jobs run again when their leases expire",
                    extra=self._run.extra("settle.lost") | extra,
                )
                return None
            logger.error(
                "The queue rejected a settlement", extra=self._run.extra("settle.refused") | extra
            )
            if len(items) > 1:
                # settle each item alone to find the rejected item
                for item in items:
                    await self._settle_batch([item], attempts, None)
            elif items[0].error is None or items[0].error.type != REJECTED:
                await self._settle_batch([_rejected(items[0], error)], attempts, None)
            return None
        done = items
        if busy := {(r.job_id, r.fence) for r in response.results if r.outcome == "busy"}:
            self.busy += [item for item in items if (item.job_id, item.fence) in busy]
            done = [item for item in items if (item.job_id, item.fence) not in busy]
        for result in [each for each in response.results if each.error][:1]:
            self._warn(result.error)
        self._log_outcome(done, response.results, attempts)
        return response.lease

    async def _settle_with_retry(
        self, items: Sequence[SettleItem], lease: LeaseRequest | None
    ) -> SettleResponse:
        """Settle the items. Retry while the queue is unavailable, until the run's deadline."""
        run = self._run
        delay = self.RETRY_DELAY_SECONDS
        while True:
            call = run.queue.settle(items, lease=lease)
            try:
                # wait until the deadline, because a repeated call would do the same work twice
                return await in_time(call, run.deadlines.end, run.clock)
            except (QueueUnavailable, TokenRefused) as error:
                # also retry after a rejected token, because the next try creates a new token
                last_error = error
            if run.seconds_left() <= self.RETRY_DELAY_SECONDS or run.stop_event.is_set():
                raise last_error
            self._warn(str(last_error))
            await asyncio.sleep(min(delay, max(self.RETRY_DELAY_SECONDS, run.seconds_left() / 4)))
            delay = min(self.MAX_RETRY_DELAY_SECONDS, delay * 2)

    def _warn(self, error: str | None) -> None:
        extra = self._run.extra("settle.repeated") | {"error": error}
        logger.warning("Settling again", extra=extra)

    def _log_outcome(
        self,
        items: Sequence[SettleItem],
        results: Sequence[SettleResult],
        attempts: Mapping[LeaseKey, Attempt],
    ) -> None:
        by_key = {(result.job_id, result.fence): result for result in results}
        for item in items:
            result = by_key.get((item.job_id, item.fence))
            outcome = "stale" if result is None else result.outcome
            if outcome == "applied":
                self._summary.count(item.outcome)
            elif outcome == "cancelled":
                self._summary.cancelled += 1
            else:
                self._summary.lost += 1
            attempt = attempts.get((item.job_id, item.fence))
            if attempt is not None:
                self._log(attempt, item, outcome, None if result is None else result.status)

    def _log(self, attempt: Attempt, item: SettleItem, outcome: str, status: str | None) -> None:
        """Log one line with the facts about an ended attempt."""
        ended = status if status in {"failed", "cancelled"} else item.outcome
        if outcome in {"stale", "not_found"}:
            level, text = logging.WARNING, "was settled by another worker"
        else:
            level, text = _LOG_TEXTS.get(ended) or (logging.INFO, f"is now {ended}")
        if (level == logging.INFO and not self._can_log()) or not logger.isEnabledFor(level):
            return
        job = attempt.lease.job
        extra = self._run.extra("attempt.settled") | {
            **attempt.names,
            "queue": job.queue,
            "workspace_id": job.workspace_id,
            "attempt": job.attempts,
            "fence": attempt.fence,
            "outcome": item.outcome,
            "settled": outcome,
            "status": status,
            "duration_ms": item.duration_ms,
            "traceparent": attempt.traceparent,
        }
        if item.error is not None:
            extra |= {"error_type": item.error.type, "error": item.error.message}
        raised = attempt.result.error if attempt.result and level > logging.INFO else None
        logger.log(level, "Job %s %s", attempt.job_id, text, extra=extra, exc_info=raised)

    def _can_log(self) -> bool:
        """Return whether a line may be logged in this second.

        If no line may be logged, count the job for a summary.
        """
        second = int(self._run.clock.monotonic())
        if second != self._period:
            self.log_summary()
            self._period, self._logged = second, 0
        self._logged += 1
        self._skipped_lines += self._logged > self.LINES_PER_SECOND
        return self._logged <= self.LINES_PER_SECOND

    def log_summary(self) -> None:
        """Log the number of settled jobs that got no line of their own."""
        if self._skipped_lines:
            extra = self._run.extra("attempts.settled") | {"jobs": self._skipped_lines}
            logger.info("%d more jobs were settled as they ended", self._skipped_lines, extra=extra)
            self._skipped_lines = 0


#: Log level and text of a log line by outcome.
_LOG_TEXTS = {
    "failed": (logging.ERROR, "failed and is not retried"),
    "retry": (logging.WARNING, "failed and is retried"),
    "completed": (logging.INFO, "completed successfully"),
}
#: Error type of a job whose outcome the database rejected.
REJECTED = "SettleRejected"


def _rejected(item: SettleItem, error: QueueError) -> SettleItem:
    """Return an item with the same outcome, without values that the database may reject."""
    keeps_outcome = item.outcome in {"released", "cancelled", "retry"}
    text = f"the database rejected the outcome {item.outcome}: {error}"[:2000]
    return SettleItem(
        job_id=item.job_id,
        fence=item.fence,
        outcome=item.outcome if keeps_outcome else "failed",
        error=ErrorInfo(type=REJECTED, message=text),
        duration_ms=item.duration_ms,
    )
