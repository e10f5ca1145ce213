"""Requests of a worker that are lost or too large."""

from __future__ import annotations

import asyncio

import pytest

from minutehand.worker import Job, JobContext, TickOptions
from tests.support.queue_model import ModelQueue, Row
from tests.support.virtual_time import leaping
from tests.unit.worker.test_worker import of, start, worker


@pytest.mark.parametrize("fault", ["lose_request", "lose_answer"])
def test_log_lines_are_stored_once_if_a_report_is_lost(fault: str) -> None:
    """Lines that are sent again keep their numbers, so that the queue knows them."""
    queue = ModelQueue([Row("1", {})], faults={"report": fault})

    async def run(job: Job[dict[str, str]], ctx: JobContext) -> None:
        for line in ("first", "second", "third"):
            ctx.log("info", line)
            await asyncio.sleep(3)

    leaping(start(worker, queue, of(run)))

    [lines] = queue.rows["1"].lines.values()
    assert lines == ["first", "second", "third"]


def test_a_lease_without_a_response_is_requested_again_under_its_number() -> None:
    """With a new number, the jobs of the lost response would wait until their leases expire."""
    queue = ModelQueue([Row("1", {})])

    def enqueue() -> None:
        queue.rows["2"] = Row("2", {})
        queue.faults["lease"] = "lose_answer"

    async def run(job: Job[dict[str, str]], ctx: JobContext) -> None:
        await asyncio.sleep(10)

    async def story() -> None:
        asyncio.get_running_loop().call_later(2, enqueue)
        await start(worker, queue, of(run))

    leaping(story())

    assert (queue.rows["2"].status, queue.rows["2"].fence) == ("completed", 1)


def test_a_worker_with_more_slots_than_a_lease_may_bring_leases() -> None:
    """The queue rejects a request for more than a thousand jobs, over all pools."""
    queue = ModelQueue([Row(str(number), {}) for number in range(3)])
    registry = of(_nothing)
    registry.processor("plain", payload=dict)(_plain)
    options = TickOptions(concurrency=1000, threads=1000, linger_seconds=0)

    leaping(start(worker, queue, registry, options=options))

    assert {row.status for row in queue.rows.values()} == {"completed"}
    assert max(sum(pool.limit for pool in one.pools or ()) for one in queue.requests) == 1000
    assert max(one.limit for one in queue.requests) == 1000


async def _nothing(job: Job[dict[str, str]], ctx: JobContext) -> None: ...


def _plain(job: Job[dict[str, str]], ctx: JobContext) -> None: ...
