"""A worker: what stays between ticks, and the loop that ticks where no scheduler does.

On Lambda each invocation is one `tick`; on a machine of your own `run_forever` does the calling.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from minutehand.clock import Clock, SystemClock
from minutehand.config import Settings
from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.queue.models import ReportItem
from minutehand.queue.worker_client import WorkerQueue
from minutehand.tasks import end_tasks
from minutehand.worker.channel import Channel
from minutehand.worker.deadlines import TickOptions
from minutehand.worker.fanout import FanOut, StartExtraWorkers
from minutehand.worker.registry import Registry, default_registry
from minutehand.worker.summary import TickSummary
from minutehand.worker.tick import Tick

logger = logging.getLogger(__name__)


#: How long a run without a deadline counts as running if it never reports its end.
LONGEST_RUN_SECONDS = 86_400.0


class Worker:
    """Holds what outlives a tick: connections, the registry, the identity.

    Args:
        settings: Where the queue is and how to sign in.
        registry: The processors; the default one when None.
        worker_id: The identity that holds leases; made from host and process when None.
        start_extra_workers: Starts more workers and returns how many were accepted.
        most: Most bounded runs of all workers at once, see `tick`; None for no bound.
        on_tick: Called with each finished tick, e.g. to write its metrics.
        channel: To the process that supervises this one, which learns of each attempt by it.
    """

    #: Maintenance of the project runs at the first tick, and as often as this.
    MAINTAIN_EVERY_SECONDS = 3600.0
    #: A tick with less time left than this leaves that to the next one.
    MAINTAIN_SECONDS = 3.0
    #: Trailing check after a wake-up: a commit may become visible just after we looked.
    TRAILING_SECONDS = 0.1

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry | None = None,
        queue: WorkerQueue | None = None,
        worker_id: str | None = None,
        options: TickOptions | None = None,
        clock: Clock | None = None,
        fan_out: FanOut | None = None,
        start_extra_workers: StartExtraWorkers | None = None,
        most: int | None = None,
        on_tick: Callable[[Tick], None] | None = None,
        channel: Channel | None = None,
    ) -> None:
        self.settings = settings
        self.registry = default_registry if registry is None else registry
        self.queue = queue or WorkerQueue(settings)
        self.worker_id = worker_id or default_worker_id()
        options = options or TickOptions(
            concurrency=settings.worker_concurrency, version=settings.version
        )
        code = {"commit": settings.commit, "source": settings.source}
        told = {name: value for name, value in code.items() if value} | (options.origin or {})
        self.options = replace(options, origin=told or None)
        self._clock = clock or SystemClock()
        self._fan_out = fan_out
        self._start_extra_workers = start_extra_workers
        self._most = most
        self._on_tick = on_tick
        self._channel = channel
        self._registered: object = None
        self._maintain_at = float("-inf")
        self._stopping = asyncio.Event()
        #: Of the run that leases now, while `run_forever` continues.
        self._draining: asyncio.Event | None = None
        #: Runs that lease no more and bring their jobs to an end.
        self._drained: set[asyncio.Task[TickSummary]] = set()

    async def register(self, *, force: bool = False) -> None:
        """Publish the registry's job types, once unless it changed or `force` is given."""
        names = self.registry.names
        if not names or (self._registered == names and not force):
            return
        await self.queue.register_job_types(self.registry.specs())
        self._registered = names
        logger.info(
            "Job types registered",
            extra={"event": "worker.registered", "job_types": list(names)},
        )

    def adopt(self, registry: Registry) -> None:
        """Run these processors from now on; what runs already ends as it began.

        The run that leases now leases nothing more: `run_forever` publishes the new types and
        begins another one beside it at once, however long the old one's jobs take.
        """
        self.registry = registry
        self._registered = None
        if self._draining is not None:
            self._draining.set()

    async def tick(
        self,
        *,
        budget_seconds: float = math.inf,
        job_types: Sequence[str] | None = None,
        fan_out: bool = True,
        wakeups: asyncio.Event | None = None,
        options: TickOptions | None = None,
        draining: asyncio.Event | None = None,
    ) -> TickSummary:
        """Run one tick.

        With a bound on workers it first asks to be admitted; one that is not leases nothing and
        returns at once, with `crowded_out` in its summary. What waits is found by those that run:
        when one was refused beside this one, which may have had its last look, it looks again.

        Args:
            budget_seconds: Time until the tick must be over, e.g. what Lambda says remains.
            job_types: Only these; None for all that have a processor.
            fan_out: Whether this tick may start extra workers; false for an extra worker itself.
            wakeups: Set it to make the running tick lease at once.
            draining: Set it to make the tick lease nothing more and end with its last job.

        Raises:
            QueueUnavailable: The database did not answer; nothing began.
        """
        ends_at = self._clock.monotonic() + budget_seconds
        await self.register()
        if self._most is None:
            return await self._run_tick(
                ends_at, job_types, self._fan_out if fan_out else None, wakeups, options, draining
            )
        tick = partial(
            self._admitted_tick,
            self._most, ends_at, job_types, fan_out, wakeups, options, draining,
        )  # fmt: skip
        summary, refused = await tick()
        while refused and self._may_look_again(ends_at, draining):
            try:
                again, refused = await tick()
            except QueueError as error:
                logger.warning(
                    "The run could not look again for the work of one that was refused",
                    extra={"event": "tick.not_repeated", "error": str(error)},
                )
                break
            if again.is_worth_reporting:
                summary = again
        return summary

    def _may_look_again(self, ends_at: float, draining: asyncio.Event | None) -> bool:
        return (
            ends_at - self._clock.monotonic() > self.MAINTAIN_SECONDS
            and not self._stopping.is_set()
            and not (draining is not None and draining.is_set())
        )

    async def _admitted_tick(
        self,
        most: int,
        ends_at: float,
        job_types: Sequence[str] | None,
        fan_out: bool,
        wakeups: asyncio.Event | None,
        options: TickOptions | None,
        draining: asyncio.Event | None,
    ) -> tuple[TickSummary, bool]:
        """Run a tick if one more may run; also whether another was refused beside it."""
        run_id = str(uuid.uuid4())
        admission = await self.queue.begin_run(
            run_id,
            worker_id=self.worker_id,
            most=most,
            seconds=min(max(0.0, ends_at - self._clock.monotonic()), LONGEST_RUN_SECONDS),
        )
        if not admission.admitted:
            logger.info(
                "The most workers allowed are running; they lease the waiting jobs",
                extra={"event": "tick.crowded_out", "most": most},
            )
            crowded = TickSummary(worker_id=self.worker_id, tick_id=run_id, crowded_out=True)
            return crowded, False
        policy = None
        if fan_out and self._fan_out is not None:
            policy = replace(self._fan_out, most=min(self._fan_out.most, admission.free))
        is_last = admission.free == 0
        try:
            summary = await self._run_tick(
                ends_at, job_types, policy, wakeups, options, draining, is_last=is_last
            )
        finally:
            refused = await self._end_run(run_id)
        return summary, refused

    async def _end_run(self, run_id: str) -> bool:
        """Make room; True when another run was refused meanwhile."""
        try:
            return await self.queue.end_run(run_id)
        except QueueError as error:
            logger.warning(
                "The end of the run was not recorded; it counts as running until its time is over",
                extra={"event": "tick.end_not_noted", "error": str(error)},
            )
            return False

    async def _run_tick(
        self,
        ends_at: float,
        job_types: Sequence[str] | None,
        fan_out: FanOut | None,
        wakeups: asyncio.Event | None,
        options: TickOptions | None,
        draining: asyncio.Event | None,
        *,
        is_last: bool = False,
    ) -> TickSummary:
        tick = Tick(
            self.queue,
            self.registry,
            worker_id=self.worker_id,
            budget_seconds=ends_at - self._clock.monotonic(),
            options=options or self.options,
            job_types=job_types,
            clock=self._clock,
            fan_out=fan_out,
            start_extra_workers=None if fan_out is None else self._start_extra_workers,
            wakeups=wakeups,
            renew_outside=self._renew_outside,
            stopping=self._stopping,
            draining=draining,
            is_last=is_last,
            channel=self._channel,
        )
        summary = await tick.run()
        if self._on_tick is not None:
            self._on_tick(tick)
        # after the jobs, which never wait for it
        if ends_at - self._clock.monotonic() > self.MAINTAIN_SECONDS:
            await self._maintain_project()
        return summary

    async def _maintain_project(self) -> None:
        """Attach extensions that came later."""
        now = self._clock.monotonic()
        if now < self._maintain_at:
            return
        self._maintain_at = now + self.MAINTAIN_EVERY_SECONDS
        try:
            async with asyncio.timeout(self.MAINTAIN_SECONDS):
                attached = await self.queue.attach_extensions()
        except (QueueError, TimeoutError) as error:
            # e.g. a schema of the release before: nothing that a job needs
            logger.info(
                "Maintenance of the project failed",
                extra={"event": "project.unknown", "error": str(error)},
            )
            return
        if problems := attached.get("problems"):
            logger.warning(
                "An extension could not be attached",
                extra={"event": "extensions.refused", "problems": problems},
            )

    async def run_forever(
        self,
        wakeups: asyncio.Event | None = None,
        *,
        poll_seconds: float = 1.0,
        full_tick_seconds: float = 60.0,
    ) -> None:
        """Tick on every wake-up, when work falls due, and every `poll_seconds`; until `stop`.

        Args:
            wakeups: Set it after an enqueue. Without it the poll alone finds work.
            full_tick_seconds: How often a tick is logged even if it finds nothing.
        """
        wakeups = wakeups or asyncio.Event()
        quiet = replace(self.options, quiet=True, linger_seconds=0.0)
        logger.info(
            "Worker loop started",
            extra={"event": "worker.started", "worker_id": self.worker_id},
        )
        loud_at = float("-inf")
        failures = 0
        while not self._stopping.is_set():
            now = self._clock.monotonic()
            loud = now - loud_at >= full_tick_seconds
            if loud:
                loud_at = now
            woken = wakeups.is_set()
            wakeups.clear()
            try:
                summary = await self._tick_until_replaced(
                    wakeups, options=replace(quiet, quiet=not loud)
                )
                failures = 0
            except QueueUnavailable as error:
                failures += 1
                pause = min(5.0, 0.2 * 2 ** min(failures, 6))
                logger.warning(
                    "Queue is unavailable; the loop tries again",
                    extra={
                        "event": "worker.unavailable",
                        "error": str(error),
                        "pause_seconds": pause,
                    },
                )
                await self._pause(pause, wakeups=wakeups)
                continue
            except QueueError as error:
                logger.error(
                    "Queue refused the worker",
                    extra={"event": "worker.refused", "error": str(error)},
                )
                await self._pause(5.0, wakeups=None)
                continue
            if summary is None:
                continue
            wait = poll_seconds
            if woken and summary.leased == 0:
                wait = self.TRAILING_SECONDS
            if summary.next_due_in_ms is not None:
                wait = min(wait, max(0.005, summary.next_due_in_ms / 1000))
            await self._pause(wait, wakeups=wakeups)
        await asyncio.gather(*self._drained, return_exceptions=True)
        logger.info(
            "Worker loop stopped",
            extra={"event": "worker.stopped", "worker_id": self.worker_id},
        )

    async def _tick_until_replaced(
        self, wakeups: asyncio.Event, *, options: TickOptions
    ) -> TickSummary | None:
        """Run one tick; None when `adopt` has replaced it, which then ends beside the next one."""
        draining = self._draining = asyncio.Event()
        run = asyncio.create_task(
            self.tick(wakeups=wakeups, options=options, draining=draining), name="tick"
        )
        replaced = asyncio.create_task(draining.wait(), name="replaced")
        try:
            await asyncio.wait({run, replaced}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await end_tasks([run])
            raise
        finally:
            replaced.cancel()
            self._draining = None
        if run.done():
            return run.result()
        self._drained.add(run)
        run.add_done_callback(self._drain_ended)
        return None

    def _drain_ended(self, run: asyncio.Task[TickSummary]) -> None:
        self._drained.discard(run)
        if not run.cancelled() and (error := run.exception()) is not None:
            logger.error(
                "A replaced run has failed; its jobs run again when their leases expire",
                extra={"event": "worker.drain_failed", "error": str(error)},
            )

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End the loop: nothing more is leased, running jobs are stopped and released."""
        self._stopping.set()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.queue.aclose()

    async def _pause(self, seconds: float, *, wakeups: asyncio.Event | None) -> None:
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._stopping.wait())]
        if wakeups is not None:
            waits.append(asyncio.create_task(wakeups.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(waits)

    def _renew_outside(self, items: Sequence[ReportItem], worker_id: str, tick_id: str) -> None:
        """Renew from the watchdog's thread, over its own connections and loop."""

        async def renew() -> None:
            queue = WorkerQueue(self.settings)
            try:
                await queue.report(items, worker_id=worker_id, tick_id=tick_id)
            finally:
                await queue.aclose()

        asyncio.run(renew())


def default_worker_id() -> str:
    """Host, process and a random part: two workers never share it, not even after a fork."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
