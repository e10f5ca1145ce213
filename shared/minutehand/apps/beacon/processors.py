"""The beacon processors: a job and its executions, each of which ends in a signed receipt.

Asking providers is `executing`'s, the outbox `outbox`'s, and what is enough SQL's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from minutehand.apps.beacon.canonical import digest_of
from minutehand.apps.beacon.executing import Executor, NoProvider, ProviderAnswer, StillRunning
from minutehand.apps.beacon.models import (
    ExecutionMessage,
    Head,
    Issued,
    JobMessage,
    JobRow,
    JobSpec,
    StartedExecution,
)
from minutehand.apps.beacon.outbox import Outbox
from minutehand.apps.beacon.receipts import chained, statement
from minutehand.apps.beacon.services import Beacon
from minutehand.aws.sealing import SealBroken
from minutehand.config import Settings
from minutehand.queue.errors import InvalidState, ProcessorError, QueueError
from minutehand.queue.models import EnqueueOptions
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.registry import Registry

#: Seconds from the start of a job until an execution counts as failed, where the spec says nothing.
TIMEOUT_SECONDS = 3600
#: Pause between two polls of a slow provider.
LOOK_AGAIN_SECONDS = 2.0
#: Tries to place a receipt at the chain's end; each that fails means another's succeeded.
MOST_RACES = 100
#: Chains whose end one process remembers.
MOST_CHAINS = 1000


class Processors:
    """The app's processors over one process's dependencies."""

    def __init__(self, app: Beacon) -> None:
        self._app = app
        self._chains = Chains()

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
        ended = await self._app.store.finish(job.id, job.fence)
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
        left = self._left(started, spec)
        if left <= 0:
            return Fail(f"no answer within {_timeout(spec)} s of the job's start")
        async with self._reporting(job, started, spec) as executor:
            serving = self._app.own_settings.serving(started.execution.region)
            try:
                gave = await executor.run(serving, timeout_seconds=left)
            except NoProvider as error:
                ctx.log("warning", "No provider answered", reason=str(error))
                return Fail(str(error)) if error.none_at_all else Retry(reason=str(error))
        if isinstance(gave, StillRunning):
            ctx.progress(50, "running", f"at {gave.provider}")
            return Snooze(after=min(LOOK_AGAIN_SECONDS, left))
        try:
            issued = await self._issue(job, started, gave, spec_digest)
        except InvalidState as error:
            return Fail(error.message)
        assert issued.receipt is not None
        ctx.log("info", f"Receipt {issued.receipt['number']} was issued", provider=gave.provider)
        return await self._ended(job, spec, issued.receipt, enough=issued.enough)

    @asynccontextmanager
    async def _reporting(
        self, job: Job[ExecutionMessage], started: StartedExecution, spec: JobSpec
    ) -> AsyncIterator[Executor]:
        """An executor whose reports of providers are stored, however it ends."""
        assert started.execution is not None

        async def note(provider: str | None, task: str | None) -> None:
            await self._app.store.note_execution(job.id, job.fence, provider=provider, task=task)

        executor = Executor(
            client=self._app.providers,
            execution=started.execution,
            spec=spec,
            health=started.health,
            note=note,
            now=self._app.clock.now,
        )
        try:
            yield executor
        finally:
            if executor.reports:
                # advice for the next choice: the execution does not depend on it
                with suppress(QueueError):
                    await self._app.store.report_providers(list(executor.reports.values()))

    async def _issue(
        self, job: Job[Any], started: StartedExecution, gave: ProviderAnswer, spec_digest: str
    ) -> Issued:
        """Sign and store a receipt at the chain's end, wherever that is by then."""
        assert started.execution is not None
        assert started.job is not None
        assert started.head is not None
        now = self._app.clock.now()
        stated = statement(
            started.job,
            started.execution,
            gave,
            spec_digest=spec_digest,
            started_at=started.execution.started_at or now,
            completed_at=now,
            software=self._app.software,
        )
        try:
            key = await self._app.signing_key(started.key)
        except SealBroken as error:
            raise ProcessorError(
                "The signing key cannot be opened here; rotate it: minutehand beacon rotate-key"
            ) from error
        async with self._chains.held(started.job.workspace_id, started.head) as chain:
            for _ in range(MOST_RACES):
                receipt = key.sign(chained(stated, chain.head, issued_at=self._app.clock.now()))
                answer = await self._app.store.issue(job.id, job.fence, receipt)
                if answer.receipt is not None:
                    if answer.receipt["id"] == receipt["id"]:
                        chain.head = Head(number=receipt["number"], digest=digest_of(receipt))
                    return answer
                assert answer.head is not None
                chain.head = answer.head
        raise ProcessorError(f"The chain moved {MOST_RACES} times meanwhile; trying again")

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

    def _left(self, started: StartedExecution, spec: JobSpec) -> float:
        assert started.job is not None
        now = self._app.clock.now()
        begun = started.job.started_at or now
        return (begun + timedelta(seconds=_timeout(spec)) - now).total_seconds()


@dataclass(slots=True)
class Chain:
    """A workspace's chain as this process last saw its end."""

    head: Head
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Chains:
    """Lets the executions of one process take turns at a chain, so that few receipts race."""

    def __init__(self) -> None:
        self._known: OrderedDict[UUID, Chain] = OrderedDict()

    @asynccontextmanager
    async def held(self, workspace_id: UUID, head: Head) -> AsyncIterator[Chain]:
        """The workspace's chain, for one execution at a time; `head` is what the caller read."""
        chain = self._known.setdefault(workspace_id, Chain(head))
        self._known.move_to_end(workspace_id)
        while len(self._known) > MOST_CHAINS:
            self._known.popitem(last=False)
        async with chain.turn:
            if head.number > chain.head.number:
                chain.head = head  # another process was here
            yield chain


def read_spec(job: JobRow) -> tuple[JobSpec, str]:
    """Read a stored spec and its digest.

    Raises:
        ValueError: It is not a job spec that this version knows.
    """
    return JobSpec.model_validate(job.spec), digest_of(job.spec)


def _timeout(spec: JobSpec) -> int:
    return spec.constraints.timeout or TIMEOUT_SECONDS


def register(registry: Registry, settings: Settings, *, app: Beacon | None = None) -> Beacon:
    """Add the app's processors and its publisher; returns what they hold, to be closed."""
    app = app or Beacon(settings)
    processors = Processors(app)
    outbox = Outbox(
        lambda: app.store,
        lambda: app.providers,
        app.own_settings.providers,
        clock=app.clock,
        stage=settings.stage,
        write=app.write_metrics,
    )
    registry.publisher("beacon", outbox.run)
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
        backoff=Backoff(first=1, cap=30),
        internal=True,
    )(processors.execution)
    return app
