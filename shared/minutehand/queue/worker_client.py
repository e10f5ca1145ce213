"""The queue as workers see it: lease, report, settle, spawn; every call may be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

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
    ReportItem,
    ReportResponse,
    ReportResult,
    SettleItem,
    SettleResponse,
)
from minutehand.queue.responses import Parse, decode_object, reading

if TYPE_CHECKING:
    from minutehand.queue.direct import DirectApi

#: Of the results of one job's steps: they are in the memory of all the jobs beside it.
MOST_STEP_BYTES: Final = 64_000_000


class WorkerQueue(WorkerFunctions):
    """The queue's own functions, as typed calls."""

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
            # longer than the database works at one call: a call is not repeated while it is at work
            read_seconds=12.0,
            timeout_seconds=15.0,
        )
        super().__init__(settings, api=api, clock=clock)

    async def lease(self, request: LeaseRequest) -> LeaseResponse:
        """Lease up to `limit` ready jobs; each counts as an attempt."""
        answer: LeaseResponse = await self._ask(
            "lease_jobs", request.wire(), parse=LeaseResponse.read
        )
        return answer

    async def maintain(self, *, budget_seconds: float = 1.0) -> MaintenanceResponse:
        """Do what is due besides leasing: expired leases, delayed jobs, schedules, retention."""
        request = {"budget_ms": round(budget_seconds * 1000)}
        answer: MaintenanceResponse = await self._ask(
            "run_maintenance", request, attempts=2, parse=reading(MaintenanceResponse)
        )
        return answer

    async def report(self, items: Sequence[ReportItem]) -> list[ReportResult]:
        """Store progress, logs and steps, renew leases, and learn which jobs must stop."""
        request = {"items": [item.wire() for item in items]}
        answer: ReportResponse = await self._ask(
            "report_jobs", request, attempts=1, parse=reading(ReportResponse)
        )
        return list(answer.results)

    async def settle(
        self, items: Sequence[SettleItem], *, lease: LeaseRequest | None = None
    ) -> SettleResponse:
        """Store how attempts ended and, with `lease`, take the next jobs in the same round trip."""
        request: dict[str, Any] = {"items": [item.wire() for item in items]}
        if lease is not None:
            request["lease"] = lease.wire()
        answer: SettleResponse = await self._ask(
            "settle_jobs", request, attempts=1, parse=SettleResponse.read
        )
        return answer

    async def spawn(
        self, job_id: JobId, fence: int, name: str, children: Sequence[NewJob]
    ) -> list[JobId]:
        """Enqueue child jobs once per (`job_id`, `name`), however often it is called."""
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
            if read > MOST_STEP_BYTES:
                text = (
                    f"the results of the steps of job {job_id} have more than {MOST_STEP_BYTES} "
                    "bytes; keep large results elsewhere and return where they are"
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
        """What a leased job has said in a stream: `{attempt, kept: {step: {text, items}}}`."""
        body: dict[str, Any] = await self.call_held(
            "read_output", job_id, fence, parse=decode_object, stream=stream
        )
        return body

    async def register_job_types(self, types: Sequence[JobTypeSpec]) -> tuple[int, dict[str, str]]:
        """Publish job types, so that every function of the queue accepts and checks them.

        Returns:
            How many were, and why others were refused, by type.
        """
        given = {"p_types": types}
        body = await self.call("register_job_types", given, parse=decode_object)
        refused = {str(each["job_type"]): str(each["message"]) for each in body["refused"]}
        return int(body["registered"]), refused

    async def tick_finished(self, tick_id: str, *, summary: Mapping[str, Any] | None) -> bool:
        """End a run that no lease has ended; whether another was refused while it was admitted."""
        request = {"tick_id": tick_id, "summary": summary}
        body = await self._ask("tick_finished", request, attempts=1)
        return bool(body["refused"])

    async def worker_died(self, worker_id: str, evidence: Mapping[str, Any]) -> None:
        """Give back the jobs of a worker whose process ended, with why it did."""
        request = {"worker_id": worker_id, "evidence": dict(evidence)}
        await self._ask("tick_finished", request, attempts=2)

    async def health(self) -> QueueHealth:
        """The queue's vital signs."""
        health: QueueHealth = await self.call("queue_health", {}, parse=reading(QueueHealth))
        return health

    async def explain(self) -> dict[str, Any]:
        """What is wrong as a whole, with causes and next steps."""
        return dict(await self.call("explain_queue", {}, parse=decode_object))

    async def stats(self, *, minutes: int = 60) -> dict[str, Any]:
        """Counts and percentiles over all workspaces, of the last `minutes`."""
        arguments = {"p_workspace_id": None, "p_minutes": minutes}
        return dict(await self.call("queue_stats", arguments, parse=decode_object))

    async def _ask(
        self,
        function: str,
        request: Mapping[str, Any],
        *,
        parse: Parse[Any] = decode_object,
        **how: Any,
    ) -> Any:
        return await self.call(function, {"p_request": request}, parse=parse, **how)
