"""The processors of a job and of its executions. Each execution ends with a signed receipt.

`provider_client` calls the providers, and `receipts` signs the receipts. A SQL function decides
whether enough regions have succeeded.
"""

from typing import Any, TypeVar

from minutehand.config import Settings
from minutehand.queue import EnqueueOptions, InvalidState, reading
from minutehand.worker import Backoff, Fail, Job, JobContext, Registry
from minutehand_apps.beacon.models import (
    Ended,
    ExecutionMessage,
    Issued,
    JobMessage,
    JobSpec,
    Repeated,
    RepeatMessage,
    Row,
    Started,
)
from minutehand_apps.beacon.outbox import Outbox
from minutehand_apps.beacon.provider_client import AtProvider
from minutehand_apps.beacon.receipts import build_receipt, shared_fields
from minutehand_apps.beacon.services import Beacon
from minutehand_apps.beacon.settings import serving

R = TypeVar("R", bound=Row)
#: Maximum seconds of one call of a provider, however slowly its response arrives.
CALL_SECONDS = 10.0


class Processors:
    """The processors of the app, and the dependencies that they share."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    async def job(self, job: Job[JobMessage], ctx: JobContext) -> dict[str, Any] | Fail:
        """Run a child job for each region.

        The outcomes of the child jobs determine the outcome of this job.
        """
        started = await self._call("beacon_start", job, Started)
        if started.job is None:
            return Fail(f"Job not found: {job.payload.job_id}")
        ctx.progress(5, "executing", f"{len(started.executions)} executions")
        identity = {"version": 1, "job_id": str(started.job.id)}
        children = [
            {**identity, "execution_id": str(execution.id), "region": execution.region}
            for execution in started.executions
        ]
        options = EnqueueOptions(session_id=job.session_id)
        await ctx.map(
            children, "beacon_execution", options=options, on_failed="return", name="executions"
        )
        ended = await self._call("beacon_finish", job, Ended)
        if started.job.finished_at is None:
            closing = {
                **shared_fields(started.job),
                "format": "minutehand-beacon-closing/2",
                **ended.model_dump(),
            }
            signed = await self._app.signer.sign(closing)
            ended = await self._call("beacon_finish", job, Ended, closing=signed)
        if ended.status != "completed":
            return Fail(ended.error or f"The job is {ended.status}")
        ctx.progress(100, "finished", f"{len(ended.reached)} regions")
        return {"job_id": str(started.job.id), "reached": ended.reached}

    async def repeat(self, job: Job[RepeatMessage], _: JobContext) -> dict[str, Any] | Fail:
        """Submit a job again, so that new answers can be compared with earlier answers."""
        repeated = await self._call("beacon_repeat", job, Repeated)
        if repeated.id is None:
            return Fail(f"Job not found: {job.payload.job_id}")
        return {"job_id": str(repeated.id)}

    async def execution(self, job: Job[ExecutionMessage], ctx: JobContext) -> dict[str, Any] | Fail:
        """Send the questions to a provider of the region, and sign its answers only once."""
        started = await self._call("beacon_start_execution", job, Started)
        execution = started.execution
        if execution is None or started.job is None:
            return Fail(f"Execution not found: {job.payload.execution_id}")
        receipt = execution.receipt
        if receipt is None:  # otherwise an earlier attempt ended after it had stored the receipt
            if execution.status in {"failed", "cancelled"}:
                return Fail(f"The execution is already {execution.status}")
            try:
                spec = JobSpec.model_validate(started.job.spec)
            except ValueError as error:
                return Fail(f"This version cannot run the job spec: {error}")
            providers = serving(self._app.providers, execution.region)
            if not providers:
                return Fail(f"No provider serves the region {execution.region}")
            output = await ctx.remote(
                execution.region,
                [AtProvider(self._app.http, provider, execution, spec) for provider in providers],
                within=spec.constraints.timeout,
                call_seconds=CALL_SECONDS,
            )
            signed = await self._app.signer.sign(build_receipt(started.job, execution, output))
            try:
                receipt = (await self._call("beacon_issue", job, Issued, receipt=signed)).receipt
            except InvalidState as error:
                return Fail(error.message)
            ctx.log("info", "The receipt was issued", provider=output["provider"])
        shown = ("execution_id", "region", "provider", "model")
        return {**{name: receipt[name] for name in shown}, "receipt_id": receipt["id"]}

    async def _call(self, function: str, job: Job[Any], kind: type[R], **values: Any) -> R:
        result: R = await self._app.worker.call_held(
            function, job.id, job.fence, parse=reading(kind), **values
        )
        return result


def register(registry: Registry, settings: Settings, *, app: Beacon | None = None) -> Beacon:
    """Add the app's processors and its publisher to the registry.

    Return the app's dependencies, which the caller closes at exit.
    """
    app = app or Beacon(settings)
    processors = Processors(app)
    registry.publisher("beacon", Outbox(app).run)
    registry.processor(
        "beacon_job", payload=JobMessage, backoff=Backoff(first=2, cap=60), internal=True
    )(processors.job)
    registry.processor("beacon_repeat", payload=RepeatMessage)(processors.repeat)
    # limit the running executions, because submissions are not limited
    registry.processor(
        "beacon_execution",
        payload=ExecutionMessage,
        workspace_concurrency=50,
        timeout=120,
        max_attempts=5,
        backoff=Backoff(first=1, cap=30),
        internal=True,
    )(processors.execution)
    return app
