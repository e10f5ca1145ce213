"""A model of the queue in memory, as a worker sees it: leases, fences and failing calls."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from infra.bench.scratch import scratch_settings
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.models import (
    JobId,
    Lease,
    LeasedJob,
    LeaseRequest,
    LeaseResponse,
    MaintenanceResponse,
    ReportItem,
    ReportResult,
    RunState,
    SettleItem,
    SettleResponse,
    SettleResult,
    WorkspaceId,
)
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Registry, Worker
from tests.support.virtual_time import BEGAN, LoopClock

T = TypeVar("T")

WORKSPACE = "11111111-1111-4111-8111-111111111111"
#: The address of the model's project, at which nothing listens.
SETTINGS = scratch_settings()
#: The duration of a call, and the caller's time-out if a call hangs.
LATENCY = 0.02
PATIENCE = 6.0
FAULTS = ("lose_request", "lose_answer", "hang")


@dataclass
class Row:
    id: str
    payload: Any
    lease_seconds: float = 60.0
    deadline: float | None = None
    timeout: float | None = None
    #: The time after which maintenance makes the job ready.
    run_at: float = 0.0
    max_attempts: int = 5
    #: A user's transaction has locked the job. Maintenance and leases skip the job, and reports and
    #: settlements find it busy.
    is_locked: bool = False
    workspace: str = WORKSPACE
    status: str = "pending"
    fence: int = 0
    expires_at: float = 0.0
    cancel_requested: bool = False
    settled: dict[int, str] = field(default_factory=dict)
    #: The log lines of each lease, by fence.
    lines: dict[int, list[str]] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    def keep(self, item: ReportItem | SettleItem) -> None:
        """Append the item's steps and log lines to the stored ones."""
        self.steps += [step.name for step in item.steps]
        kept = self.lines.setdefault(item.fence, [])
        if item.logs:
            kept[item.logs_from or 0 :] = [line.message for line in item.logs]


class ModelQueue(WorkerQueue):
    """Keeps leases as the database does.

    Args:
        faults: Faults by the number of the call, or by a function's name for its first call. An
            exception is the response of the database.
    """

    def __init__(
        self, rows: Iterable[Row] = (), *, faults: Mapping[int | str, Any] | None = None
    ) -> None:
        super().__init__(SETTINGS)
        self.rows = {row.id: row for row in rows}
        self.faults = dict(faults or {})
        self.calls: list[str] = []
        self.requests: list[LeaseRequest] = []
        #: Leases that a worker reported without updates sooner than allowed.
        self.early: list[tuple[str, int]] = []
        self._reported_at: dict[tuple[str, int], float] = {}
        #: Leases that expired because their worker did not renew them.
        self.expired: list[tuple[str, int]] = []
        self.settles: list[Sequence[SettleItem]] = []
        #: The error that maintenance raises, or None.
        self.maintenance_problem: QueueUnavailable | None = None
        self._answers: dict[tuple[str, int], list[Lease]] = {}
        for row in self.rows.values():
            row.status = "deferred" if row.run_at else row.status

    def worker(self, work: Registry | Callable[..., Any], **options: Any) -> Worker:
        """Return a worker with these processors, or with one.

        Its clock is that of the event loop.
        """
        registry = work if isinstance(work, Registry) else Registry()
        if not isinstance(work, Registry):
            registry.processor("work", payload=dict)(work)
        return Worker(SETTINGS, **{"clock": LoopClock(), **options}, registry=registry, queue=self)

    def take_back(self, job_id: str) -> None:
        """End a lease as an operator or an expiry does, so that the job may be leased again."""
        row = self.rows[job_id]
        if row.status == "processing":
            row.status = "cancelled" if row.cancel_requested else "pending"

    def cancel(self, job_id: str) -> None:
        row = self.rows[job_id]
        row.cancel_requested = True
        if row.status == "pending":
            row.status = "cancelled"

    async def lease(self, request: LeaseRequest) -> LeaseResponse:
        return await self._call("lease", lambda: self._lease(request))

    async def report(self, items: Sequence[ReportItem]) -> list[ReportResult]:
        return await self._call("report", lambda: [self._report(item) for item in items])

    async def settle(
        self, items: Sequence[SettleItem], *, lease: LeaseRequest | None = None
    ) -> SettleResponse:
        self.settles.append(items)

        def apply() -> SettleResponse:
            results = tuple(self._settle(item) for item in items)
            return SettleResponse(results=results, lease=self._lease(lease) if lease else None)

        return await self._call("settle", apply)

    async def maintain(self, *, budget_seconds: float = 1.0) -> MaintenanceResponse:
        return await self._call("maintain", self._maintain)

    async def call(self, function: str, arguments: Any, **_: Any) -> Any:
        """Accept every job type and every worker run."""
        return {"registered": len(arguments.get("p_types", ())), "refused": []}

    async def _call(self, name: str, apply: Callable[[], T]) -> T:
        fault = self.faults.pop(name, None) or self.faults.get(len(self.calls))
        self.calls.append(name)
        await asyncio.sleep(LATENCY / 2)
        if fault in {"lose_request", "hang"}:
            await asyncio.sleep(PATIENCE if fault == "hang" else 0)
            raise QueueUnavailable("the request was lost")
        if isinstance(fault, Exception):
            raise fault
        self._expire()
        answer = apply()
        await asyncio.sleep(1.5 if fault == "slow" else LATENCY / 2)
        if fault == "lose_answer":
            raise QueueUnavailable("the answer was lost")
        return answer

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _expire(self) -> None:
        now = self._now
        for row in self.rows.values():
            if row.status == "processing" and row.expires_at <= now:
                row.status = "pending"
                self.expired.append((row.id, row.fence))

    def _due(self) -> list[Row]:
        waiting = [row for row in self.rows.values() if row.status == "deferred"]
        return [row for row in waiting if row.run_at <= self._now]

    def _maintain(self) -> MaintenanceResponse:
        if self.maintenance_problem is not None:
            raise self.maintenance_problem
        ready = [row for row in self._due() if not row.is_locked]
        for row in ready:
            row.status = "pending"
        return MaintenanceResponse(done={"promotion": len(ready)} if ready else {})

    def _lease(self, request: LeaseRequest) -> LeaseResponse:
        self.requests.append(request)
        asked = (request.tick_id, request.call)
        waiting = (row for row in self.rows.values() if row.status == "pending")
        pending = [row for row in waiting if not row.is_locked]
        if asked not in self._answers:
            self._answers[asked] = [self._begin(row) for row in pending[: request.limit]]
        held = tuple(each for each in self._answers[asked] if self._held(each.job.id, each.fence))
        left = any(row.status == "pending" for row in self.rows.values())
        at = [row.run_at for row in self.rows.values() if row.status == "deferred"]
        due_in = 0.0 if left else max(0.0, min(at) - self._now) * 1000 if at else None
        run = RunState(free=9) if request.most else None
        due = bool(self._due())
        if request.ends and not (held or due) and (due_in or 1e9) > request.ends.stay_ms:
            run = RunState(ended=True)
        return LeaseResponse(leases=held, next_due_in_ms=due_in, maintenance=due, run=run)

    def _begin(self, row: Row) -> Lease:
        row.status = "processing"
        row.fence += 1
        row.expires_at = self._now + row.lease_seconds
        job = LeasedJob(
            id=JobId(row.id),
            workspace_id=WorkspaceId(row.workspace),
            job_type="work",
            payload=row.payload,
            attempts=row.fence,
            max_attempts=row.max_attempts,
            created_at=BEGAN,
            timeout_seconds=row.timeout,
            deadline_at=BEGAN + timedelta(seconds=row.deadline) if row.deadline else None,
        )
        return Lease(job=job, fence=row.fence, lease_seconds=row.lease_seconds)

    def _held(self, job_id: str, fence: int) -> Row | None:
        row = self.rows[job_id]
        return row if row.status == "processing" and row.fence == fence else None

    def _report(self, item: ReportItem) -> ReportResult:
        row, lease = self._held(item.job_id, item.fence), (item.job_id, item.fence)
        outcome: Any = "lost"
        if row is not None:
            least = min(2.9, row.lease_seconds / 4.1)
            is_bare = item.progress is None and not item.logs and not item.steps
            if is_bare and self._now - self._reported_at.get(lease, -9) < least:
                self.early.append(lease)
            self._reported_at[lease] = self._now
            if row.expires_at < self._now + 0.8 * row.lease_seconds:
                row.expires_at = self._now + row.lease_seconds
            outcome = "cancel" if row.cancel_requested else "ok"
            if row.is_locked:
                outcome = "busy"
            else:
                row.keep(item)
        return ReportResult(job_id=item.job_id, fence=item.fence, outcome=outcome)

    def _settle(self, item: SettleItem) -> SettleResult:
        row = self._held(item.job_id, item.fence)
        outcome: Any = "stale"
        if row is not None and row.is_locked:
            outcome = "busy"
        elif row is not None:
            ended = item.outcome in {"completed", "failed", "cancelled"}
            again = "failed" if row.deadline and self._now >= row.deadline else "pending"
            row.status = item.outcome if ended else again
            delay = item.retry_after_seconds or item.delay_seconds
            if item.until is not None:
                delay = max(1.0, (item.until - BEGAN).total_seconds() - self._now)
            if not ended and delay:
                row.status, row.run_at = "deferred", self._now + delay
            row.settled[item.fence] = item.outcome
            row.keep(item)
            outcome = "applied"
        elif item.fence in self.rows[item.job_id].settled:
            outcome = "applied"
        error = "locked" if outcome == "busy" else None
        return SettleResult(job_id=item.job_id, fence=item.fence, outcome=outcome, error=error)
