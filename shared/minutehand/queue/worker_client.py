"""Client of the queue for workers, which leases, reports and settles jobs.

Each call of the client can be repeated without a further effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import ProcessorError
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.models import (
    JobId,
    JobTypeSpec,
    LeaseRequest,
    LeaseResponse,
    MaintenanceResponse,
    NewJob,
    QueueHealth,
    ReleasedJobs,
    ReportItem,
    ReportResponse,
    ReportResult,
    SettleItem,
    SettleResponse,
)
from minutehand.queue.responses import Parse, T, decode_object, reading

if TYPE_CHECKING:
    from minutehand.queue.direct import DirectApi

#: Maximum bytes of all step results of one job, because all jobs of a worker share the memory.
MAX_STEP_BYTES = 64_000_000


class WorkerQueue(WorkerFunctions):
    """Typed calls of the queue's SQL functions for workers."""

    def __init__(
        self,
        settings: Settings,
        *,
        api: DataApi | DirectApi | None = None,
        clock: Clock | None = None,
    ) -> None:
        api = api or DataApi(
            settings.supabase_url,
            schema=settings.schema_name,
            # wait longer than a call may run in the database, so that the client never repeats a
            # running call
            read_seconds=12.0,
            timeout_seconds=15.0,
        )
        super().__init__(settings, api=api, clock=clock)

    async def lease(self, request: LeaseRequest) -> LeaseResponse:
        """Lease up to `limit` ready jobs. Each lease starts a new attempt of its job."""
        return await self._request("lease_jobs", request.wire(), parse=LeaseResponse.read)

    async def maintain(self, *, budget_seconds: float = 1.0) -> MaintenanceResponse:
        """Run the due maintenance tasks of expired leases, delayed jobs, schedules or retention."""
        request = {"budget_ms": round(budget_seconds * 1000)}
        return await self._request(
            "run_maintenance", request, attempts=2, parse=reading(MaintenanceResponse)
        )

    async def report(self, items: Sequence[ReportItem]) -> list[ReportResult]:
        """Store progress, logs and steps, and renew leases.

        The result shows which jobs must stop.
        """
        request = {"items": [item.wire() for item in items]}
        response = await self._request(
            "report_jobs", request, attempts=1, parse=reading(ReportResponse)
        )
        return list(response.results)

    async def settle(
        self, items: Sequence[SettleItem], *, lease: LeaseRequest | None = None
    ) -> SettleResponse:
        """Store the outcomes of attempts. With `lease`, the same call leases the next jobs."""
        request: dict[str, Any] = {"items": [item.wire() for item in items]}
        if lease is not None:
            request["lease"] = lease.wire()
        return await self._request("settle_jobs", request, attempts=1, parse=SettleResponse.read)

    async def spawn(
        self, job_id: JobId, fence: int, name: str, children: Sequence[NewJob]
    ) -> list[JobId]:
        """Enqueue child jobs.

        A repeated call with the same `job_id` and `name` enqueues no further jobs.
        """
        jobs = [child.wire() for child in children]
        body = await self.call_held(
            "spawn_jobs", job_id, fence, parse=decode_object, name=name, children=jobs
        )
        return [JobId(child) for child in body["job_ids"]]

    async def read_steps(self, job_id: JobId, fence: int) -> dict[str, Any]:
        """Read the results of a leased job's steps by name, in pages of about 1 MB."""
        steps: dict[str, Any] = {}
        read = 0
        after: Any = None
        while True:
            page = await self.call_held(
                "read_steps", job_id, fence, parse=decode_object, after=after
            )
            read += page["bytes"]
            if read > MAX_STEP_BYTES:
                text = (
                    f"the step results of job {job_id} must not exceed {MAX_STEP_BYTES} "
                    "bytes in total; store large results elsewhere and return their location"
                )
                raise ProcessorError(text, retryable=False)
            for line in page["lines"]:
                if line["nth"] == 0:
                    steps[line["name"]] = line["value"]
                else:
                    steps[line["name"]]["children"].append(line["value"])
            after = page["next"]
            if after is None:
                return steps

    async def read_output(self, job_id: JobId, fence: int, stream: str) -> dict[str, Any]:
        """Read the stored output of a job's stream, as `{attempt, kept: {step: {text, items}}}`."""
        body: dict[str, Any] = await self.call_held(
            "read_output", job_id, fence, parse=decode_object, stream=stream
        )
        return body

    async def register_job_types(self, types: Sequence[JobTypeSpec]) -> tuple[int, dict[str, str]]:
        """Publish job types.

        The queue's SQL functions accept jobs of published types, and validate the jobs' payloads.

        Returns:
            The number of registered types, and the reason for each rejected type by the type's
            name.
        """
        body = await self.call("register_job_types", {"p_types": types}, parse=decode_object)
        rejected = {str(line["job_type"]): str(line["message"]) for line in body["refused"]}
        return int(body["registered"]), rejected

    async def tick_finished(self, tick_id: str, *, summary: Mapping[str, Any] | None) -> bool:
        """End a run that no lease request has ended.

        Return whether another run was rejected while this run was active.
        """
        request = {"tick_id": tick_id, "summary": summary}
        body = await self._request("tick_finished", request, parse=decode_object, attempts=1)
        return bool(body["refused"])

    async def worker_stopped(self, worker_id: str) -> None:
        """Record that a worker has stopped, so that no other run of the worker follows."""
        request = {"worker_id": worker_id, "summary": {"stopped": True}}
        await self._request("tick_finished", request, parse=decode_object, attempts=1)

    async def worker_died(self, worker_id: str, details: Mapping[str, Any]) -> ReleasedJobs:
        """Release the jobs of a worker whose process died, and store why the process died."""
        request = {"worker_id": worker_id, "evidence": dict(details)}
        parse = reading(ReleasedJobs)
        return await self._request("tick_finished", request, parse=parse, attempts=2)

    async def health(self) -> QueueHealth:
        """Return the health of the queue."""
        health: QueueHealth = await self.call("queue_health", {}, parse=reading(QueueHealth))
        return health

    async def explain(self) -> dict[str, Any]:
        """Return the problems of the queue, with causes and next steps."""
        return dict(await self.call("explain_queue", {}, parse=decode_object))

    async def stats(self, *, minutes: int = 60) -> dict[str, Any]:
        """Return counts and percentiles over all workspaces for the last `minutes`."""
        arguments = {"p_workspace_id": None, "p_minutes": minutes}
        return dict(await self.call("queue_stats", arguments, parse=decode_object))

    async def _request(
        self, function: str, request: Mapping[str, Any], *, parse: Parse[T], **options: Any
    ) -> T:
        result: T = await self.call(function, {"p_request": request}, parse=parse, **options)
        return result
