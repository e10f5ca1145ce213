"""The beacon processors: a job and its executions, each of which ends in a signed receipt.

Asking providers is `provider_client`'s, the outbox `outbox`'s, and what is enough SQL's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from minutehand.config import Settings
from minutehand.queue.errors import InvalidState, QueueError
from minutehand.queue.models import EnqueueOptions
from minutehand.signing.canonical import digest_of
from minutehand.signing.signer import database_clock
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.registry import Registry
from minutehand.worker.remote import NoService, OutOfTime, Remote, StillRunning
from minutehand_apps.beacon.executing import by_health, statement
from minutehand_apps.beacon.models import (
    ExecutionMessage,
    Issued,
    JobMessage,
    JobRow,
    JobSpec,
    StartedExecution,
)
from minutehand_apps.beacon.outbox import Outbox
from minutehand_apps.beacon.provider_client import AtProvider, ProviderAnswer
from minutehand_apps.beacon.services import Beacon
from minutehand_apps.beacon.settings import Provider
from minutehand_apps.beacon.store import ProviderReport

#: Seconds from the start of a job until an execution counts as failed, where the spec says nothing.
TIMEOUT_SECONDS = 3600
#: Pause between two polls of a slow provider.
LOOK_AGAIN_SECONDS = 2.0
#: Longest call of a provider, however lively its answer drips.
CALL_SECONDS = 10.0
BACKOFF = Backoff(first=1, cap=30)


class Processors:
    """The app's processors over one process's dependencies."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    async def job(self, job: Job[JobMessage], ctx: JobContext) -> dict[str, Any] | Fail:
        """Run every region and model as a child job, then end by what was reached."""
        started = await self._app.store.start(job.id, job.fence)
        if started.job is None:
            return Fail(f"Job not found: {job.payload.job_id}")
        try:
            read_spec(started.job)
        except ValueError as error:
            return Fail(f"This version cannot run the job spec: {error}")
        ctx.progress(5, "executing", f"{len(started.executions)} executions")
        children = [
            {
                "version": 1,
                "job_id": str(started.job.id),
                "execution_id": str(each.id),
                "region": each.region,
                "model": each.model,
            }
            for each in started.executions
        ]
        options = EnqueueOptions(priority=job.priority, session_id=job.session_id)
        await ctx.map(
            children, "beacon_execution", options=options, on_failed="return", name="executions"
        )
        store = self._app.store
        ended = await self._app.close_job(
            await store.finish(job.id, job.fence),
            lambda receipt: store.finish(job.id, job.fence, receipt),
        )
        if ended.status != "completed":
            return Fail(ended.error or f"The job is {ended.status}")
        ctx.progress(100, "finished", f"{len(ended.reached)} regions")
        return {
            "job_id": str(started.job.id),
            "reached": ended.reached,
            "missing": ended.missing,
        }

    async def execution(
        self, job: Job[ExecutionMessage], ctx: JobContext
    ) -> dict[str, Any] | Fail | Snooze | Retry:
        """Put the questions to a provider of the region, and sign what it gave, once."""
        started = await self._app.store.start_execution(job.id, job.fence)
        if started.execution is None or started.job is None:
            return Fail(f"Execution not found: {job.payload.execution_id}")
        try:
            spec, spec_digest = read_spec(started.job)
        except ValueError as error:
            return Fail(f"This version cannot run the job spec: {error}")
        if started.receipt is not None:  # an attempt before this one died after it
            again = await self._app.store.issue(job.id, job.fence, started.receipt)
            return await self._ended(job, spec, started.receipt, enough=again.enough)
        if started.over is not None:
            return Fail(started.over)
        now = database_clock(started.now, self._app.clock)
        begun = started.job.started_at or now()
        ends = begun + timedelta(seconds=_timeout(spec))

        def left() -> float:
            return max(0.0, (ends - now()).total_seconds())

        region = started.execution.region
        serving = self._app.own_settings.serving(region)
        if not serving:
            return Fail(f"no provider serves the region {region}")
        ordered = by_health(serving, started.health, now=now())
        async with self._asking(job, started, spec, ordered) as remote:
            try:
                gave = await remote.run(left=left(), resume=_resumed(started))
            except OutOfTime:
                return Fail(f"no answer within {_timeout(spec)} s of the job's start")
            except NoService as error:
                ctx.log("warning", "No provider answered", reason=str(error))
                # the next attempt, if only to say that time is over, comes before the time is
                wait = min(BACKOFF.delay(job.attempt), left())
                return Retry(reason=str(error), after=wait)
        if isinstance(gave, StillRunning):
            ctx.progress(50, "running", f"at {gave.service}")
            return Snooze(after=min(LOOK_AGAIN_SECONDS, left()))
        try:
            issued = await self._issue(job, started, gave, spec_digest=spec_digest, now=now)
        except InvalidState as error:
            return Fail(error.message)
        assert issued.receipt is not None
        ctx.log("info", f"Receipt {issued.receipt['number']} was issued", provider=gave.provider)
        return await self._ended(job, spec, issued.receipt, enough=issued.enough)

    @asynccontextmanager
    async def _asking(
        self,
        job: Job[ExecutionMessage],
        started: StartedExecution,
        spec: JobSpec,
        providers: Sequence[Provider],
    ) -> AsyncIterator[Remote[ProviderAnswer]]:
        """The execution at its providers, whose reports are stored however it ends."""
        execution = started.execution
        assert execution is not None

        async def note(running: StillRunning | None) -> None:
            provider, task = (running.service, running.task_id) if running else (None, None)
            await self._app.store.note_execution(job.id, job.fence, provider=provider, task=task)

        remote = Remote(
            [AtProvider(self._app.providers, each, execution, spec) for each in providers],
            note,
            call_seconds=CALL_SECONDS,
        )
        try:
            yield remote
        finally:
            well = {each.provider for each in started.health if each.failures == 0}
            reports = [
                ProviderReport(provider=name, region=execution.region, ok=not error, error=error)
                for name, error in remote.reports.items()
                if error or name not in well  # known to be healthy: nothing to report
            ]
            if reports:
                # advice for the next choice: the execution does not depend on it
                with suppress(QueueError):
                    await self._app.store.report_providers(reports)

    async def _issue(
        self,
        job: Job[Any],
        started: StartedExecution,
        gave: ProviderAnswer,
        *,
        spec_digest: str,
        now: Callable[[], datetime],
    ) -> Issued:
        """Sign and store a receipt at the chain's end, wherever that is by then."""
        assert started.execution is not None
        assert started.job is not None
        assert started.head is not None
        at = now()
        stated = statement(
            started.job,
            started.execution,
            gave,
            spec_digest=spec_digest,
            started_at=started.execution.started_at or at,
            completed_at=at,
        )
        return await self._app.signer.issue(
            stated,
            key=started.key,
            head=started.head,
            now=now,
            send=lambda receipt: self._app.store.issue(job.id, job.fence, receipt),
        )

    async def _ended(
        self, job: Job[Any], spec: JobSpec, receipt: dict[str, Any], *, enough: bool
    ) -> dict[str, Any]:
        """Cancel stragglers where the spec says so, and report what the execution gave."""
        if enough and spec.constraints.stragglers == "cancel":
            await self._app.store.cancel_stragglers(job.id, job.fence)
        return {
            "execution_id": receipt["execution_id"],
            "region": receipt["region"],
            "provider": receipt["provider"],
            "model": receipt["model"],
            "receipt_id": receipt["id"],
            "number": receipt["number"],
        }


def read_spec(job: JobRow) -> tuple[JobSpec, str]:
    """Read a stored spec and its digest.

    Raises:
        ValueError: It is not a job spec that this version knows.
    """
    return JobSpec.model_validate(job.spec), digest_of(job.spec)


def _resumed(started: StartedExecution) -> StillRunning | None:
    """The work that an earlier attempt left with a provider."""
    execution = started.execution
    if execution is None or execution.provider is None or execution.provider_task is None:
        return None
    return StillRunning(execution.provider, execution.provider_task)


def _timeout(spec: JobSpec) -> int:
    return spec.constraints.timeout or TIMEOUT_SECONDS


def register(registry: Registry, settings: Settings, *, app: Beacon | None = None) -> Beacon:
    """Add the app's processors and its publisher; returns what they hold, to be closed."""
    app = app or Beacon(settings)
    processors = Processors(app)
    registry.publisher("beacon", Outbox(app).run)
    registry.processor(
        "beacon_job", payload=JobMessage, backoff=Backoff(first=2, cap=60), internal=True
    )(processors.job)
    # what is limited is how many run: submissions queue
    registry.processor(
        "beacon_execution",
        payload=ExecutionMessage,
        workspace_concurrency=50,
        timeout=120,
        max_attempts=8,
        backoff=BACKOFF,
        internal=True,
    )(processors.execution)
    return app
