"""A tick against a model of the queue, in time that leaps: its rules under random histories.

A lease that it holds is renewed until its settle was answered, no more often than needed; a job has
one processor at a time; what ran is settled once; after its end it makes no call.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from infra.bench.scratch import scratch_settings
from minutehand.clock import SystemClock
from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.queue.models import (
    ErrorInfo,
    JobId,
    JobTypeSpec,
    LeaseRequest,
    LeaseResponse,
    MaintenanceResponse,
    ReportItem,
    SettleItem,
    SettleResponse,
    SettleResult,
    UnreadableLease,
    WorkerRunAdmission,
)
from minutehand.worker import FanOut, Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.channel import Channel
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.settler import Settler
from minutehand.worker.summary import TickSummary
from minutehand.worker.tick import Tick
from tests.support.queue_model import (
    FAULTS,
    LATENCY,
    PATIENCE,
    ModelQueue,
    Renewal,
    Row,
    bytes_of,
)
from tests.support.virtual_time import LoopClock, leaping


class Work(BaseModel):
    """How long to work and to resist a stop, how many bytes to return, and lines to end with."""

    seconds: float = 1.0
    bytes: int = 0
    resists: float = 0.0
    lines: int = 1


@dataclass
class World:
    """A tick over `rows`, and what its processors did."""

    queue: ModelQueue
    options: TickOptions = field(
        default_factory=lambda: TickOptions(concurrency=30, linger_seconds=0, poll_seconds=3)
    )
    renew_outside: Callable[[Sequence[ReportItem], str, str], None] | None = None
    alive: Counter[str] = field(default_factory=Counter)
    most_alive: int = 0
    ended_at: dict[str, float] = field(default_factory=dict)
    remaining: dict[str, float] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    on_start: Callable[[Job[Work]], None] = lambda _: None
    at_start: list[tuple[str, int, int]] = field(default_factory=list)
    made: Tick | None = None

    async def work(self, job: Job[Work], ctx: JobContext) -> str:
        self.runs[job.id] += 1
        self.at_start.append((job.id, job.attempt, self.alive[job.id]))
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

    @property
    def registry(self) -> Registry:
        made = Registry()
        made.processor("work", payload=Work)(self.work)
        return made

    async def tick(self, budget_seconds: float = math.inf, **more: Any) -> TickSummary:
        self.made = Tick(
            self.queue,
            self.registry,
            worker_id="w",
            clock=LoopClock(),
            options=self.options,
            budget_seconds=budget_seconds,
            renew_outside=self.renew_outside,
            **more,
        )
        return await self.made.run()


def too_early(renewals: Sequence[Renewal], rows: dict[str, Row]) -> list[tuple[Renewal, Renewal]]:
    """Pairs of answered renewals of one lease that are closer than a quarter of it."""
    last: dict[tuple[str, int], Renewal] = {}
    found = []
    for each in renewals:
        lease = (each.job_id, each.fence)
        before = last.get(lease)
        if before and each.is_bare and each.at - before.at < rows[each.job_id].lease_seconds / 4.1:
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


# as the engine's machine: the same histories each time, and none made smaller for minutes
@settings(max_examples=25, derandomize=True, phases=[Phase.generate])
@given(
    jobs=st.lists(JOB, min_size=1, max_size=8),
    events=st.lists(EVENT, max_size=4),
    # apart from each other: a queue that is away for most of a lease may lose it
    faults=st.dictionaries(st.integers(1, 8).map(lambda n: 2 * n), st.sampled_from(FAULTS)),
)
def test_no_history_breaks_a_rule_of_the_worker(
    jobs: list[tuple[float, float, int, float]],
    events: list[tuple[float, str, int]],
    faults: dict[int, str],
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
            heard = queue.rows[job_id].lease_seconds / 3 + len(faults) * (PATIENCE + 1)
            assert world.ended_at[job_id] <= at + heard + 3, "its processor was not stopped"
    assert all(bytes_of(items) < 1.2 * Settler.BATCH_BYTES for items in queue.settles)


def test_a_settle_that_hangs_keeps_the_lease_of_a_cancelled_job_and_says_so_seldom() -> None:
    """Its answer to a renewal is "cancel", which is a renewal all the same."""
    queue = ModelQueue([Row("1", {"seconds": 0.1}, 30.0)])
    queue.settle_faults = ["hang"] * 20
    world = World(queue)
    world.on_start = lambda job: queue.cancel(job.id)

    leaping(world.tick())

    assert queue.expired == []
    assert len(queue.renewals) > 5
    assert {each.outcome for each in queue.renewals} == {"cancel"}
    assert too_early(queue.renewals, queue.rows) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_lost_report_carried_is_sent_again(fault: str) -> None:
    """Once, and in its order, whether or not it had arrived."""
    queue = ModelQueue([Row("1", {"seconds": 60})], faults={1: fault, 2: fault})

    leaping(World(queue).tick())

    assert queue.calls[1] == "report"
    assert queue.rows["1"].lines == {1: ["begun", "ended"]}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_report_carries_at_the_end_is_settled_if_it_is_lost(fault: str) -> None:
    """No report follows the settle, so it waits two seconds for the one that is on its way."""
    queue = ModelQueue([Row("1", {"seconds": LATENCY / 4})], faults={1: fault})

    summary = leaping(World(queue).tick())

    assert queue.calls[1] == "report"
    assert queue.rows["1"].lines == {1: ["begun", "ended"]} or fault == "hang"
    assert (summary.completed, summary.duration_ms < 2500) == (1, True)


def test_results_are_settled_a_megabyte_at_a_time() -> None:
    """A larger call is refused by gateways, and every job in it with it."""
    queue = ModelQueue([Row(str(n), {"bytes": 200_000}) for n in range(20)])

    leaping(World(queue).tick())

    assert all(row.status == "completed" for row in queue.rows.values())
    assert [len(items) for items in queue.settles] == [4, 4, 4, 4, 4]
    assert all(bytes_of(items) <= Settler.BATCH_BYTES for items in queue.settles)


def test_a_call_settles_five_hundred_jobs_at_most() -> None:
    settler = Settler(
        ModelQueue(), TickSummary(worker_id="w", tick_id="t"), Deadlines.until(0, math.inf),
        clock=SystemClock(), is_stopping=lambda: False,
    )  # fmt: skip
    items = [SettleItem(job_id=JobId("1"), fence=1, outcome="released")] * 1001

    assert [len(batch) for batch in settler._batches(items)] == [500, 500, 1]


def test_a_result_that_is_refused_does_not_take_others_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its job fails, and where that is refused too, it runs again; each leaves its line."""

    class Refusing(ModelQueue):
        async def settle(self, items: Sequence[SettleItem], **more: Any) -> SettleResponse:
            if {(item.job_id, item.outcome) for item in items} & {
                ("bad", "completed"), ("worse", "completed"), ("worse", "failed"),
            }:  # fmt: skip
                raise QueueError("refused", status=400, code="PT400")
            return await super().settle(items, **more)

    queue = Refusing([Row(name, {}) for name in ("worse", "gone", "bad", "good")])
    caplog.set_level("INFO")

    async def story() -> TickSummary:
        asyncio.get_running_loop().call_later(
            0.95, lambda: setattr(queue.rows["gone"], "status", "failed")
        )
        return await World(queue).tick(10)

    summary = leaping(story())

    settled = {name: row.settled for name, row in queue.rows.items()}
    assert settled == {"worse": {}, "gone": {}, "bad": {1: "failed"}, "good": {1: "completed"}}
    assert (summary.completed, summary.failed, summary.lost) == (1, 1, 1)
    assert {item.duration_ms for items in queue.settles for item in items} == {1000}
    said = [each.__dict__ for each in caplog.records if "settled" in each.__dict__]
    assert {(each["job_id"], each["levelname"], each["settled"]) for each in said} == {
        ("gone", "WARNING", "stale"),
        ("bad", "ERROR", "applied"),
        ("good", "INFO", "applied"),
    }


def test_a_settle_that_never_gets_through_is_repeated_until_the_end() -> None:
    queue = ModelQueue([Row("1", {}), Row("2", {})])
    queue.settle_faults = ["lose_request"] * 99

    summary = leaping(World(queue).tick(10))

    assert (summary.completed, summary.lost, summary.error) == (0, 2, "the request was lost")
    assert 20 < len(queue.settles) < 30


def test_a_job_whose_settle_finds_it_cancelled_counts_as_cancelled() -> None:
    class Cancelling(ModelQueue):
        def _settle(self, item: SettleItem) -> SettleResult:
            return super()._settle(item).model_copy(update={"outcome": "cancelled"})

    summary = leaping(World(Cancelling([Row("1", {})])).tick(10))

    assert (summary.cancelled, summary.completed, summary.lost) == (1, 0, 0)


def test_a_host_that_goes_down_does_not_repeat_a_settle() -> None:
    queue = ModelQueue([Row("1", {"seconds": 9})])
    queue.settle_faults = ["lose_request"] * 99

    async def story() -> TickSummary:
        stopping = asyncio.Event()
        asyncio.get_running_loop().call_later(5, stopping.set)
        return await World(queue).tick(stopping=stopping)

    assert leaping(story()).lost == 1
    assert len(queue.settles) == 1


def test_a_job_that_comes_back_to_its_worker_has_one_processor_at_a_time() -> None:
    """The new lease says that the old one is over, before any report does."""
    queue = ModelQueue([Row("1", {"seconds": 20})])
    world = World(queue)

    async def story() -> None:
        asyncio.get_running_loop().call_later(5, queue.take_back, "1")
        await world.tick()

    leaping(story())

    assert world.at_start == [("1", 1, 0), ("1", 2, 0)]
    assert queue.rows["1"].settled == {2: "completed"}


def test_a_lease_that_is_answered_twice_is_run_once() -> None:
    """By its fence, in whatever answer it comes."""
    queue = ModelQueue([Row("1", {"seconds": 20})])
    queue.repeats = True
    world = World(queue)

    leaping(world.tick())

    assert queue.calls.count("lease") > 2
    assert (world.runs["1"], queue.rows["1"].settled) == (1, {1: "completed"})


def test_a_job_that_comes_when_work_must_stop_is_given_back_unstarted() -> None:
    """With the answer to a settle that had to be repeated."""
    queue = ModelQueue([Row("1", {"seconds": 7.7}), Row("2", {})])
    queue.settle_faults = ["hang"]
    world = World(queue, options=TickOptions(concurrency=1, linger_seconds=0))

    summary = leaping(world.tick(budget_seconds=10))

    assert (world.runs["2"], queue.rows["2"].settled) == (0, {1: "released"})
    assert (summary.released, summary.lost, world.made and len(world.made.run_ms)) == (1, 0, 1)


def test_a_processor_that_resists_its_stop_is_settled_before_the_tick_is_over() -> None:
    """Its host ends then, and a whole lease would pass before the job runs again."""
    queue = ModelQueue([Row("1", {"seconds": 100, "resists": 100})])

    leaping(World(queue).tick(budget_seconds=10))

    assert queue.rows["1"].settled == {1: "retry"}


def test_what_could_not_be_renewed_for_a_whole_lease_is_stopped() -> None:
    """Cut off from the queue, its worker must take it that another one has the job by now."""
    queue = ModelQueue([Row("1", {"seconds": 300}, 30.0)])
    queue.faults = dict.fromkeys(range(1, 400), "lose_request")
    world = World(queue)

    leaping(world.tick())

    assert 30 < world.ended_at["1"] < 32
    assert queue.settles == []


def test_a_wake_up_at_the_end_of_a_run_is_left_to_the_next() -> None:
    """It was heard, and publishers were still at work: nothing was looked for."""
    queue = ModelQueue([Row("1", {"seconds": 5})])
    world = World(queue)
    registry = world.registry

    async def publish() -> int:
        if queue.rows["1"].status == "processing":
            await asyncio.sleep(100)
        return 0

    async def story() -> bool:
        wakeups = asyncio.Event()
        asyncio.get_running_loop().call_later(4.5, wakeups.set)
        registry.publisher("app", publish)
        await Tick(
            queue, registry, worker_id="w", clock=LoopClock(), options=world.options,
            wakeups=wakeups,
        ).run()  # fmt: skip
        return wakeups.is_set()

    assert leaping(story())


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
        assert not world.alive["1"]

    leaping(story())

    assert queue.settles == []


@pytest.mark.parametrize(
    ("event", "outcome", "ended"), [("stopping", "released", 7), ("draining", "completed", 20)]
)
def test_a_run_that_is_ended_from_outside_leases_no_more(
    event: str, outcome: str, ended: float
) -> None:
    """A host that goes down has two seconds for each job; a newer run lets the old one finish."""
    work = {"seconds": 20}
    queue = ModelQueue([Row("1", work), Row("2", work | {"resists": 100})])

    async def story() -> float:
        loop, happens, wakeups = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        loop.call_later(5, happens.set)
        loop.call_later(5, lambda: queue.rows.update(late=Row("late", {})))
        loop.call_later(6, wakeups.set)
        await World(queue).tick(math.inf, wakeups=wakeups, **{event: happens})
        assert wakeups.is_set() or event == "stopping", "it is for the newer run"
        return loop.time()

    assert leaping(story()) == pytest.approx(ended, abs=0.5)
    assert queue.rows.pop("late").status == "pending"
    assert {row.settled[1] for row in queue.rows.values()} == {outcome}


def test_a_processor_is_stopped_at_its_jobs_deadline() -> None:
    """Also where its type has no time-out, or a longer one."""
    rows = [Row(str(limit), {"seconds": 300}, deadline=20, timeout=limit) for limit in (None, 50)]
    queue = ModelQueue(rows)
    world = World(queue)

    leaping(world.tick())

    for row in rows:
        assert 20 <= world.ended_at[row.id] < 21
        assert row.settled == {1: "retry"}, "the database decides that it was the last"


def test_a_processor_knows_how_long_it_may_run() -> None:
    """Until its job's deadline, where that is before the end of the tick."""
    world = World(ModelQueue([Row("1", {}, deadline=20), Row("2", {}), Row("3", {}, deadline=500)]))

    leaping(world.tick(budget_seconds=100))

    assert 19 < world.remaining["1"] <= 20
    assert 50 < world.remaining["2"] == world.remaining["3"] <= 100


def test_the_last_lines_of_a_job_come_with_its_settle() -> None:
    """All of them: no report follows."""
    queue = ModelQueue([Row("1", {"lines": 700})])

    leaping(World(queue).tick())

    assert queue.rows["1"].lines == {1: ["begun", *["ended"] * 700]}


def test_a_lease_that_is_lost_after_a_cancel_is_not_settled() -> None:
    """Whatever else stopped its processor: the job is another's."""
    queue = ModelQueue([Row("1", {"seconds": 100, "resists": 100}, 30.0)])
    world = World(queue, options=TickOptions(concurrency=1, linger_seconds=0, grace_seconds=600))

    async def story() -> TickSummary:
        loop = asyncio.get_running_loop()
        loop.call_later(1, queue.cancel, "1")
        loop.call_later(15, queue.take_back, "1")
        return await world.tick()

    summary = leaping(story())

    assert [each.outcome for each in queue.renewals][-2:] == ["cancel", "lost"]
    assert (queue.settles, summary.lost) == ([], 1)


def test_a_cancelled_processor_has_its_grace_whatever_it_reports_meanwhile() -> None:
    """Each report is answered by the same cancel: one of them is enough."""
    queue = ModelQueue([Row("1", {"seconds": 100}, 30.0)])
    ended: list[float] = []
    registry = Registry()

    @registry.processor("work", payload=Work, timeout=21)
    async def work(job: Job[Work], ctx: JobContext) -> None:
        try:
            await asyncio.sleep(job.payload.seconds)
        finally:
            began = asyncio.get_running_loop().time()
            try:
                for _ in range(4):
                    ctx.log("info", "cleaning up")
                    await asyncio.sleep(1)
            finally:
                ended.append(asyncio.get_running_loop().time() - began)

    options = TickOptions(concurrency=1, linger_seconds=0)

    async def story() -> None:
        asyncio.get_running_loop().call_later(1, queue.cancel, "1")
        await Tick(
            queue, registry, worker_id="w", clock=LoopClock(), options=options,
            budget_seconds=math.inf,
        ).run()  # fmt: skip

    leaping(story())

    assert ended == [pytest.approx(4)]
    assert [each.outcome for each in queue.renewals].count("cancel") > 1


def test_a_lost_lease_is_not_renewed_from_outside_the_loop() -> None:
    """The watchdog renews what is held; a processor that resists its stop holds nothing."""
    work = {"seconds": 100, "resists": 100}
    queue = ModelQueue([Row(job, work) for job in ("lost", "held", "cancelled")])
    queue.rows["settling"] = Row("settling", {"seconds": 58})
    queue.settle_faults = ["hang"]
    renewed = threading.Event()
    items: list[str] = []

    def renew(sent: Sequence[ReportItem], worker_id: str, tick_id: str) -> None:
        items.extend(item.job_id for item in sent)
        renewed.set()

    world = World(
        queue,
        options=TickOptions(
            concurrency=4, linger_seconds=0, grace_seconds=600, renew_outside_seconds=0.1
        ),
        renew_outside=renew,
    )
    blocked: list[bool] = []
    renewed_at: dict[str, float] = {}

    async def story() -> None:
        loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(world.tick())

        def block() -> None:
            blocked.append(renewed.wait(8))
            assert world.made is not None
            world.made._renew_all()
            assert ("held", "work") in world.made._watchdog._running()  # type: ignore[union-attr]
            renewed_at.update({at.job_id: at.renewed_at for at in world.made._running.values()})

        loop.call_later(1, lambda: setattr(queue.rows["lost"], "status", "failed"))
        loop.call_later(1, queue.cancel, "cancelled")
        loop.call_later(60, block)
        await ticking
        assert world.made is not None
        assert world.made._watchdog is not None
        assert world.made._watchdog._stop.is_set()

    leaping(story())

    assert blocked == [True]
    assert set(items) == {"held", "cancelled", "settling"}
    assert (renewed_at["held"], renewed_at["cancelled"], renewed_at["lost"] < 60) == (60, 60, True)


def worker_of(queue: ModelQueue, **options: Any) -> Worker:
    """One on the loop's own clock, whose database is `queue`."""
    settings, registry = scratch_settings("http://127.0.0.1:9"), World(queue).registry
    return Worker(settings, registry=registry, queue=queue, clock=LoopClock(), **options)


@pytest.mark.parametrize("why", ["stopped", "replaced", "out of time"])
async def test_a_worker_that_is_stopped_does_not_look_again_for_one_that_was_refused(
    why: str,
) -> None:
    """Between the end of its run and another look: the host is going down."""
    queue, draining = ModelQueue(), asyncio.Event()
    worker = worker_of(queue, most=1)

    def stop() -> bool:
        if why == "stopped":
            worker.stop()
        if why == "replaced":
            draining.set()
        return queue.calls.count("begin_run") == 1

    queue.on_end_run = stop
    budget = 2 if why == "out of time" else 60
    await asyncio.wait_for(worker.tick(budget_seconds=budget, draining=draining), 30)

    assert queue.calls.count("begin_run") == 1


def test_a_worker_asks_for_room_and_for_the_types_it_knows() -> None:
    """A run without an end counts for a day; one that is not admitted leases nothing."""
    asked: list[tuple[int, float]] = []
    types: list[tuple[str, ...] | None] = []
    limits: list[int] = []

    class Noting(ModelQueue):
        async def begin_run(
            self, run_id: str, *, worker_id: str, most: int, seconds: float
        ) -> WorkerRunAdmission:
            asked.append((most, seconds))
            return WorkerRunAdmission(admitted=len(asked) < 4)

        async def end_run(self, run_id: str) -> bool:
            raise QueueError("refused")

        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            types.append(request.job_types)
            limits.append(request.limit)
            return await super().lease(request)

    async def story() -> TickSummary:
        worker = worker_of(Noting(), most=4)
        await worker.tick()
        await worker.tick(budget_seconds=60, job_types=["strange", "work"])
        await worker.tick(budget_seconds=60, job_types=["strange"])
        return await worker.tick(budget_seconds=60)

    crowded = leaping(story())

    assert asked == [(4, 86_400), (4, 60), (4, 60), (4, 60)]
    assert (types, limits) == ([("work",), ("work",), ()], [5, 5, 0])
    assert (crowded.crowded_out, crowded.calls) == (True, 0)


@pytest.mark.parametrize("rows", [[Row("1", {})], []])
def test_a_run_looks_again_for_those_that_were_refused_beside_it(rows: list[Row]) -> None:
    """Until none was, or it is refused itself; what it did before is what it reports."""

    class Failing(ModelQueue):
        async def begin_run(
            self, run_id: str, *, worker_id: str, most: int, seconds: float
        ) -> WorkerRunAdmission:
            admission = await super().begin_run(
                run_id, worker_id=worker_id, most=most, seconds=seconds
            )
            if self.calls.count("begin_run") == 3:
                raise QueueError("refused")
            return admission

    queue = Failing([replace(row) for row in rows])
    queue.on_end_run = lambda: bool(queue.rows.setdefault("1", Row("1", {})))

    async def story() -> TickSummary:
        return await worker_of(queue, most=1).tick(budget_seconds=60)

    assert leaping(story()).completed == 1
    assert queue.calls.count("begin_run") == 3


def test_types_are_published_once_and_again_where_they_are_replaced() -> None:
    published: list[int] = []

    class Noting(ModelQueue):
        async def register_job_types(self, types: Sequence[JobTypeSpec]) -> int:
            published.append(len(types))
            return len(types)

    async def story() -> None:
        worker = worker_of(Noting())
        for _ in range(2):
            await worker.register()
        assert published == [1]
        worker.adopt(worker.registry)
        await worker.register()
        await worker.register(force=True)
        worker.adopt(Registry())
        await worker.register(force=True)

    leaping(story())

    assert published == [1, 1, 1]


def test_a_worker_says_where_its_log_and_its_code_are() -> None:
    code = {"commit": "c", "source": "https://git.example/x"}
    settings = scratch_settings("http://127.0.0.1:9").model_copy(update=code)
    origin = {"log_group": "g"}

    said = [
        Worker(settings, options=each).options.origin
        for each in (TickOptions(origin=origin), TickOptions(), None)
    ]

    assert said == [code | origin, code, code]


def test_a_loop_looks_when_it_is_woken_when_work_falls_due_and_each_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a wake-up that found nothing a moment later: the commit may follow it."""
    caplog.set_level("INFO")
    looked: list[float] = []

    class Noting(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            looked.append(asyncio.get_running_loop().time())
            return LeaseResponse(next_due_in_ms=300 if len(looked) == 6 else 60_000)

    async def story() -> None:
        loop, wakeups = asyncio.get_running_loop(), asyncio.Event()
        worker = worker_of(Noting())
        loop.call_later(2.5, wakeups.set)
        loop.call_later(4.5, worker.stop)
        await worker.run_forever(wakeups)
        assert {task.get_name() for task in asyncio.all_tasks()} & {"tick", "replaced"} == set()

    leaping(story())

    assert looked == pytest.approx([0, 1, 2, 2.5, 2.6, 3.6, 3.9], abs=0.01)
    assert [each.message for each in caplog.records].count("Starting job execution") == 1


async def test_a_run_that_fails_makes_room_for_the_next() -> None:
    """Else each outage takes a place for as long as a run may last."""
    ended: list[str] = []

    class Away(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            raise QueueUnavailable("away")

        async def end_run(self, run_id: str) -> bool:
            ended.append(run_id)
            return False

    queue = Away()
    worker = worker_of(queue, most=1)
    with pytest.raises(QueueUnavailable):
        await worker.tick(budget_seconds=60)

    assert len(ended) == 1


def test_a_loop_without_its_database_tries_again_more_and_more_slowly() -> None:
    """To five seconds at most: a restart finds hundreds of workers that wait. Then as at first."""
    tried: list[float] = []

    class Away(ModelQueue):
        async def register_job_types(self, types: Sequence[JobTypeSpec]) -> int:
            tried.append(asyncio.get_running_loop().time())
            if len(tried) == 8:
                return 1
            raise QueueUnavailable("away")

    async def story() -> None:
        loop, worker = asyncio.get_running_loop(), worker_of(Away())
        loop.call_later(21.5, worker.adopt, worker.registry)
        loop.call_later(24, worker.stop)
        await worker.run_forever()
        await worker.aclose()

    leaping(story())

    pauses = [late - early for early, late in pairwise(tried)]
    assert pauses == pytest.approx([0.4, 0.8, 1.6, 3.2, 5, 5, 5, 1, 0.4, 0.8], abs=0.1)


def test_no_more_extra_workers_are_started_than_the_stage_has_room_for() -> None:
    """Those refused would have been paid for, and leased nothing."""
    asked: list[int] = []

    class Crowded(ModelQueue):
        async def begin_run(
            self, run_id: str, *, worker_id: str, most: int, seconds: float
        ) -> WorkerRunAdmission:
            return WorkerRunAdmission(admitted=True, free=2)

        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            return (await super().lease(request)).model_copy(update={"due": 500})

    async def start(count: int) -> int:
        asked.append(count)
        return count

    async def story() -> None:
        queue = Crowded([Row("1", {"seconds": 1})])
        worker = worker_of(
            queue, most=3, fan_out=FanOut(most=9), start_extra_workers=start,
            options=TickOptions(concurrency=1, linger_seconds=0),
        )  # fmt: skip
        await worker.tick(budget_seconds=60)
        assert asked
        assert max(asked) == 2
        # an extra worker starts none of its own
        asked.clear()
        for most in (3, None):
            worker._most = most
            queue.rows[str(most)] = Row(str(most), {"seconds": 1})
            await worker.tick(budget_seconds=60, fan_out=False)
        assert asked == []
        await worker.aclose()

    leaping(story())


def test_a_run_whose_last_request_got_no_answer_does_not_look_once_more() -> None:
    """What that one leased would come as the answer to a look that takes nothing."""
    most: list[int] = []

    class Away(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            most.append(request.limit)
            if asyncio.get_running_loop().time() > 40:
                raise QueueUnavailable("away")
            return (await super().lease(request)).model_copy(update={"due": 3})

    async def start(count: int) -> int:
        return count

    world = World(Away([Row("1", {"seconds": 300})]))
    leaping(world.tick(60, fan_out=FanOut(most=2), start_extra_workers=start))

    assert 0 not in most


@pytest.mark.parametrize(("usual", "outcome"), [(None, "retry"), (600, "released")])
def test_a_short_run_charges_no_attempt_where_others_are_longer(
    usual: float | None, outcome: str
) -> None:
    """One of those may bring the job to its end."""
    queue = ModelQueue([Row("1", {"seconds": 99})])
    options = TickOptions(linger_seconds=0, usual_seconds=usual)

    leaping(World(queue, options).tick(10))

    assert queue.rows["1"].settled == {1: outcome}


@pytest.mark.parametrize("due", [1, 0])
def test_the_last_look_of_a_run_counts_what_is_left_and_leases_none_of_it(due: int) -> None:
    """No time is left for it here: an extra worker is started instead. Idle costs no look."""
    started: list[int] = []
    counted_at: list[float] = []

    class Backlogged(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            if request.count_due:
                counted_at.append(asyncio.get_running_loop().time())
                self.rows["late"] = Row("late", {})
            answer = await super().lease(request)
            return answer.model_copy(update={"due": 7 if request.count_due else due})

    async def start(count: int) -> int:
        started.append(count)
        return count

    queue = Backlogged([Row("1", {"seconds": 300})])
    world = World(queue)

    summary = leaping(world.tick(60, fan_out=FanOut(most=2), start_extra_workers=start))

    late = queue.rows.get("late")
    assert (late and late.status, started) == (("pending", [1]) if due else (None, []))
    assert summary.due_left == 7 * due
    assert counted_at == pytest.approx([50] * due, abs=0.1), "when it leases no more"


def test_a_backlog_that_a_settle_shows_starts_extra_workers() -> None:
    """Its answer counts as that of any lease call."""
    started: list[int] = []

    class Growing(ModelQueue):
        async def settle(self, *args: Any, **more: Any) -> SettleResponse:
            answer = await super().settle(*args, **more)
            assert answer.lease is not None
            return answer.model_copy(update={"lease": answer.lease.model_copy(update={"due": 500})})

    async def start(count: int) -> int:
        started.append(count)
        return count

    world = World(Growing([Row("1", {"seconds": 5})]))
    leaping(world.tick(60, fan_out=FanOut(most=99), start_extra_workers=start))

    assert started == [16], "thirty at a time, five seconds each"


def test_each_wake_up_has_a_run_with_room_look() -> None:
    """By a run with room; maintenance that makes a job ready is one too."""
    begun: dict[str, float] = {}

    class Maintained(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            answer = await super().lease(request)
            return answer.model_copy(update={"maintenance": request.call == 1})

        async def maintain(self, *, budget_seconds: float = 1.0) -> MaintenanceResponse:
            if self.calls.count("lease") == 1:
                await asyncio.sleep(1)
                self.rows["reclaimed"] = Row("reclaimed", {"seconds": 20})
            return MaintenanceResponse()

    async def story() -> None:
        loop, wakeups = asyncio.get_running_loop(), asyncio.Event()
        options = TickOptions(linger_seconds=0, poll_seconds=1000)
        world = World(Maintained(), options)
        world.on_start = lambda job: begun.update({job.id: loop.time()})

        def enqueue(at: int) -> None:
            world.queue.rows[str(at)] = Row(str(at), {})
            wakeups.set()

        for at in (5, 9):
            loop.call_later(at, enqueue, at)
        await world.tick(100, wakeups=wakeups)
        assert loop.time() < 22, "it waits for more"

    leaping(story())

    assert begun == {
        name: pytest.approx(at, abs=0.3) for name, at in (("reclaimed", 1), ("5", 5), ("9", 9))
    }


def test_a_job_that_cannot_be_read_fails_and_is_counted() -> None:
    class Strange(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            answer = await super().lease(request)
            strange = [
                UnreadableLease(job_id=each.job.id, fence=each.fence, problem="no")
                for each in answer.leases
            ]
            return answer.model_copy(update={"leases": (), "unreadable": tuple(strange)})

    queue = Strange([Row("1", {})])
    summary = leaping(World(queue).tick())

    assert queue.rows["1"].settled == {1: "failed"}
    assert (summary.leased, summary.failed) == (1, 1)


def test_a_tick_sums_up_what_its_jobs_took() -> None:
    world = World(ModelQueue([Row("1", {"seconds": 2}), Row("2", {"seconds": 4})]))
    said: list[tuple[str, str]] = []

    class Noting(Channel):
        def say(self, **message: Any) -> None:
            said.extend((kind, what["job_id"]) for kind, what in message.items())

    summary = leaping(world.tick(channel=Noting(-1)))

    assert (summary.leased, summary.completed, summary.lost, summary.due_left) == (2, 2, 0, 0)
    assert summary.busy_ms == 6000
    assert summary.duration_ms == pytest.approx(4000, rel=0.05)
    assert summary.calls == world.queue.calls.count("lease") + len(world.queue.settles)
    assert summary.reports == world.queue.calls.count("report")
    assert world.made is not None
    assert (world.made.run_ms, world.made.wait_ms) == ([2000, 4000], [1500, 1500])
    assert said == [("began", "1"), ("began", "2"), ("ended", "1"), ("ended", "2")]


def test_jobs_side_by_side_share_what_their_worker_costs() -> None:
    """Else a full worker would seem to cost many times its price."""
    options = TickOptions(concurrency=9, linger_seconds=0, usd_per_second=1)

    def cost(*seconds: float) -> float:
        rows = [Row(str(number), {"seconds": each}) for number, each in enumerate(seconds)]
        queue = ModelQueue(rows)
        leaping(World(queue, options=options).tick())
        return sum(item.cost_usd or 0 for items in queue.settles for item in items)

    assert cost(9) == pytest.approx(9)
    assert cost(9, 9) < 1.6 * cost(9)
    assert cost(3, 9) == pytest.approx(3 / 1.5 + 9 / 1.5), "by the mean of begin and end"


def test_a_project_is_maintained_once_an_hour() -> None:
    """A loop ticks every second, and each time it would measure the whole database."""
    asked: list[float] = []

    class Away(ModelQueue):
        async def attach_extensions(self) -> dict[str, Any]:
            asked.append(asyncio.get_running_loop().time())
            raise QueueUnavailable("away")

    async def story() -> None:
        worker = worker_of(Away())
        for pause in (0, 3500, 200):
            await asyncio.sleep(pause)
            await worker.tick(budget_seconds=60)
        await worker.aclose()

    leaping(story())

    assert asked == pytest.approx([0, 3700], abs=10)


@pytest.mark.parametrize(("free", "ended"), [(0, 14), (1, 51)])
def test_a_run_beside_which_no_other_is_admitted_looks_while_it_waits(
    free: int, ended: float
) -> None:
    """For the jobs whose worker is refused; others leave that to the worker."""

    class Alone(ModelQueue):
        async def begin_run(
            self, run_id: str, *, worker_id: str, most: int, seconds: float
        ) -> WorkerRunAdmission:
            return WorkerRunAdmission(admitted=True, free=free)

        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            left = 50 - asyncio.get_running_loop().time()
            due = {"next_due_in_ms": round(1000 * left)} if left > 0 else {}
            return (await super().lease(request)).model_copy(update=due)

    queue = Alone()
    world = World(queue)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(10, lambda: queue.rows.update(late=Row("late", {})))
        worker = Worker(
            scratch_settings("http://127.0.0.1:9"), registry=world.registry, queue=queue,
            clock=LoopClock(), most=2, options=TickOptions(poll_seconds=4),
        )  # fmt: skip
        await worker.tick(budget_seconds=100)
        await worker.aclose()

    leaping(story())

    assert world.ended_at["late"] == pytest.approx(ended, abs=2)


def test_a_full_worker_does_not_ask_for_more() -> None:
    queue = ModelQueue([Row(job, {"seconds": 20}) for job in ("1", "2")])
    options = TickOptions(concurrency=1, linger_seconds=0, poll_seconds=1)

    assert leaping(World(queue, options).tick()).completed == 2

    assert queue.calls.count("lease") == 1, "the second comes with the first one's settle"


@pytest.mark.parametrize("event", ["wake-up", "locked", "enqueue"])
def test_a_run_does_not_leave_before_what_was_just_announced(event: str) -> None:
    """A wake-up during its only look; a job that another held; one that counted on its room."""

    class Late(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            first = not self.calls
            answer = await super().lease(request)
            if first and event != "enqueue":
                self.rows["late"] = Row("late", {})
            if first and event == "wake-up":
                wakeups.set()
                await asyncio.sleep(0.1)
            return answer.model_copy(update={"next_due_in_ms": 0 if event == "locked" else None})

        async def settle(self, *args: Any, **more: Any) -> SettleResponse:
            answer = await super().settle(*args, **more)
            if event == "enqueue":
                self.rows.setdefault("late", Row("late", {}))
            return answer

    wakeups = asyncio.Event()
    queue = Late([Row("1", {"seconds": 9})] if event == "enqueue" else [])
    leaping(World(queue).tick(60, wakeups=wakeups if event == "wake-up" else None))

    assert queue.rows["late"].status == "completed"


@pytest.mark.parametrize(
    ("due", "ends", "left_at"),
    [(45_000, "", 46), (55_000, "", 0), (45_000, "stopping", 5), (45_000, "draining", 5)],
)
def test_a_run_waits_for_what_falls_due_while_it_may_lease(
    due: int, ends: str, left_at: float
) -> None:
    class Due(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            answer = await super().lease(request)
            return answer.model_copy(update={"next_due_in_ms": None if self.calls[1:] else due})

    async def story() -> TickSummary:
        happens = asyncio.Event()
        asyncio.get_running_loop().call_later(5, happens.set)
        return await World(Due(), TickOptions()).tick(60, **({ends: happens} if ends else {}))

    summary = leaping(story())

    assert summary.duration_ms / 1000 == pytest.approx(left_at, abs=1.1)


@pytest.mark.parametrize("refused", [False, True])
def test_a_lease_that_is_lost_is_repeated_and_one_that_is_refused_is_not(refused: bool) -> None:
    """What the lost answer leased is found again; a refusal is left alone for a while."""
    asked: list[tuple[float, int]] = []

    class Failing(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            asked.append((asyncio.get_running_loop().time(), request.call))
            if refused and len(asked) == 2:
                raise QueueError("refused")
            answer = await super().lease(request)
            return answer.model_copy(update={"next_due_in_ms": 1000 if len(asked) == 1 else None})

    queue = Failing(faults={} if refused else {1: "lose_answer"})

    async def story() -> TickSummary:
        loop = asyncio.get_running_loop()
        loop.call_later(0.9, lambda: queue.rows.update(late=Row("late", {})))
        return await World(queue, TickOptions(linger_seconds=9, poll_seconds=3)).tick(60)

    assert leaping(story()).completed == 1
    assert [at for at, _ in asked[1:3]] == pytest.approx([1, 6 if refused else 4], abs=0.1)
    assert [call for _, call in asked[1:3]] == [2, 3 if refused else 2]


def test_what_is_left_when_the_time_is_over_is_counted_as_lost() -> None:
    """A processor that blocks the loop past the end: its host is gone before any settle."""
    queue = ModelQueue([Row("1", {"seconds": 8.9}), Row("2", {"seconds": 8.9})])
    world = World(queue)

    def block(_: Job[Work]) -> None:
        loop: Any = asyncio.get_running_loop()
        loop.call_later(5, lambda: setattr(loop, "_at", loop.time() + 5))

    world.on_start = block

    summary = leaping(world.tick(budget_seconds=10))

    assert (summary.lost, queue.settles) == (2, [])
    assert summary.error == "the tick's time ran out with 2 job(s) unsettled"


def test_a_settled_job_is_renewed_no_more() -> None:
    queue = ModelQueue([Row("1", {}), Row("2", {"seconds": 95})])

    leaping(World(queue).tick())

    assert {each.outcome for each in queue.renewals} == {"ok"}


def test_a_processor_is_stopped_at_the_deadline_while_a_settle_hangs() -> None:
    queue = ModelQueue([Row("1", {"seconds": 8}), Row("2", {"seconds": 99})])
    queue.settle_faults = ["hang"] * 9
    world = World(queue)

    leaping(world.tick(budget_seconds=10))

    assert world.ended_at["2"] == pytest.approx(9, abs=0.1)


def test_publishers_are_called_before_the_first_lease_and_each_second() -> None:
    queue = ModelQueue()
    world = World(queue)
    called: list[float] = []
    registry = world.registry

    async def publish() -> int:
        called.append(asyncio.get_running_loop().time())
        queue.rows.setdefault("1", Row("1", {"seconds": 2.5}))
        return 0

    async def story() -> None:
        registry.publisher("app", publish)
        tick = Tick(queue, registry, worker_id="w", clock=LoopClock(), options=world.options)
        await tick.run()

    leaping(story())

    assert world.ended_at["1"] == pytest.approx(2.5, abs=0.1)
    assert called == pytest.approx([0, 1, 2], abs=0.1)


def test_a_run_that_did_something_says_so_at_its_end_under_its_latest_id() -> None:
    """Enqueues count on that id. An idle run costs no such call; a refusal changes nothing."""
    said: list[str] = []

    class Noting(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            ids.append(request.tick_id)
            return await super().lease(request)

        async def tick_finished(self, *, tick_id: str, **more: Any) -> None:
            said.append(tick_id)
            raise QueueError("refused")

    ids: list[str] = []
    leaping(World(Noting()).tick())
    leaping(World(Noting([Row("1", {"seconds": 70})])).tick())

    assert len(set(ids)) == 3, "another one each minute"
    assert said == [ids[-1]]


def test_maintenance_that_moved_nothing_takes_no_wake_up_away() -> None:
    async def story() -> bool:
        world = World(ModelQueue())
        await world.tick()
        assert world.made is not None
        world.made._published()
        world.made._maintained(False)
        return world.made._woken

    assert leaping(story())


@pytest.mark.parametrize(("stop_at", "outcome"), [(10, "released"), (21, "completed")])
def test_a_loop_begins_with_new_processors_while_the_old_ones_finish(
    stop_at: float, outcome: str
) -> None:
    """A stop waits for both."""
    queue = ModelQueue([Row("old", {"seconds": 20, "resists": 1})])
    old, new = World(queue), World(queue)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        worker = Worker(
            scratch_settings("http://127.0.0.1:9"), registry=old.registry, queue=queue,
            clock=LoopClock(),
        )  # fmt: skip
        loop.call_later(5, worker.adopt, new.registry)
        loop.call_later(6, lambda: queue.rows.update(new=Row("new", {})))
        loop.call_later(stop_at, worker.stop)
        await worker.run_forever()
        assert queue.rows["old"].settled == {1: outcome}
        await asyncio.sleep(0)
        assert worker._drained == set()

    leaping(story())

    assert (old.runs, new.runs) == ({"old": 1}, {"new": 1})
    assert new.ended_at["new"] == pytest.approx(7, abs=1.1)


def test_a_loop_that_is_cut_off_leaves_no_processor_behind() -> None:
    queue = ModelQueue([Row("1", {"seconds": 300})])
    world = World(queue)

    async def story() -> None:
        worker = Worker(
            scratch_settings("http://127.0.0.1:9"), registry=world.registry, queue=queue,
            clock=LoopClock(),
        )  # fmt: skip
        loop = asyncio.create_task(worker.run_forever())
        await asyncio.sleep(5)
        loop.cancel()
        await asyncio.wait([loop])
        assert world.ended_at["1"] == 5

    leaping(story())


@pytest.mark.parametrize(
    ("error", "woken", "stopped", "tries"),
    [
        (QueueUnavailable("away"), 3, 3.1, [0, 0.4, 1.2, 2.8, 3]),
        (QueueError("refused"), 1, 6, [0, 5]),
    ],
)
def test_a_wake_up_means_that_the_database_is_there_again_and_no_end_of_a_refusal(
    error: QueueError, woken: float, stopped: float, tries: list[float]
) -> None:
    """What announces a job has just spoken to the database; it tells nothing of our rights."""
    tried: list[float] = []

    class Failing(ModelQueue):
        async def register_job_types(self, types: Sequence[JobTypeSpec]) -> int:
            tried.append(asyncio.get_running_loop().time())
            raise error

    async def story() -> None:
        loop, wakeups, worker = asyncio.get_running_loop(), asyncio.Event(), worker_of(Failing())
        loop.call_later(woken, wakeups.set)
        loop.call_later(stopped, worker.stop)
        await worker.run_forever(wakeups)

    leaping(story())

    assert tried == pytest.approx(tries)


def test_a_worker_gives_its_run_the_options_and_the_time_and_says_what_it_did() -> None:
    """The project is maintained after the jobs, for three seconds, where these are left."""
    ticks: list[Tick] = []
    asked: list[int] = []
    hangs = False

    class Measured(ModelQueue):
        async def attach_extensions(self) -> dict[str, Any]:
            await asyncio.sleep(99 if hangs else 0)
            asked.append(1)
            return {}

    async def story() -> None:
        nonlocal hangs
        loop = asyncio.get_running_loop()
        queue = Measured([Row("1", {"seconds": 99}), Row("2", {})])
        worker = worker_of(queue, on_tick=ticks.append)
        await worker.tick(budget_seconds=10, options=TickOptions(concurrency=1))
        assert loop.time() == pytest.approx(9, abs=0.1)
        assert queue.rows["2"].status == "pending"
        assert (len(ticks), asked) == (1, [])
        queue.rows.clear()
        await worker.tick(budget_seconds=10)
        assert (len(ticks), len(asked)) == (2, 1)
        hangs = True
        await asyncio.sleep(3600)
        began = loop.time()
        await worker.tick(budget_seconds=10)
        assert loop.time() - began == pytest.approx(3, abs=0.1)
        assert len(asked) == 1

    leaping(story())


def test_leases_are_renewed_from_outside_over_connections_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the loop that is blocked cannot be used."""
    called: list[str] = []

    class Noting(ModelQueue):
        def __init__(self, *_: object) -> None:
            super().__init__()

        async def report(self, items: Sequence[ReportItem], **more: Any) -> list[Any]:
            called.append(f"{items[0].job_id} {more['worker_id']} {more['tick_id']}")
            return []

        async def aclose(self) -> None:
            called.append("closed")

    monkeypatch.setattr("minutehand.worker.loop.WorkerQueue", Noting)
    worker = Worker(scratch_settings("http://127.0.0.1:9"), registry=Registry())

    worker._renew_outside([ReportItem(job_id=JobId("1"), fence=1)], "w", "t")

    assert called == ["1 w t", "closed"]
    asyncio.run(worker.aclose())
    assert called[2:] == ["closed"]


def test_a_step_is_stored_at_once() -> None:
    """Its processor waits for that."""
    queue, registry = ModelQueue([Row("1", {})]), Registry()

    @registry.processor("work", payload=Work)
    async def work(job: Job[Work], ctx: JobContext) -> None:
        for name in ("a", "b"):
            await ctx.step(name, nothing)

    async def nothing() -> None:
        pass

    async def story() -> float:
        await Tick(queue, registry, worker_id="w", clock=LoopClock()).run()
        return asyncio.get_running_loop().time()

    assert leaping(story()) < 1
    assert queue.calls.count("report") == 2


def said_by(caplog: pytest.LogCaptureFixture, *names: str) -> dict[str, tuple[Any, ...]]:
    """By its event, each line's level and these values."""
    lines = [line.__dict__ for line in caplog.records if "event" in line.__dict__]
    assert {line["worker_id"] for line in lines} == {"w"}
    return {
        line["event"]: (line["levelname"], *(line[name] for name in names if name in line))
        for line in lines
    }


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("rows", [[], [Row("1", {})]])
def test_a_tick_logs_what_it_begins_finds_and_did(
    quiet: bool, rows: list[Row], caplog: pytest.LogCaptureFixture
) -> None:
    """Each second in a loop: one that finds nothing is quiet there."""
    caplog.set_level("DEBUG", logger="minutehand.worker")
    queue = ModelQueue([replace(row) for row in rows])

    summary = leaping(World(queue, TickOptions(linger_seconds=0, quiet=quiet)).tick(60))

    first, busy = "DEBUG" if quiet else "INFO", "DEBUG" if quiet and not rows else "INFO"
    lines = {
        "tick.started": (first,),
        "tick.leased": (busy, 0),
        "tick.completed": (busy, summary.as_dict()),
    }
    if rows:
        lines["tick.leased"] = ("DEBUG", 0)  # the last of them, with the settle
        lines["attempt.started"] = ("INFO", "1", "work", 1, "default")
        lines["attempt.settled"] = ("INFO", "1", "work", 1, "default")
    names = ("due", "summary", "job_id", "job_type", "attempt", "queue")
    assert said_by(caplog, *names) == lines
    found = [line for line in caplog.records if line.__dict__["event"] == "tick.leased"]
    assert found[0].levelname == busy
    assert found[0].message == f"Found {len(rows)} pending job(s)"
    assert {line.__dict__["tick_id"] for line in found} == {summary.tick_id}


def test_the_metrics_of_a_tick_have_a_hundred_values_at_most() -> None:
    """As many as a line of CloudWatch's format may hold."""
    world = World(ModelQueue([Row(str(number), {"seconds": 0.1}) for number in range(101)]))

    assert leaping(world.tick(60)).completed == 101

    assert world.made is not None
    assert (len(world.made.wait_ms), len(world.made.run_ms)) == (100, 100)


def test_what_a_tick_could_not_do_is_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    """With the reason: lease, count and summary, each of which it can do without."""
    strange = UnreadableLease(job_id=JobId("1"), fence=9, problem="no")
    problems = [None, QueueUnavailable("away"), QueueError("refused")]

    class Failing(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            problem = problems.pop(0) if problems else None
            if request.count_due or problem:
                raise problem or QueueUnavailable("uncounted")
            answer = await super().lease(request)
            more = {"unreadable": (strange,)} if problems else {}
            return answer.model_copy(update={"due": 3} | more)

        async def tick_finished(self, **_: Any) -> None:
            raise QueueError("not stored")

    async def start(count: int) -> int:
        return count

    queue = Failing([Row("1", {"seconds": 300})])
    world = World(queue, TickOptions(concurrency=9, linger_seconds=0, poll_seconds=2))

    leaping(world.tick(60, fan_out=FanOut(most=2), start_extra_workers=start))

    said = said_by(caplog, "error", "job_id")
    assert said["lease.unavailable"] == ("WARNING", "away")
    assert said["lease.refused"] == ("WARNING", "refused")
    assert said["tick.uncounted"] == ("WARNING", "uncounted")
    assert said["tick.goodbye_failed"] == ("WARNING", "not stored")
    assert said["lease.unreadable"] == ("ERROR", "1")
    [broken] = queue.settles[0]
    assert (broken.fence, broken.outcome) == (9, "failed")
    assert broken.error == ErrorInfo(type="LeaseUnreadable", message="no")


@pytest.mark.parametrize(
    ("call", "works"), [("lease", 300), ("tick_finished", 20), ("tick_finished", 300)]
)
def test_a_call_at_the_end_that_hangs_is_given_up(
    call: str, works: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three seconds, or when the tick must end: it does not depend on it."""
    begun: list[float] = []
    usual = ModelQueue.lease

    async def hang(queue: ModelQueue, request: Any = None, **_: Any) -> Any:
        if request is not None and not request.count_due:
            return (await usual(queue, request)).model_copy(update={"due": 3})
        begun.append(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(1000)
        finally:
            begun.append(asyncio.get_running_loop().time())

    async def start(count: int) -> int:
        return count

    monkeypatch.setattr(ModelQueue, call, hang)
    world = World(ModelQueue([Row("1", {"seconds": works})]))
    leaping(world.tick(60, fan_out=FanOut(most=2), start_extra_workers=start))

    assert begun[1] == pytest.approx(min(begun[0] + 3, 59.7), abs=0.1)


def test_a_tick_without_extra_workers_counts_nothing_for_them() -> None:
    """The call would be for nothing."""
    counted: list[bool | None] = []

    class Noting(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            counted.append(request.count_due)
            return (await super().lease(request)).model_copy(update={"due": 9})

    world = World(Noting([Row("1", {"seconds": 300})]))
    leaping(world.tick(60))

    assert set(counted) == {None}


def test_a_worker_s_tick_is_woken_supervised_and_looks_again() -> None:
    """Also where another run could take over from it and has not."""
    said: list[str] = []

    class Noting(Channel):
        def say(self, **message: Any) -> None:
            said.extend(f"{kind} {what['job_id']}" for kind, what in message.items())

    queue = ModelQueue([Row("1", {"seconds": 20})])
    queue.on_end_run = lambda: queue.calls.count("begin_run") == 1

    async def story() -> None:
        loop, wakeups = asyncio.get_running_loop(), asyncio.Event()
        options = TickOptions(linger_seconds=0, poll_seconds=1000)
        worker = worker_of(queue, most=2, channel=Noting(-1), options=options)

        def enqueue() -> None:
            queue.rows["2"] = Row("2", {"seconds": 1})
            wakeups.set()

        loop.call_later(5, enqueue)
        await worker.tick(budget_seconds=60, wakeups=wakeups, draining=asyncio.Event())

    leaping(story())

    assert said == ["began 1", "began 2", "ended 2", "ended 1"]
    assert queue.calls.count("begin_run") == 2


def test_what_a_worker_could_not_do_is_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    """In its log."""
    caplog.set_level("INFO", logger="minutehand.worker.loop")

    class Failing(ModelQueue):
        async def begin_run(
            self, run_id: str, *, worker_id: str, most: int, seconds: float
        ) -> WorkerRunAdmission:
            begun.append(run_id)
            if len(begun) == 2:
                raise QueueError("no second look")
            return WorkerRunAdmission(admitted=len(begun) == 1)

        async def end_run(self, run_id: str) -> bool:
            return True

        async def attach_extensions(self) -> dict[str, Any]:
            return {"problems": ["pg_net: refused"]}

    begun: list[str] = []

    async def story() -> None:
        worker = worker_of(Failing(), most=2)
        await worker.tick(budget_seconds=60)
        await worker.tick(budget_seconds=60)

    leaping(story())

    lines = {line.__dict__.get("event"): line.__dict__ for line in caplog.records}
    assert lines["tick.not_repeated"]["error"] == "no second look"
    assert lines["extensions.refused"]["problems"] == ["pg_net: refused"]
    assert lines["tick.crowded_out"]["most"] == 2


@pytest.mark.parametrize("fails", [True, False])
def test_a_replaced_run_that_fails_is_an_error(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    queue = ModelQueue([Row("1", {"seconds": 20})])

    async def story() -> None:
        loop, worker = asyncio.get_running_loop(), worker_of(queue)

        def fail(tick: Tick) -> None:
            if fails and tick.summary.leased:
                raise ValueError("broken")

        worker._on_tick = fail
        loop.call_later(5, worker.adopt, worker.registry)
        loop.call_later(5.5, worker.stop)
        await worker.run_forever()

    leaping(story())

    said = [line.__dict__ for line in caplog.records if line.levelname == "ERROR"]
    assert [(line["event"], line["error"]) for line in said] == (
        [("worker.drain_failed", "broken")] if fails else []
    )


def test_a_worker_says_its_version_and_a_bounded_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 99)
    settings = scratch_settings("http://127.0.0.1:9").model_copy(
        update={"version": "9.9", "worker_concurrency": 3}
    )

    worker = Worker(settings, registry=Registry())

    assert (worker.options.version, worker.options.concurrency) == ("9.9", 3)
    assert worker.worker_id.startswith("h" * 40 + "-")
