"""Worker runs in a process that stays: one at a time, started by anyone who asks, never cut short.

What Lambda is elsewhere. The database asks every minute and at arrival, the API after an enqueue.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from minutehand.clock import Clock, SystemClock
from minutehand.config import Settings
from minutehand.functions.worker.routes import Reply, Request, WorkerRoutes
from minutehand.queue.errors import QueueError
from minutehand.tasks import end_tasks
from minutehand.worker.loop import Worker
from minutehand.worker.summary import TickSummary

logger = logging.getLogger(__name__)

#: A caller by HTTP gets an answer after this time, while the run continues.
ANSWER_SECONDS: Final = 25.0


class Runs:
    """Runs of one worker; also the waker of the API in the same process.

    Args:
        budget_seconds: The longest run. Keep it above the longest job's timeout: what a run has
            to stop at its end starts again later.
    """

    def __init__(
        self, worker: Worker, *, budget_seconds: float, clock: Clock | None = None
    ) -> None:
        self._worker = worker
        self._budget = budget_seconds
        self._clock = clock or SystemClock()
        self._wakeups = asyncio.Event()
        self._run: asyncio.Task[TickSummary] | None = None

    def start(self) -> asyncio.Task[TickSummary]:
        """Start a run, or make the running one lease at once; return that run."""
        if self._run is None or self._run.done():
            self._run = asyncio.create_task(self._work(), name="worker-run")
            self._run.add_done_callback(_note_failure)
        else:
            self._wakeups.set()
        return self._run

    async def wake(self, *, reason: str = "enqueue") -> None:
        """Ask for a run now; `reason` is for logs on AWS."""
        self.start()

    async def aclose(self, *, timeout_seconds: float) -> None:
        """Stop leasing, release what runs, and close the connections."""
        self._worker.stop()
        if self._run is not None:
            _, late = await asyncio.wait({self._run}, timeout=timeout_seconds)
            await end_tasks(late)
        await self._worker.aclose()

    async def _work(self) -> TickSummary:
        while True:
            self._wakeups.clear()
            began = self._clock.monotonic()
            summary = await self._worker.tick(
                budget_seconds=self._budget,
                wakeups=self._wakeups,
                options=replace(self._worker.options, usual_seconds=self._budget),
            )
            # asked for while it ended, or out of time with work left: no one else continues at once
            ran_out = self._clock.monotonic() - began > 0.8 * self._budget and summary.due_left > 0
            if not (self._wakeups.is_set() or ran_out) or self._worker.stopping:
                return summary


def _note_failure(run: asyncio.Task[TickSummary]) -> None:
    if not run.cancelled() and (error := run.exception()) is not None:
        logger.warning(
            "Worker run failed; the next one tries again",
            extra={"event": "run.failed", "error": f"{type(error).__name__}: {error}"},
        )


class RunRoutes(WorkerRoutes):
    """The worker's routes over `Runs`: a caller that leaves, or waits too long, stops nothing."""

    def __init__(self, settings: Settings, worker: Worker, runs: Runs) -> None:
        super().__init__(settings, worker)
        self._runs = runs

    async def _tick(
        self,
        request: Request,
        budget_seconds: float,
        usual_seconds: float | None,
        job_types: list[str] | None,
    ) -> Reply:
        if job_types is not None:  # a run over some types answers what it did with them
            budget = min(budget_seconds, ANSWER_SECONDS)
            return await super()._tick(request, budget, usual_seconds, job_types)
        run = self._runs.start()
        # wait() leaves the run alone when this request is cancelled
        await asyncio.wait({run}, timeout=ANSWER_SECONDS)
        if not run.done():
            return Reply(202, {**self._head(), "success": True, "running": True})
        try:
            return self._reply(run.result())
        except QueueError as error:
            return self._refusal(error, request)
