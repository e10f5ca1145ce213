"""Extra workers, which a worker starts once for a backlog, up to a limit."""

import asyncio
from typing import Any

import pytest

from minutehand.queue.models import LeaseResponse, RunState
from minutehand.worker import FanOut, Job, JobContext, TickOptions, TickSummary
from tests.support.queue_model import ModelQueue, Row
from tests.support.virtual_time import leaping


class Answering(ModelQueue):
    """A model queue that adds fields to its responses to lease calls."""

    def __init__(self, jobs: int, **fields: Any) -> None:
        super().__init__([Row(str(n), {}) for n in range(jobs)])
        self.fields = fields

    def _lease(self, request: Any) -> LeaseResponse:
        return super()._lease(request).model_copy(update=self.fields)


def tick(
    queue: ModelQueue, seconds: float, extra: int, *, fan_out: bool = True, starts: bool = True
) -> tuple[list[int], TickSummary]:
    """Run jobs of `seconds`. Return the numbers of extra workers requested, and the summary.

    Args:
        extra: Maximum number of extra workers.
        starts: Whether requested workers start.
    """
    started: list[int] = []

    async def start(count: int) -> int:
        started.append(count)
        return count if starts else 0

    async def work(job: Job[dict[str, Any]], ctx: JobContext) -> None:
        await asyncio.sleep(seconds)

    async def story() -> TickSummary:
        worker = queue.worker(
            work,
            options=TickOptions(concurrency=1, linger_seconds=0),
            most=5,
            fan_out=FanOut(most=extra),
            start_extra_workers=start,
        )
        return await worker.tick(budget_seconds=60, fan_out=fan_out)

    summary = leaping(story())
    return started, summary


@pytest.mark.parametrize(
    ("due", "most", "fan_out", "expected"),
    [
        (500, 9, True, [4]),
        (500, 2, True, [2]),
        (12, 9, True, [2]),
        (0, 9, True, []),
        (500, 9, False, []),
    ],
)
def test_a_backlog_starts_as_many_as_it_is_worth(
    due: int, most: int, fan_out: bool, expected: list[int]
) -> None:
    """A worker with a backlog requests extra workers once, up to the limit of concurrent runs.

    An extra worker requests none.
    """
    queue = Answering(3, due=due, run=RunState(free=4))

    assert tick(queue, 5, most, fan_out=fan_out, starts=False)[0] == expected


@pytest.mark.parametrize(
    ("alone", "suspects", "due", "expected"),
    [(True, 2, 1, [3]), (True, 2, 0, [2]), (True, 0, 1, [1]), (False, 2, 1, [])],
)
def test_a_run_of_suspects_starts_others_for_what_it_may_not_lease(
    alone: bool, suspects: int, due: int, expected: list[int]
) -> None:
    """A worker that may run only suspects requests one worker for each other group of suspects.

    It requests one more for other jobs.
    """
    queue = Answering(1, due=due, alone=alone, suspects=suspects)

    assert tick(queue, 1, 5)[0] == expected


@pytest.mark.parametrize(("before", "left", "expected"), [(1, 7, [1]), (0, 7, []), (1, 0, [])])
def test_what_a_run_leaves_when_it_leases_no_more_is_counted(
    before: int, left: int, expected: list[int]
) -> None:
    """A worker run near its deadline requests another worker if ready jobs are left."""

    class Later(Answering):
        def _lease(self, request: Any) -> LeaseResponse:
            self.fields["due"] = left if self._now > 40 else before
            return super()._lease(request)

    queue = Later(1)
    started, summary = tick(queue, 300, 5)

    counted = [request for request in queue.requests if request.count_due]
    assert [request.limit for request in counted] == [1, 0]
    assert (started, summary.due_left) == (expected, left)
