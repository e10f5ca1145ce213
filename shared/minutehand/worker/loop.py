"""A worker's state between ticks, and its loop of ticks. A tick is one bounded run of the worker.

On Lambda each invocation runs one `tick`. On your own host `run_forever` runs ticks in a loop.
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from minutehand.clock import Clock, SystemClock
from minutehand.config import Settings
from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.queue.models import LeaseResponse
from minutehand.queue.worker_client import WorkerQueue
from minutehand.tasks import end_tasks
from minutehand.worker.current_job import JobExecutor
from minutehand.worker.database_clock import DatabaseClock
from minutehand.worker.deadlines import Deadlines, FanOut, StartExtraWorkers, TickOptions, in_time
from minutehand.worker.registry import Registry, default_registry
from minutehand.worker.run import IdleBackoff, Run, RunIdentity
from minutehand.worker.summary import TickSummary
from minutehand.worker.tick import Tick

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Interval in seconds at which unchanged job types are published again.
REGISTER_INTERVAL_SECONDS = 300.0
#: Number of new objects after which Python's garbage collector runs. With the default of 700 the
#: collector took a third of a worker's CPU time, because about twenty jobs in flight create more
#: new objects.
GC_THRESHOLD = 20_000
#: Threads of the event loop per slot, so that host names can be resolved while processors block
#: threads of `asyncio.to_thread`. By default asyncio has four threads and one more per CPU core.
THREADS_PER_SLOT = 4


class Worker:
    """A worker, whose connections, registry and identity remain between ticks.

    Args:
        registry: The processors. A `registry` of None selects the default registry.
        worker_id: Id of the worker in its leases. A `worker_id` of None generates an id.
        fan_out: Policy for extra workers of a tick.
        start_extra_workers: Function that starts extra workers, and returns the number accepted.
        most: Maximum concurrent runs of all workers, see `tick`. None means that the number of runs
            is not limited.
        on_tick: Function that gets the summary of each finished tick, for example to write metrics.
        on_response: Function that gets each response to a lease request.
    """

    #: Seconds without an iteration after which the loop is considered stalled.
    STALLED_SECONDS = 30.0
    #: Maximum seconds of one sleep of the loop, which must iterate to show that it is not stalled.
    MAX_SLEEP_SECONDS = 10.0
    #: Maximum seconds between two ticks while an abandoned processor may still run, because the
    #: next lease request reports its end.
    ABANDONED_POLL_SECONDS = 5.0
    #: Maximum seconds of the call that reports the end of the loop.
    STOP_SECONDS = 1.0

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
        on_tick: Callable[[TickSummary], None] | None = None,
        on_response: Callable[[LeaseResponse], None] = lambda response: None,
    ) -> None:
        self.settings = settings
        self.registry = default_registry if registry is None else registry
        self.queue = queue or WorkerQueue(settings)
        # host, process and a random part make the id unique, even after a fork
        generated_id = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.worker_id = worker_id or generated_id
        options = options or TickOptions.of(settings)
        code = {"commit": settings.commit, "source": settings.source}
        origin = {name: value for name, value in code.items() if value} | (options.origin or {})
        self.options = replace(options, origin=origin or None)
        self.clock = DatabaseClock(clock or SystemClock())
        #: `stop` sets this event, which ends the loop.
        self.stop_event = asyncio.Event()
        self._fan_out = fan_out
        self._start_extra_workers = start_extra_workers
        self._backoff = IdleBackoff()
        self._lease_id = RunIdentity()
        self._most = most
        self._on_tick = on_tick
        self._on_response = on_response
        #: Time of the loop's last iteration. `_iterated_at` is None while the loop does not run.
        self._iterated_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        deployed_at = settings.deployed_at
        self._deployed_at = deployed_at and deployed_at.isoformat()
        self._registered: object = None
        self._registers_at = -math.inf

    async def register(self) -> None:
        """Publish the registry's job types if they changed, or again after some minutes."""
        names, now = self.registry.names, self.clock.monotonic()
        if not names or (self._registered == names and now < self._registers_at):
            return
        code = {"commit": self.settings.commit, "deployed_at": self._deployed_at}
        specs = [spec | code for spec in self.registry.specs()]
        specs_and_failures = [*specs, *self.registry.failure_specs()]
        count, refused = await self.queue.register_job_types(specs_and_failures)
        self._registered, self._registers_at = names, now + REGISTER_INTERVAL_SECONDS
        for name, message in refused.items():
            why = {"event": "worker.type_refused", "job_type": name}
            logger.error("Job type %s is rejected: %s", name, message, extra=why)
        published = [spec["job_type"] for spec in specs if spec["job_type"] not in refused]
        # warn if the database did not publish some job types, because the types are invalid or this
        # worker is from an older deploy
        level = logging.INFO if count == len(names) else logging.WARNING
        extra = {"event": "worker.registered", "job_types": published, "registered": count}
        logger.log(level, "Job types registered", extra=extra)

    async def tick(
        self,
        *,
        budget_seconds: float = math.inf,
        job_types: Sequence[str] | None = None,
        fan_out: bool = True,
        wakeups: asyncio.Event | None = None,
        options: TickOptions | None = None,
    ) -> TickSummary:
        """Run one tick. If the maximum number of workers already runs, the tick is `crowded_out`.

        A tick that is `crowded_out` leaves the waiting jobs to the workers that already run. If
        another run was rejected while this run was active, this run leases once more before its
        end.

        Args:
            budget_seconds: Time until the tick must end, such as Lambda's remaining time.
            job_types: Job types to run. A `job_types` of None selects all types with a processor.
            fan_out: True if this tick may start extra workers, and false in an extra worker.
            wakeups: Event that makes the running tick lease immediately when it is set.
            options: Options that replace the worker's options.

        Raises:
            QueueUnavailable: The database did not respond, and no job was started.
        """
        options = options or self.options
        tick = await self._tick(budget_seconds, job_types, fan_out, wakeups, options)
        return tick.summary

    async def _tick(
        self,
        budget_seconds: float,
        job_types: Sequence[str] | None,
        fan_out: bool,
        wakeups: asyncio.Event | None,
        options: TickOptions,
    ) -> Tick:
        end_at = self.clock.monotonic() + budget_seconds
        if self._loop is not (loop := asyncio.get_running_loop()):
            max_threads = THREADS_PER_SLOT * self.options.concurrency
            loop.set_default_executor(JobExecutor(max_threads, "worker"))
            self._loop = loop
        if not options.suspects:  # another process of the host has published the types
            await self.register()

        now, known = self.clock.monotonic(), self.registry.names
        run = Run(
            queue=self.queue,
            clock=self.clock,
            registry=self.registry,
            options=options,
            deadlines=Deadlines.until(now, end_at - now),
            summary=TickSummary(worker_id=self.worker_id, tick_id=str(uuid.uuid4())),
            stop_event=self.stop_event,
            job_types=tuple(name for name in known if job_types is None or name in job_types),
            queues=self.settings.worker_queues or None,
            most=self._most,
            backoff=self._backoff,
            lease_id=self._lease_id,
            on_response=self._on_response,
        )
        tick = Tick(
            run,
            fan_out=self._fan_out if fan_out else None,
            start_extra_workers=self._start_extra_workers,
            wakeups=wakeups,
            on_iteration=self._record_iteration,
        )
        summary = await tick.run()
        if self._on_tick is not None:
            self._on_tick(summary)
        return tick

    @property
    def is_stalled(self) -> bool:
        """True if the loop has not iterated for `STALLED_SECONDS`."""
        return self._iterated_at is not None and (
            self.clock.monotonic() > self._iterated_at + self.STALLED_SECONDS
        )

    def _record_iteration(self) -> None:
        self._iterated_at = self.clock.monotonic()

    async def run_forever(
        self, wakeups: asyncio.Event | None = None, *, poll_seconds: float = 1.0
    ) -> None:
        """Run a tick on every wake-up, when jobs fall due, and every `poll_seconds`, until `stop`.

        After an unexpected error, the loop releases its running jobs and raises the error. After an
        error of the loop, the process should end, so that its host starts a new process. A worker
        that runs only suspects returns when no suspect is left. A suspect is a job that may have
        ended a process.

        Args:
            wakeups: Event to set after an enqueue. Without `wakeups`, the loop finds jobs only by
                polls.
            poll_seconds: Maximum time between two ticks.
        """
        wakeups = wakeups or asyncio.Event()
        names = {"worker_id": self.worker_id}
        logger.info("Worker loop started", extra={"event": "worker.started", **names})
        options = replace(self.options, quiet=True, linger_seconds=0.0)
        failures = 0
        while not self.stop_event.is_set():
            self._record_iteration()
            was_notified = wakeups.is_set()
            wakeups.clear()
            try:
                tick = await self._tick(math.inf, None, True, wakeups, options)
            except QueueError as error:
                failures += 1
                is_rejected = not isinstance(error, QueueUnavailable)
                delay = 5.0 if is_rejected else min(5.0, 0.2 * 2 ** min(failures, 6))
                logger.log(
                    logging.ERROR if is_rejected else logging.WARNING,
                    "The queue rejected the worker, or is unavailable; the loop tries again",
                    extra={"event": "worker.unavailable", "error": str(error), "pause": delay},
                )
                await self._sleep(delay, wakeups)
                continue
            failures = 0
            if self.options.suspects:
                break
            now = self.clock.monotonic()
            in_vain = was_notified and not tick.summary.leased
            pause = poll_seconds
            if self._lease_id.abandoned:
                pause = min(pause, self.ABANDONED_POLL_SECONDS)
            at = tick.scheduler.next_poll(now, poll_seconds=pause, was_notified=in_vain)
            await self._sleep(at - now, wakeups)
        # without the report, the worker would count as alive for some minutes
        report, until = self.queue.worker_stopped(self.worker_id), self.clock.monotonic()
        with contextlib.suppress(QueueError):
            await in_time(report, until + self.STOP_SECONDS, self.clock)
        logger.info("Worker loop stopped", extra={"event": "worker.stopped", **names})

    def stop(self) -> None:
        """End the loop. Leasing stops, and running jobs are stopped and released."""
        self.stop_event.set()

    async def aclose(self) -> None:
        """Close the worker's connections."""
        await self.queue.aclose()

    async def _sleep(self, seconds: float, *events: asyncio.Event) -> None:
        until = self.clock.monotonic() + seconds
        waiters = [asyncio.create_task(event.wait()) for event in (self.stop_event, *events)]
        try:
            while (left := until - self.clock.monotonic()) > 0:
                self._record_iteration()
                timeout = min(left, self.MAX_SLEEP_SECONDS)
                done, _ = await asyncio.wait(
                    waiters, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    return
        finally:
            await end_tasks(waiters)


def tune_gc() -> None:
    """Run the garbage collector less often, because ended attempts are freed without it.

    Call `tune_gc` only in a process that runs nothing but workers, because the setting affects all
    code of a process.
    """
    gc.set_threshold(GC_THRESHOLD)


def run_until_done(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a worker's loop, even if tasks left behind by processors raise errors.

    asyncio stops an event loop in which any task raises SystemExit or KeyboardInterrupt.
    """
    task = loop.create_task(work)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt):
            if task.done():
                raise
            logger.exception(
                "A processor's task asked the process to end; its worker continues",
                extra={"event": "task.exited"},
            )
