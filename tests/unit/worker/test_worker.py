"""A worker run on a model queue: publishers, middleware, job types, leases and settlements."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.queue.errors import ProcessorError, QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import LeaseResponse, ReportResult, RunState, SettleResponse
from minutehand.worker import (
    Job,
    JobContext,
    Registry,
    Retry,
    Schedule,
    Snooze,
    TickOptions,
    TickSummary,
)
from minutehand.worker.slots import Pool
from minutehand.worker.testing import ProcessorTest
from tests.support.queue_model import ModelQueue, Row
from tests.support.virtual_time import leaping, pass_time


def of(run: Callable[[Job[Any], JobContext], Any], **options: Any) -> Registry:
    """Return a registry that contains this processor."""
    registry = Registry()
    registry.processor("work", payload=dict, **options)(run)
    return registry


async def nothing(job: Job[Any], ctx: JobContext) -> None:
    """Return immediately."""


async def start(
    queue: ModelQueue, work: Any, *, budget: float = 60, most: int | None = None, **options: Any
) -> TickSummary:
    """Run a worker of these processors, or of one, once."""
    chosen = TickOptions(**{"linger_seconds": 0, "grace_seconds": 1, **options})
    return await queue.worker(work, options=chosen, most=most).tick(budget_seconds=budget)


def tick(*given: Any, **options: Any) -> TickSummary:
    """Run a worker once with simulated time."""
    return leaping(start(*given, **options))


def test_an_outbox_is_read_before_each_lease_and_while_a_run_lasts() -> None:
    """A registered publisher is called before each lease and once a second.

    A publisher that fails stops neither the run nor other publishers.
    """
    queue = ModelQueue([Row("first", {})])
    calls: list[float] = []

    async def fill() -> int:
        calls.append(asyncio.get_running_loop().time())
        if len(calls) == 4:
            queue.rows["late"] = Row("late", {})
        return len(calls) == 4

    async def fail() -> int:
        raise ValueError("no")

    async def slow(job: Job[Any], ctx: JobContext) -> None:
        await asyncio.sleep(6 if job.id == "first" else 0)

    registry = of(slow)
    registry.publisher("fill", fill)
    registry.publisher("fail", fail)
    tick(queue, registry)

    assert calls[:4] == [0, 1, 2, 3]
    assert queue.rows["late"].status == "completed"
    with pytest.raises(ValueError, match="already"):
        registry.publisher("fill", fill)


async def test_middleware_is_nested_and_counts_for_types_that_are_added_later() -> None:
    """Middleware applies to job types that are registered before and after it.

    Middleware of `around_all` is the outermost.
    """
    decorated, registry, output = of(nothing), Registry(), []

    def named(name: str) -> Any:
        async def around(job: Job[Any], ctx: JobContext, call: Any) -> Any:
            output.append(name)
            return await call()

        return around

    decorated.around(named("decorated"))
    before = named("before")
    registry.around(before)
    registry.add(next(iter(decorated)))
    registry.around(named("after"))
    for outer in (named("outer"), before):
        registry.around_all(outer)
    [job_type] = registry

    await ProcessorTest(job_type.run, {}, around=job_type.around).run()
    assert output == ["outer", "decorated", "before", "after"]
    with pytest.raises(TypeError, match="async"):
        registry.around(lambda job, ctx, call: None)  # type: ignore[type-var]


def test_a_type_is_published_with_all_that_was_said_of_it() -> None:
    """A job type is registered with all its options, under the names of `register_job_types`."""

    async def run(job: Job[Any], ctx: JobContext) -> None:
        """Do the work.

        And more.
        """

    registry = of(run, timeout=2.5, schedule=[Schedule("@daily", name="a")])
    spec = registry.specs()[0]

    expected = {"timeout_seconds": 3, "events": "full", "description": "Do the work."}
    assert spec.items() >= expected.items()
    assert spec["schedules"][0]["name"] == "a"
    with pytest.raises(
        ValueError, match=r"'work' has two .*<locals>\.run \(.*:\d+\) and .*nothing"
    ):
        registry.processor("work", payload=dict)(nothing)


@pytest.mark.parametrize("admitted", [True, False])
def test_a_run_beyond_the_bound_leases_nothing(admitted: bool) -> None:
    """A worker run beyond the maximum number of runs leases no job.

    An active run leases once more if another run was rejected.
    """
    refusals = [False, True]

    class Bounded(ModelQueue):
        def _lease(self, request: Any) -> LeaseResponse:
            if not admitted:
                return LeaseResponse(leases=(), run=RunState())
            output = super()._lease(request)
            if output.run and output.run.ended:
                run = RunState(ended=True, refused=refusals.pop())
                return output.model_copy(update={"run": run})
            return output

    queue = Bounded([Row("1", {})])
    summary = tick(queue, nothing, most=1)

    assert summary.crowded_out is not admitted
    assert queue.calls == (["lease", "settle", "lease"] if admitted else ["lease"])


def test_a_run_whose_first_call_has_no_response_frees_its_place() -> None:
    """The database may have admitted the run, so the run stores its end."""
    called: list[str] = []

    class Listing(ModelQueue):
        async def call(self, function: str, arguments: Any, **more: Any) -> Any:
            called.append(function)
            return await super().call(function, arguments, **more)

    with pytest.raises(QueueUnavailable):
        tick(Listing([Row("1", {})], faults={"lease": "lose_answer"}), nothing, most=1)

    assert "tick_finished" in called


def test_a_step_returns_when_it_is_stored_and_lease_calls_are_numbered_again() -> None:
    """Code after a step runs only when the step is stored.

    Lease calls get a new tick id each minute.
    """
    stored: list[str] = []
    seen: list[list[str]] = []

    class Noting(ModelQueue):
        async def report(self, items: Any, **more: Any) -> Any:
            answer = await super().report(items, **more)
            stored.extend(step.name for item in items for step in item.steps)
            return answer

    async def steps(job: Job[Any], ctx: JobContext) -> None:
        await ctx.step("pay", lambda: asyncio.sleep(0.1))
        seen.append(list(stored))
        await asyncio.sleep(70)

    queue = Noting([Row("1", {})], faults={1: "lose_request"})
    tick(queue, steps, budget=200)

    assert seen == [["pay"]]
    assert len({request.tick_id for request in queue.requests}) == 2
    assert [request.call for request in queue.requests].count(1) == 2


def test_what_someone_else_holds_is_reported_and_settled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A job that another transaction has locked is settled when it is free.

    Other jobs are not delayed, and the log has the error.
    """
    held, other = Row("held", {}), Row("other", {})
    free_at: list[float] = []

    def lock() -> None:
        """Lock the job for five seconds, in which reports and settlements find it busy."""
        held.is_locked = True
        free_at.append(asyncio.get_running_loop().time() + 5)
        asyncio.get_running_loop().call_later(5, setattr, held, "is_locked", False)

    async def steps(job: Job[Any], ctx: JobContext) -> None:
        if job.id == "held":
            lock()
            await ctx.step("pay", lambda: asyncio.sleep(0.1))
            assert asyncio.get_running_loop().time() > free_at[0]
            lock()

    queue = ModelQueue([held, other])
    tick(queue, steps, budget=60)

    assert held.steps == ["pay"]
    assert held.settled == other.settled == {1: "completed"}
    assert [item.job_id for items in queue.settles for item in items][:2] == ["other", "held"]
    again = [vars(each) for each in caplog.records if each.message == "Settling again"]
    assert {(each["event"], each["error"]) for each in again} == {("settle.repeated", "locked")}


def test_a_job_whose_row_is_locked_beyond_its_lease_time_keeps_its_lease() -> None:
    held = Row("held", {}, lease_seconds=10)

    async def work(job: Job[Any], ctx: JobContext) -> None:
        held.is_locked = True
        await asyncio.sleep(30)
        held.is_locked = False

    tick(ModelQueue([held]), work)

    assert held.settled == {1: "completed"}


def test_a_job_keeps_its_lease_after_a_pause_of_the_process() -> None:
    """After a pause, the worker renews an expired lease that no maintenance has taken back."""

    class Alone(ModelQueue):
        def _expire(self) -> None:
            """Take nothing back."""

    async def work(job: Job[Any], ctx: JobContext) -> None:
        pass_time(30)
        await asyncio.sleep(5)

    row = Row("1", {}, lease_seconds=10)
    tick(Alone([row]), work, budget=120)

    assert row.settled == {1: "completed"}


def test_of_many_jobs_that_end_in_a_second_few_have_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line counts the others."""
    caplog.set_level("INFO")

    async def work(job: Job[Any], ctx: JobContext) -> None:
        await asyncio.sleep(int(job.id) % 2)

    tick(ModelQueue([Row(str(n), {}) for n in range(250)]), work, concurrency=250)

    lines = [vars(each) for each in caplog.records]
    assert [each["jobs"] for each in lines if each["event"] == "attempts.settled"] == [25, 25]
    assert len([each for each in lines if each["event"] == "attempt.settled"]) == 200


def test_a_settlement_is_repeated_after_a_rejected_token() -> None:
    row, error = Row("1", {}), TokenRefused("the token has expired", status=401)
    tick(ModelQueue([row], faults={"settle": error}), nothing)

    assert row.settled == {1: "completed"}


async def test_a_payload_that_the_queue_rejects_is_not_sent_again() -> None:
    async def work(job: Job[Any], ctx: JobContext) -> None:
        raise QueueError("no", status=422, code="PT422", hint="payload_invalid")

    assert (await ProcessorTest(work, {}).run()).outcome == "failed"


def test_an_error_says_where_its_log_is_and_an_instant_is_in_utc() -> None:
    """A settled error contains the address of its log.

    A time is sent in UTC, because Postgres rejects some time zones.
    """
    zone = timezone(timedelta(hours=23))

    async def ends(job: Job[Any], ctx: JobContext) -> Snooze:
        if job.id == "fails":
            raise ValueError("no")
        return Snooze(until=datetime(2030, 1, 2, tzinfo=zone))

    queue = ModelQueue([Row("fails", {}), Row("snoozes", {})])
    tick(queue, ends, budget=2, origin={"log_group": "g"})

    fails, snoozes = queue.settles[0]
    assert fails.error
    assert fails.error.origin == {"log_group": "g"}
    assert snoozes.wire()["until"].isoformat() == "2030-01-01T01:00:00+00:00"


@pytest.mark.parametrize(("end", "threads"), [("resolves", 1), ("fails", 20)])
async def test_jobs_that_block_threads_hold_up_no_one_else(end: str, threads: int) -> None:
    """While jobs block all threads, other jobs are settled and host names are resolved."""
    gate = threading.Event()

    async def work(job: Job[Any], ctx: JobContext) -> None:
        if job.id != "ends":
            await asyncio.gather(*(asyncio.to_thread(gate.wait) for _ in range(threads)))
            return
        await asyncio.sleep(0.1)
        if end == "fails":
            raise ProcessorError("no", retryable=False)
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    class Opening(ModelQueue):
        async def settle(self, items: Any, **more: Any) -> Any:
            gate.set()
            return await super().settle(items, **more)

    queue = Opening([*(Row(str(n), {}) for n in range(20)), Row("ends", {})])
    summary = await start(queue, work)

    assert (summary.completed + summary.failed, summary.lost) == (21, 0)


def test_a_refused_lease_is_asked_again_after_a_pause() -> None:
    """After a rejected lease call, the worker pauses before the next. Running jobs continue."""
    asked: list[float] = []

    class Refusing(ModelQueue):
        def _lease(self, request: Any) -> LeaseResponse:
            asked.append(self._now)
            if len(asked) == 2:
                raise QueueError("no", status=403, code="42501")
            return super()._lease(request)

    async def works(job: Job[Any], ctx: JobContext) -> None:
        await asyncio.sleep(28)

    queue = Refusing([Row("1", {})])
    tick(queue, works)

    assert asked[2] - asked[1] >= 5
    assert queue.rows["1"].settled == {1: "completed"}


def test_a_job_that_is_leased_again_ends_its_older_run_at_once() -> None:
    """A worker that leases a job again immediately stops its older run of that job."""
    began: dict[int, float] = {}
    stopped: dict[int, float] = {}

    async def works(job: Job[Any], ctx: JobContext) -> None:
        loop = asyncio.get_running_loop()
        began[job.fence] = loop.time()
        if not stopped and job.fence == 1:
            loop.call_later(0.6, queue.take_back, "1")
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            stopped[job.fence] = loop.time()
            raise

    queue = ModelQueue([Row("1", {})])
    tick(queue, works)

    assert stopped == {1: began[2]}


def test_long_results_are_settled_in_calls_of_a_bounded_size() -> None:
    """Jobs that end at once are settled in one call, or in several if their results are large."""

    async def returns(job: Job[Any], ctx: JobContext) -> str:
        return "x" * 400_000

    queue = ModelQueue([Row(str(n), {}) for n in range(5)])
    tick(queue, returns)

    assert [len(items) for items in queue.settles] == [2, 2, 1]


def test_the_remaining_time_of_each_attempt_begins_with_the_timeout() -> None:
    remaining: list[float] = []

    async def work(job: Job[Any], ctx: JobContext) -> Retry | None:
        for _ in range(2):
            remaining.append(ctx.remaining)
            await asyncio.sleep(3)
        return Retry("again") if job.attempt == 1 else None

    tick(ModelQueue([Row("1", {}, timeout=10)]), work)

    assert remaining == pytest.approx([10, 7] * 2)


def test_a_job_that_blocks_the_loop_beyond_its_timeout_fails_and_no_other_does() -> None:
    """A job that blocks the event loop beyond its timeout fails.

    Jobs that it delayed get their timeout once more.
    """
    blocks = {"late": 3}

    async def runs(job: Job[Any], ctx: JobContext) -> None:
        await asyncio.sleep(job.payload.get("waits", 0))
        pass_time(blocks.pop(job.id, 0))
        await asyncio.sleep(job.payload.get("waits", 0))

    waits = {"late": {}, "good": {"waits": 0.9}, "hangs": {"waits": 60}}
    queue = ModelQueue([Row(name, payload, timeout=2) for name, payload in waits.items()])
    tick(queue, runs, budget=30)

    ends = {name: row.settled[1] for name, row in queue.rows.items()}
    assert ends == {"late": "retry", "good": "completed", "hangs": "retry"}


@pytest.mark.parametrize(("average_size", "extra"), [(100, 800), (20_000, 100)])
def test_what_is_leased_ahead_is_bounded_in_number_and_bytes(average_size: int, extra: int) -> None:
    """The number of jobs leased ahead is limited by count and by size."""
    pool = Pool(("work",), 10)
    for _ in range(5_000):
        pool.record_end(0.0, frees=False)

    assert pool.free_capacity(0.0, average_size) == 10 + extra


@pytest.mark.parametrize(("jobs", "at_once"), [(2_000, 2), (100, 1)])
def test_many_that_have_ended_are_settled_beside_a_call_and_few_wait_for_it(
    jobs: int, at_once: int
) -> None:
    """Many ended jobs are settled by two concurrent calls, of which one leases.

    Few ended jobs wait for the running call.
    """
    seen: list[list[bool]] = []
    under_way: list[bool] = []

    class Watched(ModelQueue):
        async def settle(self, items: Any, **more: Any) -> SettleResponse:
            leases = more.get("lease") is not None
            under_way.append(leases)
            seen.append([*under_way])
            response = await super().settle(items, **more)
            under_way.remove(leases)
            return response

    queue = Watched(Row(str(n), {}) for n in range(jobs))
    summary = tick(queue, nothing, concurrency=50)

    assert max(map(len, seen)) == at_once
    assert max(map(sum, seen)) == 1
    assert sum(map(len, queue.settles)) == summary.completed == jobs


def test_a_job_that_hangs_sends_its_line_once_and_is_listed_while_abandoned() -> None:
    """A job that hangs reports its line of code once.

    While its processor is abandoned, lease requests list it.
    """
    pulses: list[Any] = []

    class Reported(ModelQueue):
        async def report(self, items: Any) -> list[ReportResult]:
            pulses.extend(each.pulse for each in items if each.pulse and each.job_id == "hangs")
            return await super().report(items)

    queue = Reported([Row("hangs", {}), Row("beside", {})])

    async def run(job: Job[Any], ctx: JobContext) -> None:
        if job.id == "beside":
            await asyncio.sleep(100)
            return
        ctx.progress(10)
        asyncio.get_running_loop().call_later(60, queue.cancel, job.id)
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(20 if ctx.cancelled else 100)

    tick(queue, run, budget=120)

    place = f"tests/unit/worker/test_worker.py:{run.__code__.co_firstlineno + 8}"
    assert [(pulse.last, pulse.place) for pulse in pulses] == [("progress", place)]
    assert pulses[0].stack[0] == f"{place} run"
    assert 15_000 <= pulses[0].for_ms <= 20_000
    listed = [each.abandoned for each in queue.requests if each.abandoned is not None]
    assert [len(each) for each in listed] == [0, 1, 0]
    assert not listed[1][0].in_thread


def test_a_job_whose_outcome_cannot_be_stored_reports_its_end_once() -> None:
    """People then see that the processor has ended, while the settlement is retried."""
    pulses: list[Any] = []
    ends_at = 0.0

    class Refusing(ModelQueue):
        async def report(self, items: Any) -> list[ReportResult]:
            pulses.extend(each.pulse for each in items if each.pulse)
            return await super().report(items)

        async def settle(self, *args: Any, **options: Any) -> SettleResponse:
            if asyncio.get_running_loop().time() < ends_at:
                raise QueueUnavailable("canceling statement due to statement timeout")
            return await super().settle(*args, **options)

    async def run(job: Job[Any], ctx: JobContext) -> None:
        nonlocal ends_at
        ends_at = asyncio.get_running_loop().time() + 90
        await asyncio.sleep(6)

    queue = Refusing([Row("1", {})])
    assert tick(queue, run, budget=120).completed == 1
    assert [pulse.last for pulse in pulses] == ["end"]
    assert 5_000 <= pulses[0].for_ms <= 20_000


async def test_an_abandoned_processor_that_runs_in_a_thread_is_listed_as_such() -> None:
    """A thread in a blocking call cannot react to a stop. A retry has its own line."""
    gate = threading.Event()
    queue = ModelQueue([Row("hangs", {}, timeout=0.1), Row("beside", {}, run_at=0.5)])

    def work(job: Job[Any], ctx: JobContext) -> None:
        if job.attempt > 1:
            gate.wait(30)
        elif job.id == "hangs":
            gate.wait()

    await start(queue, work, budget=4, grace_seconds=0.1, linger_seconds=3)
    gate.set()

    found = [each for request in queue.requests for each in request.abandoned or ()]
    assert all(each.in_thread for each in found)
    first = work.__code__.co_firstlineno
    assert [int(each.place.rpartition(":")[2]) - first for each in found] == [4, 2]


class Letter(BaseModel):
    """The payload of several types."""


def letters(registry: Registry, settings: Any, *names: str) -> None:
    """Register job types that share a payload model."""
    for name in names:
        registry.processor(name, payload=Letter)(nothing)


def test_one_of_several_types_with_a_payload_is_tested_by_its_name() -> None:
    """A test must name the job type if several types have the payload model.

    Otherwise the error lists the types.
    """
    assert ProcessorTest.of(letters, Letter(), "a").job_type == "a"
    assert ProcessorTest.of(letters, Letter(), "a", "b", job_type="b").job_type == "b"
    with pytest.raises(ValueError, match=r"2 processors .*payload Letter; .* \['a', 'b'\]"):
        ProcessorTest.of(letters, Letter(), "a", "b")
    with pytest.raises(ValueError, match=r"0 processors .*name 'c'; .* \['a', 'b'\]"):
        ProcessorTest.of(letters, Letter(), "a", "b", job_type="c")


def test_a_lease_without_a_response_is_requested_again_under_its_number() -> None:
    """A lease call without a response is repeated with its number, and returns the leased jobs."""
    queue, late = ModelQueue([Row("1", {})]), Row("2", {})

    async def run(job: Job[Any], ctx: JobContext) -> None:
        await asyncio.sleep(2)
        queue.rows["2"] = late
        queue.faults["lease"] = "lose_answer"
        await asyncio.sleep(8)

    tick(queue, run)

    assert late.settled == {1: "completed"}


def test_a_worker_with_more_slots_than_a_lease_may_bring_leases() -> None:
    """A worker with more than a thousand free slots requests at most a thousand jobs."""
    queue = ModelQueue()
    registry = of(nothing)
    registry.processor("plain", payload=dict)(print)

    tick(queue, registry, concurrency=1000, threads=1000)

    [request] = queue.requests
    assert request.limit == sum(pool.limit for pool in request.pools or ()) == 1000


def test_a_step_that_the_database_rejects_fails_its_job_and_no_other() -> None:
    """A rejected report is sent again for each job alone."""

    class Refusing(ModelQueue):
        async def report(self, items: Any) -> list[ReportResult]:
            if any(step.result == "bad" for item in items for step in item.steps):
                raise QueueError("the result is too large", status=400, code="PT400")
            return await super().report(items)

    async def run(job: Job[Any], ctx: JobContext) -> Any:
        result = "bad" if job.id == "a" else "good"
        return await ctx.step("charge", lambda: asyncio.sleep(0, result))

    queue = Refusing([Row(name, {}) for name in "ab"])
    tick(queue, of(run), budget=1)

    assert queue.rows["b"].status == "completed"
    errors = [item.error for settled in queue.settles for item in settled if item.job_id == "a"]
    assert {error and error.message for error in errors} == {"the result is too large"}
