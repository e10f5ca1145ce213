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
from typing import Any

from minutehand.clock import Clock, SystemClock
from minutehand.config import Settings
from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.queue.models import ReportItem
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.deadlines import TickOptions
from minutehand.worker.fanout import FanOut, StartExtraWorkers
from minutehand.worker.registry import Registry, default_registry
from minutehand.worker.summary import TickSummary
from minutehand.worker.tick import Tick

logger = logging.getLogger(__name__)


class Worker:
    """Holds what outlives a tick: connections, the registry, the identity.

    Args:
        settings: Where the queue is and how to sign in.
        registry: The processors; the default one when None.
        worker_id: The identity that holds leases; made from host and process when None.
        start_extra_workers: Starts more workers and returns how many were accepted.
        on_tick: Called with each finished tick, e.g. to write its metrics.
    """

    #: What a project switches on later is looked for at the first tick, and as often as this.
    ATTACH_EVERY_SECONDS = 3600.0
    #: A tick with less time left than this leaves that to the next one.
    ATTACH_SECONDS = 3.0
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
        on_tick: Callable[[Tick], None] | None = None,
    ) -> None:
        self.settings = settings
        self.registry = default_registry if registry is None else registry
        self.queue = queue or WorkerQueue(settings)
        self.worker_id = worker_id or default_worker_id()
        self.options = options or TickOptions(
            concurrency=settings.worker_concurrency, version=settings.version
        )
        self._clock = clock or SystemClock()
        self._fan_out = fan_out
        self._start_extra_workers = start_extra_workers
        self._on_tick = on_tick
        self._registered: object = None
        self._attach_at = float("-inf")
        self._stopping = asyncio.Event()

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
        """Run these processors from the next tick on; what runs already ends as it began."""
        self.registry = registry
        self._registered = None

    async def tick(
        self,
        *,
        budget_seconds: float = math.inf,
        job_types: Sequence[str] | None = None,
        fan_out: bool = True,
        wakeups: asyncio.Event | None = None,
        options: TickOptions | None = None,
    ) -> TickSummary:
        """Run one tick.

        Args:
            budget_seconds: Time until the tick must be over, e.g. what Lambda says remains.
            job_types: Only these; None for all that have a processor.
            fan_out: Whether this tick may start extra workers; false for an extra worker itself.
            wakeups: Set it to make the running tick look for work at once.

        Raises:
            QueueUnavailable: The database did not answer; nothing began.
        """
        ends_at = self._clock.monotonic() + budget_seconds
        await self.register()
        tick = Tick(
            self.queue,
            self.registry,
            worker_id=self.worker_id,
            budget_seconds=ends_at - self._clock.monotonic(),
            options=options or self.options,
            job_types=job_types,
            clock=self._clock,
            fan_out=self._fan_out if fan_out else None,
            start_extra_workers=self._start_extra_workers if fan_out else None,
            wakeups=wakeups,
            renew_outside=self._renew_outside,
            stopping=self._stopping,
        )
        summary = await tick.run()
        if self._on_tick is not None:
            self._on_tick(tick)
        # after the jobs, which never wait for it
        if ends_at - self._clock.monotonic() > self.ATTACH_SECONDS:
            await self._attach_extensions()
        return summary

    async def _attach_extensions(self) -> None:
        now = self._clock.monotonic()
        if now < self._attach_at:
            return
        self._attach_at = now + self.ATTACH_EVERY_SECONDS
        try:
            async with asyncio.timeout(self.ATTACH_SECONDS):
                found = await self.queue.attach_extensions()
        except (QueueError, TimeoutError) as error:
            # e.g. a schema of the release before: nothing that a job needs
            logger.info(
                "Extensions were not looked for",
                extra={"event": "extensions.unknown", "error": str(error)},
            )
            return
        if problems := found.get("problems"):
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
                summary = await self.tick(
                    wakeups=wakeups,
                    options=replace(quiet, quiet=not loud),
                )
                failures = 0
            except QueueUnavailable as error:
                failures += 1
                pause = min(5.0, 0.2 * 2 ** min(failures, 6))
                logger.warning(
                    "Queue is away; the loop tries again",
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
            wait = poll_seconds
            if woken and summary.leased == 0:
                wait = self.TRAILING_SECONDS
            if summary.next_due_in_ms is not None:
                wait = min(wait, max(0.005, summary.next_due_in_ms / 1000))
            await self._pause(wait, wakeups=wakeups)
        logger.info(
            "Worker loop stopped",
            extra={"event": "worker.stopped", "worker_id": self.worker_id},
        )

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End the loop: nothing more is leased, running jobs are stopped and handed back."""
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
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _renew_outside(self, items: Sequence[ReportItem], worker_id: str, tick_id: str) -> None:
        """Renew from the watchdog's thread, over connections and a loop of its own."""

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
