"""Extra workers: for what one has no time for, once, and bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minutehand.queue.models import LeaseResponse, RunState
from minutehand.worker import FanOut, Job, JobContext, Registry, TickOptions, TickSummary, Worker
from tests.support.queue_model import SETTINGS, ModelQueue, Row
from tests.support.virtual_time import LoopClock, leaping


@pytest.mark.parametrize(
    ("due", "most", "fan_out", "expected"),
    [(500, 9, True, [4]), (500, 2, True, [2]), (0, 9, True, []), (500, 9, False, [])],
)
def test_a_backlog_starts_as_many_as_it_is_worth(
    due: int, most: int, fan_out: bool, expected: list[int]
) -> None:
    """No more than runs are admitted, once if none is; an extra one starts none, nor does idle."""
    started: list[int] = []

    class Backlogged(ModelQueue):
        def _lease(self, request: Any) -> LeaseResponse:
            said = {"due": due, "run": RunState(free=4)}
            return super()._lease(request).model_copy(update=said)

    async def start(count: int) -> int:
        started.append(count)
        return 0

    async def work(job: Job[dict[str, Any]], ctx: JobContext) -> None:
        await asyncio.sleep(5)

    async def story() -> None:
        registry = Registry()
        registry.processor("work", payload=dict)(work)
        worker = Worker(
            SETTINGS,
            registry=registry,
            queue=Backlogged([Row(str(n), {}) for n in range(3)]),
            options=TickOptions(concurrency=1, linger_seconds=0),
            clock=LoopClock(),
            most=5,
            fan_out=FanOut(most=most),
            start_extra_workers=start,
        )
        await worker.tick(budget_seconds=60, fan_out=fan_out)

    leaping(story())
    assert started == expected


@pytest.mark.parametrize(("before", "left", "expected"), [(1, 7, [1]), (0, 7, []), (1, 0, [])])
def test_what_a_run_leaves_when_it_leases_no_more_is_counted(
    before: int, left: int, expected: list[int]
) -> None:
    """Another carries on with more than it could take; not with what came to some limit."""
    started: list[int] = []

    class Backlogged(ModelQueue):
        def _lease(self, request: Any) -> LeaseResponse:
            due = left if self._now > 40 else before
            return super()._lease(request).model_copy(update={"due": due})

    async def start(count: int) -> int:
        started.append(count)
        return count

    async def work(job: Job[dict[str, Any]], ctx: JobContext) -> None:
        await asyncio.sleep(300)

    async def story() -> TickSummary:
        registry = Registry()
        registry.processor("work", payload=dict)(work)
        worker = Worker(
            SETTINGS,
            registry=registry,
            queue=queue,
            options=TickOptions(concurrency=1, linger_seconds=0),
            clock=LoopClock(),
            fan_out=FanOut(most=5),
            start_extra_workers=start,
        )
        return await worker.tick(budget_seconds=60, fan_out=True)

    queue = Backlogged([Row("1", {})])
    summary = leaping(story())

    counted = [request for request in queue.requests if request.count_due]
    assert [request.limit for request in counted] == [1, 0]
    assert (started, summary.due_left) == (expected, left)
