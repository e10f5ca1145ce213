"""A tick never outlives its deadline; it gives back what it has not begun, and settles the rest.

Against a model of the queue, in time that leaps: its rules under random histories, and each rule
that chance meets too seldom.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from minutehand.queue.data_api import encode
from minutehand.queue.errors import QueueError
from minutehand.queue.models import SettleItem, SettleResponse
from minutehand.worker import (
    Job,
    JobContext,
    Registry,
    TickOptions,
    TickSummary,
    Worker,
)
from tests.support.queue_model import FAULTS, PATIENCE, SETTINGS, ModelQueue, Renewal, Row
from tests.support.virtual_time import LoopClock, leaping

OPTIONS = TickOptions(concurrency=30, linger_seconds=0, poll_seconds=3)
ONE_AT_A_TIME = TickOptions(concurrency=1, linger_seconds=0)


class Work(BaseModel):
    """How long to work and to resist a stop, how many bytes to return, and lines to end with."""

    seconds: float = 1.0
    bytes: int = 0
    resists: float = 0.0
    lines: int = 1


@dataclass
class World:
    """A worker over `queue`, and what its processors did."""

    queue: ModelQueue
    options: TickOptions = OPTIONS
    alive: Counter[str] = field(default_factory=Counter)
    most_alive: int = 0
    ended_at: dict[str, float] = field(default_factory=dict)
    remaining: dict[str, float] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    on_start: Callable[[Job[Work]], None] = lambda _: None

    async def work(self, job: Job[Work], ctx: JobContext) -> str:
        self.runs[job.id] += 1
        self.alive[job.id] += 1
        self.most_alive = max(self.most_alive, self.alive[job.id])
        try:
            self.on_start(job)
            ctx.log("info", "begun")
            self.remaining[job.id] = ctx.remaining
            await asyncio.sleep(job.payload.seconds)
            for _ in range(job.payload.lines):
                ctx.log("info", "ended")
        except asyncio.CancelledError:
            if job.payload.resists:
                await asyncio.sleep(job.payload.resists)
            raise
        finally:
            self.alive[job.id] -= 1
            self.ended_at[job.id] = asyncio.get_running_loop().time()
        return "x" * job.payload.bytes

    def worker(self, **more: Any) -> Worker:
        registry = Registry()
        registry.processor("work", payload=Work)(self.work)
        options = {"clock": LoopClock(), "options": self.options, "worker_id": "w", **more}
        return Worker(SETTINGS, registry=registry, queue=self.queue, **options)

    async def tick(self, budget_seconds: float = math.inf) -> TickSummary:
        return await self.worker().tick(budget_seconds=budget_seconds)


def too_early(renewals: Sequence[Renewal], rows: dict[str, Row]) -> list[tuple[Renewal, Renewal]]:
    """Pairs of answered looks at one job that are closer than three seconds, or a quarter lease."""
    last: dict[tuple[str, int], Renewal] = {}
    found = []

    def least(job_id: str) -> float:
        return rows[job_id].lease_seconds / 4.1

    for each in renewals:
        lease = (each.job_id, each.fence)
        before = last.get(lease)
        if before and each.is_bare and each.at - before.at < min(2.9, least(each.job_id)):
            found.append((before, each))
        if each.outcome != "lost":
            last[lease] = each
    return found


JOB = st.tuples(
    st.floats(0, 120),
    st.sampled_from([30.0, 60.0, 90.0]),
    st.sampled_from([0, 0, 200_000]),
    st.sampled_from([0.0, 0.0, 2.0]),
)
EVENT = st.tuples(st.floats(0, 100), st.sampled_from(["cancel", "take_back"]), st.integers(0, 7))


# the same histories each time, and none made smaller for minutes
@settings(max_examples=40, derandomize=True, phases=[Phase.generate])
@given(
    jobs=st.lists(JOB, min_size=1, max_size=8),
    events=st.lists(EVENT, max_size=4),
    # apart from each other: a queue that is away for most of a lease may lose it
    faults=st.dictionaries(st.integers(1, 8).map(lambda n: 2 * n), st.sampled_from(FAULTS)),
)
def test_no_history_breaks_a_rule_of_the_worker(
    jobs: list[tuple[float, float, int, float]],
    events: list[tuple[float, str, int]],
    faults: dict[int | str, str],
) -> None:
    """Jobs of any length, cancels, leases taken away, requests and answers lost or hanging."""
    rows = [
        Row(str(n), {"seconds": seconds, "bytes": size, "resists": resists}, lease)
        for n, (seconds, lease, size, resists) in enumerate(jobs)
    ]
    queue = ModelQueue(rows, faults=faults)
    world = World(queue)
    taken: list[tuple[float, str, str]] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(world.tick())

        def happen(at: float, kind: str, job_id: str) -> None:
            # one that is taken back before it begins runs for nothing, and again
            is_leased = queue.rows[job_id].status == "processing"
            if world.alive[job_id] or (kind == "take_back" and is_leased):
                taken.append((at, kind, job_id))
            getattr(queue, kind)(job_id)

        for at, kind, number in events:
            loop.call_later(at, happen, at, kind, rows[number % len(rows)].id)
        await ticking
        before = len(queue.calls)
        await asyncio.sleep(300)
        assert len(queue.calls) == before, "it calls after its end"

    leaping(story())

    assert queue.expired == [], "a lease was not renewed"
    assert faults or too_early(queue.renewals, queue.rows) == []
    # one that resists is given up, and its job may run again beside it
    assert world.most_alive <= 1 or any(resists for *_, resists in jobs)
    assert events or all(row.status == "completed" for row in rows)
    for row in rows:
        for fence, outcome in row.settled.items():
            assert outcome != "completed" or row.lines[fence] == ["begun", "ended"]
        assert sum(outcome == "completed" for outcome in row.settled.values()) <= 1
        again = sum(kind == "take_back" and job == row.id for _, kind, job in taken)
        assert world.runs[row.id] <= 1 + again, "it ran again for no reason"
    for at, kind, job_id in taken:
        if kind == "cancel":
            heard = 5 + len(faults) * (PATIENCE + 1)
            resists = rows[int(job_id)].payload["resists"]
            assert world.ended_at[job_id] <= at + heard + resists, "it was not stopped in time"
    assert all(len(encode([one.wire() for one in items])) < 1_200_000 for items in queue.settles)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_lost_report_carried_is_sent_again(fault: str) -> None:
    queue = ModelQueue([Row("1", {"seconds": 60})], faults=dict.fromkeys((1, 2, 3), fault))
    # its only report is on its way when it ends, and its last lines are more than one carries
    quick = ModelQueue([Row("1", {"seconds": 0.005, "lines": 700})], faults={1: "lose_request"})

    for each, lines in ((queue, 1), (quick, 700)):
        leaping(World(each).tick())
        assert each.rows["1"].lines == {1: ["begun", *["ended"] * lines]}


def test_a_result_that_is_refused_does_not_take_others_with_it() -> None:
    """Its job fails, and where that is refused too it runs again; a retry stays one."""

    class Refusing(ModelQueue):
        async def settle(self, items: Sequence[SettleItem], **more: Any) -> SettleResponse:
            for item in items:
                told = (item.job_id, item.outcome)
                if told in refused or (item.error and item.error.message == "no"):
                    raise QueueError("refused", status=400, code="PT400")
            return await super().settle(items, **more)

    def fail(job: Job[Work]) -> None:
        if job.id == "again":
            raise ValueError("no")

    refused = {("bad", "completed"), ("worse", "completed"), ("worse", "failed")}
    queue = Refusing([Row(name, {}) for name in ("worse", "bad", "good", "again")])
    leaping(World(queue, on_start=fail).tick(10))

    settled = {name: row.settled.get(1) for name, row in queue.rows.items()}
    assert (settled["worse"], settled["bad"], settled["good"]) == (None, "failed", "completed")
    assert settled["again"] == "retry"


def test_what_could_not_be_renewed_for_a_whole_lease_is_stopped() -> None:
    """Cut off from the queue, its worker must take it that another one has the job by now."""
    queue = ModelQueue([Row("1", {"seconds": 300}, 30.0)])
    queue.faults = dict.fromkeys(range(1, 400), "lose_request")
    world = World(queue)

    leaping(world.tick())

    assert 30 < world.ended_at["1"] < 32
    assert queue.settles == []


@pytest.mark.parametrize(("cancelled", "resists"), [(True, 100), (False, 100), (False, 0)])
def test_a_lease_that_is_lost_is_not_settled(cancelled: bool, resists: float) -> None:
    """Whatever else stopped its processor, which it does at the next report: it is another's."""
    row = Row("1", {"seconds": 100, "resists": resists}, 30.0)
    queue = ModelQueue([row])
    world = World(queue, TickOptions(concurrency=1, linger_seconds=0, grace_seconds=600))

    async def story() -> TickSummary:
        loop = asyncio.get_running_loop()
        if cancelled:
            loop.call_later(1, queue.cancel, "1")
        loop.call_later(15, setattr, row, "status", "failed")
        return await world.tick()

    assert leaping(story()).lost == 1
    assert queue.settles == []
    assert world.ended_at["1"] < 30 + resists


@pytest.mark.parametrize("resists", [0, 100])
def test_a_tick_is_over_before_its_time_is(resists: float) -> None:
    queue = ModelQueue([Row("1", {"seconds": 100, "resists": resists})])

    async def story() -> float:
        await World(queue).tick(10)
        return asyncio.get_running_loop().time()

    assert leaping(story()) <= 10
    assert queue.rows["1"].settled == {1: "retry"}


def test_a_job_that_comes_when_work_must_stop_is_given_back_unstarted() -> None:
    queue = ModelQueue([Row("1", {"seconds": 7.7}), Row("2", {})], faults={"settle": "hang"})
    world = World(queue, ONE_AT_A_TIME)

    summary = leaping(world.tick(10))

    assert (world.runs["2"], queue.rows["2"].settled) == (0, {1: "released"})
    assert (summary.released, summary.lost) == (1, 0)


def test_a_job_that_began_late_in_a_run_is_not_charged_for_its_end() -> None:
    """It had less than half of a run; the next one may have more."""
    queue = ModelQueue([Row("early", {"seconds": 60}), Row("late", {"seconds": 300})])

    leaping(World(queue, ONE_AT_A_TIME).tick(100))

    assert [row.settled[1] for row in queue.rows.values()] == ["completed", "released"]


def test_a_processor_knows_its_time_and_is_stopped_at_its_jobs_deadline() -> None:
    rows = [
        Row("none", {"seconds": 300}, deadline=20),
        Row("longer", {"seconds": 300}, deadline=20, timeout=50),
        Row("shorter", {"seconds": 300}, timeout=10),
        Row("tick", {"seconds": 1}, deadline=500),
    ]
    world = World(ModelQueue(rows))

    leaping(world.tick(100))

    for row in rows[:2]:
        assert 20 <= world.ended_at[row.id] < 21
        assert row.settled == {1: "retry"}, "the database decides that it was the last"
        assert 19 < world.remaining[row.id] <= 20
    assert 9 < world.remaining["shorter"] <= 10
    assert world.runs["shorter"] > 5
    assert 50 < world.remaining["tick"] <= 100


def test_a_host_that_goes_down_gives_its_jobs_back() -> None:
    work = {"seconds": 20}
    queue = ModelQueue([Row("1", work), Row("2", work | {"resists": 100})])

    async def story() -> float:
        loop, worker = asyncio.get_running_loop(), World(queue).worker()
        loop.call_later(5, worker.stop)
        loop.call_later(5, lambda: queue.rows.update(late=Row("late", {})))
        await worker.run_forever()
        return loop.time()

    assert leaping(story()) < 8
    assert queue.rows.pop("late").status == "pending"
    assert {row.settled[1] for row in queue.rows.values()} == {"released"}


def test_a_run_that_is_cut_off_leaves_no_processor_behind() -> None:
    """Nobody renews its leases any more, and nobody would settle."""
    queue = ModelQueue([Row("1", {"seconds": 300})])
    world = World(queue)

    async def story() -> None:
        ticking = asyncio.create_task(world.tick())
        await asyncio.sleep(5)
        ticking.cancel()
        await asyncio.wait([ticking])
        await asyncio.sleep(1)

    leaping(story())
    assert (world.alive["1"], queue.settles) == (0, [])
