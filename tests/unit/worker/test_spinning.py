"""The number of calls that a worker makes while no job can run, with a simulated clock."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.models import LeaseRequest, LeaseResponse, MaintenanceResponse
from minutehand.worker import Job, JobContext, Snooze, Worker
from tests.support.queue_model import ModelQueue, Row
from tests.support.virtual_time import BEGAN, leaping

MINUTES = 2
HELD: dict[str, Any] = {"run_at": 1e-9, "is_locked": True}

#: For each situation: the rows, and the maximum numbers of calls. They are leases and settles per
#: minute, maintenance calls per minute, and calls of a run with a deadline.
SITUATIONS: dict[str, tuple[Callable[[], Iterable[Row]], int, int, int]] = {
    "nothing": (lambda: (), 60, 0, 1),
    "a full key": (
        lambda: [Row("runs", {"seconds": 9_999}), Row("waits", {}, status="gated")],
        121,
        60,
        400,
    ),
    "a thousand keys": (lambda: (Row(str(n), {}, is_locked=True) for n in range(1000)), 62, 0, 6),
    "a due job that a transaction holds": (lambda: [Row("1", {}, **HELD)], 61, 61, 10),
    "a task that fails": (lambda: [Row("1", {}, **HELD)], 61, 61, 10),
    "maintenance that fails": (lambda: [Row("1", {}, **HELD)], 72, 13, 8),
    "a snooze into the past": (lambda: [Row("1", {"snoozes": True})], 170, 60, 360),
}


class Thorough(ModelQueue):
    async def maintain(self, **options: Any) -> MaintenanceResponse:
        await asyncio.sleep(0.3)
        return await super().maintain(**options)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("is_loop", [True, False])
def test_nothing_spins(situation: str, is_loop: bool) -> None:
    """A worker pauses between calls that find nothing to do, so that it makes few calls."""
    rows, most_leases, most_maintenance, most_of_run = SITUATIONS[situation]
    queue = Thorough(rows())
    if situation == "maintenance that fails":
        queue.maintenance_problem = QueueUnavailable("no disk")
    elif situation == "a task that fails":
        answer = MaintenanceResponse(done={}, failed=("promotion",))
        queue._maintain = lambda: answer  # type: ignore[method-assign]

    async def work(job: Job[Any], ctx: JobContext) -> Any:
        await asyncio.sleep(job.payload.get("seconds", 0))
        return Snooze(until=BEGAN) if "snoozes" in job.payload else None

    async def story() -> None:
        worker = queue.worker(work)
        if is_loop:
            asyncio.get_running_loop().call_later(60 * MINUTES, worker.stop)
            await worker.run_forever()
        else:
            await worker.tick(budget_seconds=60 * MINUTES)

    leaping(story())

    calls = Counter(queue.calls)
    if is_loop:
        assert calls["lease"] + calls["settle"] <= most_leases * MINUTES
        assert calls["maintain"] <= most_maintenance * MINUTES
    else:
        assert len(queue.calls) <= most_of_run


def test_the_end_of_an_abandoned_processor_is_reported_soon() -> None:
    """An idle worker polls more often while a processor that ignored its stop may still run."""
    found: list[tuple[int, float]] = []

    class Reported(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            if request.abandoned is not None:
                found.append((len(request.abandoned), asyncio.get_running_loop().time()))
            return await super().lease(request)

    queue = Reported([Row("hangs", {})])
    ends: list[float] = []

    async def work(job: Job[Any], ctx: JobContext) -> None:
        asyncio.get_running_loop().call_later(10, queue.cancel, job.id)
        for seconds in (100, 100, 30):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(seconds)
        ends.append(asyncio.get_running_loop().time())

    async def story() -> None:
        worker = queue.worker(work)
        asyncio.get_running_loop().call_later(600, worker.stop)
        await worker.run_forever(poll_seconds=300)

    leaping(story())
    [end] = ends
    reports = [at for count, at in found if count == 0 and at > end]
    assert reports[0] <= end + Worker.ABANDONED_POLL_SECONDS
