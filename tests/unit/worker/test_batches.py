"""Batches: several jobs that one call of a processor handles, each with its own outcome."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from minutehand.queue.errors import ProcessorError
from minutehand.queue.models import SettleItem
from minutehand.worker import (
    BatchedJob,
    Fail,
    Job,
    JobContext,
    Registry,
    Retry,
    Snooze,
    TickOptions,
    TickSummary,
)
from minutehand.worker.testing import ProcessorTest, run_batch
from tests.support.queue_model import LATENCY, ModelQueue, Row
from tests.support.virtual_time import leaping

Jobs = list[BatchedJob[Any]]
OPTIONS = TickOptions(linger_seconds=0, grace_seconds=1)


@dataclass
class World:
    """A worker run over these rows, and the calls of its processor."""

    rows: Sequence[Row]
    run: Callable[[Jobs], Any]
    calls: list[list[str]] = field(default_factory=list)
    options: TickOptions = OPTIONS
    registry: Registry = field(default_factory=Registry)
    #: Functions that the run calls, by their time.
    later: dict[float, Callable[[], object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = ModelQueue(self.rows)

    def tick(self, *, budget: float = 60.0, **options: Any) -> TickSummary:
        async def run(jobs: Jobs) -> Any:
            self.calls.append([job.id for job in jobs])
            return await self.run(jobs)

        async def start() -> TickSummary:
            for at, act in self.later.items():
                asyncio.get_running_loop().call_later(at, act)
            self.registry.processor("work", payload=int, **{"batch": 3, **options})(run)
            worker = self.queue.worker(self.registry, options=self.options)
            return await worker.tick(budget_seconds=budget)

        return leaping(start())

    @property
    def ends(self) -> dict[str, SettleItem]:
        """Return each job's first settlement. The model queue leases jobs again immediately."""
        settled = [item for items in self.queue.settles for item in items]
        return {item.job_id: item for item in reversed(settled)}

    @property
    def outcomes(self) -> dict[str, str]:
        return {job_id: item.outcome for job_id, item in self.ends.items()}


def rows(*ids: str, **more: Any) -> list[Row]:
    return [Row(name, 1, **more) for name in ids]


async def results(jobs: Jobs) -> Any:
    """Return the id of each job as its result."""
    return [str(job.id) for job in jobs]


def test_a_call_has_jobs_of_one_tenant_and_tenants_take_turns() -> None:
    """A batch contains jobs of one tenant only.

    Waiting tenants get one batch each before a tenant gets its second.
    """

    async def run(jobs: Jobs) -> Any:
        await asyncio.sleep(0.5)
        return await results(jobs)

    options = TickOptions(concurrency=2, linger_seconds=0)
    both = [*rows(*"abcd", workspace="one"), *rows(*"xy", workspace="two")]
    world = World(both, run, options=options)

    world.tick()

    assert world.calls == [["a", "b", "c"], ["x", "y"], ["d"]]
    assert {name: item.result for name, item in world.ends.items()} == {n: n for n in "abcdxy"}


def test_each_comes_to_what_is_in_its_place() -> None:
    """Each job of a batch gets the outcome at its position in the returned list.

    A job with an invalid payload is not in the call.
    """

    async def mixed(jobs: Jobs) -> Any:
        response: dict[str, Any] = {"b": Retry("later", after=1), "c": Fail("no")}
        response |= {"d": Snooze(after=9), "e": ValueError("broken")}
        for job in jobs:
            job.ctx.log("info", f"I am {job.id}")
        return [response.get(job.id, {"of": job.id}) for job in jobs]

    world = World([*rows(*"abcde"), Row("f", "no number")], mixed)
    world.tick(budget=0.9, batch=6)

    assert world.calls[0] == ["a", "b", "c", "d", "e"]
    assert world.outcomes == {
        "a": "completed", "b": "retry", "c": "failed", "d": "snoozed", "e": "retry", "f": "failed",
    }  # fmt: skip
    error = world.ends["e"].error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "broken")
    assert [world.queue.rows[name].lines[1] for name in "ae"] == [["I am a"], ["I am e"]]


@pytest.mark.parametrize(
    ("returned", "description"), [([1, 2], "2 results"), (None, "NoneType"), ("abc", "str")]
)
def test_what_is_no_list_of_as_many_retries_them_all_and_says_why(
    returned: Any, description: str
) -> None:
    async def run(jobs: Jobs) -> Any:
        return returned

    world = World(rows(*"abc"), run)
    world.tick(budget=0.2)

    assert world.outcomes == dict.fromkeys("abc", "retry")
    assert f"'work' was given 3 jobs and returned {description}" in str(world.ends["c"].error)


@pytest.mark.parametrize("poison", ["a", "c", "e"])
@pytest.mark.parametrize(
    ("how", "outcome", "error"),
    [
        ("raises", "failed", "ProcessorError"),
        ("hangs", "retry", "AttemptTimeout"),
        ("ignores its timeout", "retry", "AttemptTimeout"),
    ],
)
def test_a_call_that_raises_or_hangs_is_run_again_in_halves(
    poison: str, how: str, outcome: str, error: str
) -> None:
    """A batch that raises or hangs is run again in halves, until the job that causes it is alone.

    Only that job fails. A job's duration does not include its waits for calls of other jobs.
    """

    async def run(jobs: Jobs) -> Any:
        if any(job.id == poison for job in jobs):
            if how == "raises":
                # This error is final, because the model queue would lease a retried job again
                # immediately.
                raise ProcessorError("broken", retryable=False)
            for _ in range(1 + 2 * (how == "ignores its timeout")):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(50)
            raise asyncio.CancelledError
        return await results(jobs)

    world = World(rows(*"abcde", timeout=3), run)
    world.tick(budget=40, batch=5)

    good = {*"abcde"} - {poison}
    assert world.outcomes == dict.fromkeys(good, "completed") | {poison: outcome}
    assert error in str(world.ends[poison].error)
    assert {name: world.ends[name].result for name in good} == {name: name for name in good}
    assert [poison] in world.calls[:7]
    assert {world.queue.rows[name].fence for name in good} == {1}
    if how == "hangs":
        first = world.calls[: world.calls.index([poison]) + 1]
        for name, end in world.ends.items():
            hung = sum({name, poison} <= {*call} for call in first)
            assert end.duration_ms == pytest.approx(3_000 * hung, abs=500)


HALVES = [["a", "b", "c"], ["a", "b"], ["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("error", "outcome", "calls"),
    [
        (SystemExit(1), ("retry", None), HALVES),
        (StopIteration(), ("retry", None), HALVES),
        # Further calls would meet the same rate limit, so there is one call.
        (ProcessorError("busy", retry_after=77), ("retry", 77), HALVES[:1]),
    ],
)
def test_an_exception_of_every_call_is_each_jobs(
    error: BaseException, outcome: tuple[str, int | None], calls: list[list[str]]
) -> None:
    """If every call of the batch raises an exception, each job fails with it."""

    async def run(jobs: Jobs) -> Any:
        raise error

    world = World(rows(*"abc"), run)

    world.tick(budget=0.2)

    assert world.calls[:5] == calls
    first, *others = world.ends.values()
    assert (first.outcome, first.retry_after_seconds) == outcome
    assert [(each.outcome, each.error) for each in others] == [(first.outcome, first.error)] * 2


def test_the_jobs_that_wait_when_the_run_ends_have_spent_no_attempt() -> None:
    """While a call hangs, its jobs report how many other jobs the call has.

    Jobs that wait for the next call report this and no line of code.
    """
    reported: dict[str, list[Any]] = {"a": [], "c": []}

    async def run(jobs: Jobs) -> Any:
        await asyncio.sleep(50)

    world = World(rows(*"abcd", timeout=20), run)
    for name, kept in reported.items():
        vars(world.queue.rows[name]).update(keep=kept.append)
    world.tick(budget=41, batch=4)

    pulses = [[item.pulse for item in kept if item.pulse] for kept in reported.values()]
    found = [
        [(pulse.batched, pulse.left_ms, bool(pulse.place)) for pulse in kept] for kept in pulses
    ]
    assert found == [[(3, 4_020, True), (1, 16_020, True)], [(3, 4_020, True), (0, None, False)]]
    assert world.calls == [["a", "b", "c", "d"], ["a", "b"]]
    assert world.outcomes == dict.fromkeys("ab", "retry") | dict.fromkeys("cd", "released")


async def test_a_call_in_halves_finds_the_steps_and_streams_of_the_first() -> None:
    """A batch that is run again in halves keeps the first call's finished steps and streams."""
    paid: list[int] = []

    async def pay(number: int, ctx: JobContext) -> str:
        async with ctx.stream("reply") as reply:

            async def say() -> str:
                paid.append(number)
                reply.write(f"paid {number}. ")
                return f"r-{number}"

            receipt: str = await ctx.step("pay", say)
            if number == 2:
                raise ValueError("broken")
            reply.write("Thanks.")
            return receipt

    async def run(jobs: list[BatchedJob[int]]) -> list[str]:
        unused = [job.ctx.step("later", lambda: asyncio.sleep(0)) for job in jobs]
        receipts = [await pay(job.payload, job.ctx) for job in jobs]
        await asyncio.gather(*unused)
        return receipts

    ran = await run_batch([ProcessorTest(run, n) for n in range(3)])

    assert [each.outcome for each in ran] == ["completed", "completed", "retry"]
    assert [each.result for each in ran[:2]] == ["r-0", "r-1"]
    assert [each.output["reply"] for each in ran[:2]] == ["paid 0. Thanks.", "paid 1. Thanks."]
    assert sorted(paid) == [0, 1, 2]


def test_a_wait_belongs_to_the_job_in_whose_place_it_is_returned() -> None:
    """A job of a batch waits if its wait is returned at its position.

    A raised wait fails all jobs, with a remedy in the error.
    """

    async def one(job: BatchedJob[Any]) -> Any:
        if job.id == "b":
            await job.ctx.sleep(60)
        return await job.ctx.step("say", lambda: asyncio.sleep(0, str(job.id)))

    async def gathered(jobs: Jobs) -> Any:
        return await asyncio.gather(*map(one, jobs), return_exceptions=True)

    async def raised(jobs: Jobs) -> Any:
        return [await one(job) for job in jobs]

    each, all_ = (World(rows(*"abc"), run) for run in (gathered, raised))
    for world in (each, all_):
        world.tick(budget=0.9)

    assert each.outcomes == {"a": "completed", "b": "waiting", "c": "completed"}
    assert all_.outcomes == dict.fromkeys("abc", "failed")
    assert "return_exceptions=True" in str(all_.ends["a"].error)


@pytest.mark.parametrize(
    ("change", "outcome"), [({"cancel_requested": True}, "cancelled"), ({"status": "failed"}, None)]
)
def test_one_that_is_stopped_leaves_the_call_to_the_others(
    change: dict[str, Any], outcome: str | None
) -> None:
    """If one job of a batch is cancelled or loses its lease, the call continues for the others."""

    async def run(jobs: Jobs) -> Any:
        await asyncio.sleep(10)
        return [job.ctx.cancelled for job in jobs]

    world = World(rows(*"abc"), run)
    world.later[2] = lambda: vars(world.queue.rows["b"]).update(change)
    world.tick()

    assert [world.ends[name].result for name in "ac"] == [False, False]
    assert world.outcomes.get("b") == outcome


def test_the_deadline_of_one_job_leaves_the_call_to_the_others() -> None:
    """A job whose deadline passes during a batch names the deadline, not the type's timeout.

    The call is stopped only at its last job's deadline.
    """
    stopped_at: list[float] = []

    async def run(jobs: Jobs) -> Any:
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            stopped_at.append(asyncio.get_running_loop().time())
        return ["partial" for _ in jobs]

    deadlines = {"a": 4, "b": 8, "c": 20}
    world = World([Row(name, 1, deadline=at) for name, at in deadlines.items()], run)
    world.rows[1].timeout = 60
    world.tick(budget=45)

    assert world.calls[0] == ["a", "b", "c"]
    for name in "ab":
        error = world.ends[name].error
        assert (world.outcomes[name], error and error.type) == ("retry", "DeadlinePassed")
    assert round(stopped_at[0]) == 20
    assert world.ends["c"].result == "partial"


def test_a_deadline_that_passes_before_the_call_ends_its_job_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World([Row("a", 1, deadline=LATENCY * 3 / 4)], results)
    world.tick(budget=30)

    error = world.ends["a"].error
    assert error
    assert error.type == "DeadlinePassed"
    assert "was abandoned" not in caplog.text


def test_the_last_attempt_is_alone_so_that_no_other_job_can_make_it_fail() -> None:
    async def run(jobs: Jobs) -> Any:
        return [] if "b" in [job.id for job in jobs] else await results(jobs)

    world = World(rows(*"abc"), run)
    world.tick(budget=3)

    assert world.calls[:7] == [[*"abc"]] * 4 + [["a"], ["b"], ["c"]]
    assert [world.queue.rows[name].status for name in "ac"] == ["completed"] * 2


def test_jobs_with_one_attempt_share_a_call() -> None:
    world = World(rows(*"abc", max_attempts=1), results)
    world.tick(budget=3)

    assert world.calls == [[*"abc"]]


@pytest.mark.parametrize(
    ("ids", "comes_at", "options", "calls", "began_at"),
    [
        ("a", 0.1, {"batch_wait": 0.3}, ["ab"], [0.3]),
        ("a", 0.5, {"batch_wait": 0.3}, ["a", "b"], [0.3]),
        ("abc", 99, {"batch_wait": 3}, ["abc"], [0]),
        # A run without time to begin the batch releases the job without a spent attempt.
        ("a", 99, {"batch_wait": 3, "budget": 1.2}, [], []),
    ],
)
def test_a_batch_waits_for_more_and_no_longer(
    ids: str, comes_at: float, options: dict[str, float], calls: list[str], began_at: list[float]
) -> None:
    """A batch that is not full waits `batch_wait` for more jobs and then starts."""
    began: list[float] = []

    async def run(jobs: Jobs) -> Any:
        began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(3)
        return [None for _ in jobs]

    world = World(rows(*ids), run)
    world.later[comes_at] = lambda: world.queue.rows.update(b=Row("b", 1))

    world.tick(**options)

    assert world.calls == [[*call] for call in calls]
    assert began[:1] == pytest.approx(began_at, abs=0.1)
    assert world.outcomes["a"] == ("completed" if calls else "released")


def test_a_batch_is_one_slot_of_its_types_own() -> None:
    world = World(rows(*"abcdefg"), results, options=TickOptions(concurrency=2, linger_seconds=0))

    async def nothing(job: Job[Any], ctx: JobContext) -> None:
        """Do nothing, as the processor of another type."""

    world.registry.processor("other", payload=dict)(nothing)
    world.tick()

    pools = {each.job_types: each.limit for each in world.queue.requests[0].pools or ()}
    assert pools == {("other",): 2, ("work",): 6}
    assert sum(map(len, world.calls)) == 7


def test_middleware_is_around_each_job() -> None:
    """Middleware runs for each job of a batch.

    If it returns a result itself, its job is not in the call.
    """
    world = World(rows(*"abc"), results)

    @world.registry.around
    async def around(job: Job[Any], ctx: JobContext, call: Any) -> Any:
        return "kept" if job.id == "b" else f"around {await call()}"

    world.tick()

    assert world.calls == [["a", "c"]]
    response = {name: item.result for name, item in world.ends.items()}
    assert response == {"a": "around a", "b": "kept", "c": "around c"}


def test_one_that_is_stopped_before_the_call_begins_is_not_in_it() -> None:
    """A job that is cancelled before its batch starts is not in the call."""
    world = World(rows(*"ab"), results)
    world.later[1] = lambda: world.queue.cancel("a")

    @world.registry.around
    async def around(job: Job[Any], ctx: JobContext, call: Any) -> Any:
        await asyncio.sleep(10 * (job.id == "b"))
        return await call()

    world.tick()

    assert (world.calls, world.outcomes) == ([["b"]], {"a": "cancelled", "b": "completed"})


def test_a_call_that_is_abandoned_is_interrupted_once_more() -> None:
    interrupted: list[float] = []

    async def run(jobs: Jobs) -> Any:
        while True:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                interrupted.append(asyncio.get_running_loop().time())
                if len(interrupted) > 1:
                    raise

    World(rows(*"ab", timeout=5), run).tick(budget=30)

    assert interrupted[1] - interrupted[0] == pytest.approx(1, abs=0.1), "the grace time"


def test_a_call_keeps_its_slot_until_its_last_job_has_ended() -> None:
    at_work: list[int] = [0]

    async def run(jobs: Jobs) -> Any:
        at_work.append(at_work[-1] + 1)
        try:
            await asyncio.sleep(10)
        finally:
            at_work.append(at_work[-1] - 1)
        return [None for _ in jobs]

    options = TickOptions(concurrency=1, linger_seconds=0, grace_seconds=1)
    early = [Row("a", 1, timeout=2), *rows(*"bcd")]
    World(early, run, options=options).tick(budget=28)

    assert max(at_work) == 1
