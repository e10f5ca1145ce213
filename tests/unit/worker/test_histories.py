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
from dataclasses import dataclass, field
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
    JobId,
    JobTypeSpec,
    LeaseRequest,
    LeaseResponse,
    MaintenanceResponse,
    ReportItem,
    SettleItem,
    SettleResponse,
    UnreadableLease,
    WorkerRunAdmission,
)
from minutehand.worker import FanOut, Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.settler import Settler
from minutehand.worker.summary import TickSummary
from minutehand.worker.tick import Tick
from tests.support.virtual_time import LoopClock, leaping
from tests.unit.worker.model import (
    FAULTS,
    LATENCY,
    PATIENCE,
    ModelQueue,
    Renewal,
    Row,
    bytes_of,
)


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


@pytest.mark.parametrize("fault", ["lose_request", "lose_answer"])
def test_what_a_report_carries_at_the_end_is_settled_if_it_is_lost(fault: str) -> None:
    """No report follows the settle, so it waits for the one that is on its way."""
    queue = ModelQueue([Row("1", {"seconds": LATENCY / 4})], faults={1: fault})

    leaping(World(queue).tick())

    assert queue.calls[1] == "report"
    assert queue.rows["1"].lines == {1: ["begun", "ended"]}


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
    queue = ModelQueue([Row("1", {})])
    queue.settle_faults = ["lose_request"] * 99

    summary = leaping(World(queue).tick(10))

    assert (summary.completed, summary.lost, summary.error) == (0, 1, "the request was lost")
    assert 20 < len(queue.settles) < 30


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

    leaping(world.tick(budget_seconds=10))

    assert (world.runs["2"], queue.rows["2"].settled) == (0, {1: "released"})


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
        loop, happens = asyncio.get_running_loop(), asyncio.Event()
        loop.call_later(5, happens.set)
        loop.call_later(5, lambda: queue.rows.update(late=Row("late", {})))
        await World(queue).tick(math.inf, **{event: happens})
        return loop.time()

    assert leaping(story()) == pytest.approx(ended, abs=0.5)
    assert queue.rows.pop("late").status == "pending"
    assert {row.settled[1] for row in queue.rows.values()} == {outcome}


def test_a_processor_is_stopped_at_its_jobs_deadline() -> None:
    """Also where its type has no time-out, or a longer one."""
    queue = ModelQueue([Row("1", {"seconds": 300}, deadline=20)])
    world = World(queue)

    leaping(world.tick())

    assert 20 <= world.ended_at["1"] < 21
    assert queue.rows["1"].settled == {1: "retry"}, "the database decides that it was the last"


def test_a_processor_knows_how_long_it_may_run() -> None:
    """Until its job's deadline, where that is before the end of the tick."""
    world = World(ModelQueue([Row("1", {}, deadline=20), Row("2", {})]))

    leaping(world.tick(budget_seconds=100))

    assert 19 < world.remaining["1"] <= 20
    assert 50 < world.remaining["2"] <= 100


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
    queue = ModelQueue([Row("lost", work), Row("held", work)])
    renewed = threading.Event()
    items: list[str] = []

    def renew(sent: Sequence[ReportItem], worker_id: str, tick_id: str) -> None:
        items.extend(item.job_id for item in sent)
        renewed.set()

    world = World(
        queue,
        options=TickOptions(
            concurrency=2, linger_seconds=0, grace_seconds=600, renew_outside_seconds=0.1
        ),
        renew_outside=renew,
    )
    blocked: list[bool] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(world.tick())

        def block() -> None:
            blocked.append(renewed.wait(30))

        loop.call_later(1, lambda: setattr(queue.rows["lost"], "status", "failed"))
        loop.call_later(60, block)
        await ticking

    leaping(story())

    assert blocked == [True]
    assert set(items) == {"held"}


def worker_of(queue: ModelQueue, **options: Any) -> Worker:
    """One on the loop's own clock, whose database is `queue`."""
    settings, registry = scratch_settings("http://127.0.0.1:9"), World(queue).registry
    return Worker(settings, registry=registry, queue=queue, clock=LoopClock(), **options)


async def test_a_worker_that_is_stopped_does_not_look_again_for_one_that_was_refused() -> None:
    """Between the end of its run and another look: the host is going down."""
    queue = ModelQueue()
    worker = worker_of(queue, most=1)

    def stop() -> bool:
        worker.stop()
        return True

    queue.on_end_run = stop
    await asyncio.wait_for(worker.tick(budget_seconds=60), 30)

    assert queue.calls.count("begin_run") == 1


def test_a_worker_asks_for_room_and_for_the_types_it_knows() -> None:
    """A run without an end counts for a day; one that is not admitted leases nothing."""
    asked: list[tuple[int, float]] = []
    types: list[tuple[str, ...] | None] = []

    class Noting(ModelQueue):
        async def begin_run(
            self, run_id: str, *, worker_id: str, most: int, seconds: float
        ) -> WorkerRunAdmission:
            asked.append((most, seconds))
            return WorkerRunAdmission(admitted=len(asked) < 3)

        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            types.append(request.job_types)
            return await super().lease(request)

        async def attach_extensions(self) -> dict[str, Any]:
            raise QueueUnavailable("away")

    async def story() -> TickSummary:
        worker = worker_of(Noting(), most=4)
        await worker.tick()
        await worker.tick(budget_seconds=60, job_types=["strange", "work"])
        return await worker.tick(budget_seconds=60)

    crowded = leaping(story())

    assert asked == [(4, 86_400), (4, 60), (4, 60)]
    assert types == [("work",)] * 2
    assert (crowded.crowded_out, crowded.calls) == (True, 0)


def test_a_run_looks_again_for_those_that_were_refused_beside_it() -> None:
    """Until none was, or it is refused itself; what it did before is what it reports."""

    class Failing(ModelQueue):
        async def begin_run(
            self, run_id: str, *, worker_id: str, most: int, seconds: float
        ) -> WorkerRunAdmission:
            admission = await super().begin_run(
                run_id, worker_id=worker_id, most=most, seconds=seconds
            )
            if self.calls.count("begin_run") == 3:
                raise QueueUnavailable("away")
            return admission

        async def attach_extensions(self) -> dict[str, Any]:
            raise QueueUnavailable("away")

    queue = Failing([Row("1", {})])
    queue.on_end_run = lambda: True

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
    settings = scratch_settings("http://127.0.0.1:9").model_copy(update={"commit": "c"})
    origin = {"log_group": "g"}

    said = [
        Worker(settings, options=each).options.origin
        for each in (TickOptions(origin=origin), TickOptions(), None)
    ]

    assert said == [{"commit": "c", "log_group": "g"}, {"commit": "c"}, {"commit": "c"}]


def test_a_loop_looks_when_it_is_woken_when_work_falls_due_and_each_second() -> None:
    """After a wake-up that found nothing a moment later: the commit may follow it."""
    looked: list[float] = []

    class Noting(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            looked.append(asyncio.get_running_loop().time())
            return LeaseResponse(next_due_in_ms=300 if len(looked) == 6 else None)

        async def attach_extensions(self) -> dict[str, Any]:
            raise QueueUnavailable("away")

    async def story() -> None:
        loop, wakeups = asyncio.get_running_loop(), asyncio.Event()
        worker = worker_of(Noting())
        loop.call_later(2.5, wakeups.set)
        loop.call_later(4.5, worker.stop)
        await worker.run_forever(wakeups)

    leaping(story())

    assert looked == pytest.approx([0, 1, 2, 2.5, 2.6, 3.6, 3.9], abs=0.01)


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
    """To five seconds at most: a restart finds hundreds of workers that wait."""
    tried: list[float] = []

    class Away(ModelQueue):
        async def register_job_types(self, types: Sequence[JobTypeSpec]) -> int:
            tried.append(asyncio.get_running_loop().time())
            raise QueueUnavailable("away")

    async def story() -> None:
        worker = worker_of(Away())
        asyncio.get_running_loop().call_later(25, worker.stop)
        await worker.run_forever()
        await worker.aclose()

    leaping(story())

    pauses = [late - early for early, late in pairwise(tried)]
    assert pauses == pytest.approx([0.4, 0.8, 1.6, 3.2, 5, 5, 5])


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

        async def attach_extensions(self) -> dict[str, Any]:
            raise QueueUnavailable("away")

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
        await worker.aclose()

    leaping(story())

    assert asked
    assert max(asked) == 2


def test_the_last_look_of_a_run_counts_what_is_left_and_leases_none_of_it() -> None:
    """No time is left for it here: an extra worker is started instead."""
    started: list[int] = []

    class Backlogged(ModelQueue):
        async def lease(self, request: LeaseRequest) -> LeaseResponse:
            if request.count_due:
                self.rows["late"] = Row("late", {})
            return (await super().lease(request)).model_copy(update={"due": 1})

    async def start(count: int) -> int:
        started.append(count)
        return count

    queue = Backlogged([Row("1", {"seconds": 300})])
    world = World(queue)

    async def story() -> None:
        await world.tick(60, fan_out=FanOut(most=2), start_extra_workers=start)

    leaping(story())

    assert (queue.rows["late"].status, started) == ("pending", [1])


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

    world = World(Growing([Row("1", {})]))
    leaping(world.tick(60, fan_out=FanOut(most=2), start_extra_workers=start))

    assert started == [2]


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

    summary = leaping(world.tick())

    assert (summary.leased, summary.completed, summary.lost, summary.due_left) == (2, 2, 0, 0)
    assert summary.busy_ms == 6000
    assert summary.duration_ms == pytest.approx(4000, rel=0.05)
    assert summary.calls == world.queue.calls.count("lease") + len(world.queue.settles)
    assert summary.reports == world.queue.calls.count("report")
    assert world.made is not None
    assert (world.made.run_ms, world.made.wait_ms) == ([2000, 4000], [0, 0])


def test_jobs_side_by_side_share_what_their_worker_costs() -> None:
    """Else a full worker would seem to cost many times its price."""
    options = TickOptions(concurrency=9, linger_seconds=0, usd_per_second=1)

    def cost(*jobs: str) -> float:
        queue = ModelQueue([Row(job, {"seconds": 9}) for job in jobs])
        leaping(World(queue, options=options).tick())
        return sum(item.cost_usd or 0 for items in queue.settles for item in items)

    assert cost("1") == pytest.approx(9)
    assert cost("1", "2") < 1.9 * cost("1")


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
