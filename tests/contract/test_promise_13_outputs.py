"""No result, error or output of a processor stops its worker or the other jobs.

A worker that cannot continue releases its jobs and ends. The tests use a model of the queue.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from minutehand.queue.data_api import encode
from minutehand.queue.models import ReportItem, ReportResult
from minutehand.worker import (
    Cancel,
    Fail,
    Job,
    JobContext,
    NewJob,
    ProcessorError,
    Retry,
    Snooze,
    Suspended,
    TickOptions,
)
from tests.support.queue_model import ModelQueue, Row
from tests.support.virtual_time import leaping


class Raises:
    """A value whose text representation raises an exception."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Properties(Exception):
    """An error whose attributes cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attribute")

    retry_after = property(lambda self: 1 / 0)
    response = property(lambda self: 1 / 0)


def exits(*_: Any) -> Any:
    """End the process, unless the worker catches the exception."""
    raise SystemExit(3)


class Exits(Exception):
    """An exception that raises SystemExit whenever code reads it or its class."""

    __str__ = __repr__ = __float__ = __getattribute__ = exits
    retry_after = response = property(exits)


def nested(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def circle() -> Any:
    """A list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


def failing() -> Any:
    yield 1
    raise SystemExit(3)


VALUES: dict[str, Callable[[], Any]] = {
    "nul": lambda: "a\x00b",
    "surrogate key": lambda: {"k\udfff": ["\ud83d"]},
    "nan": lambda: {"x": [math.nan, -math.inf]},
    "bytes": lambda: b"\xff\x00",
    "raises": Raises,
    "raising key": lambda: {Raises(): 1},
    "deep": lambda: nested(900),
    "too deep": lambda: nested(5_000),
    "circle": circle,
    "generator": failing,
    "endless": lambda: {"pages": [iter(int, 1)]},
    "digits": lambda: 10**5_000,
    "large": lambda: {"page": "ä" * 2_000_000},
    "many": lambda: {str(n): "x" * 100 for n in range(20_000)},
    "error": Properties,
    "exits": Exits,
}


async def raises(error: BaseException) -> None:
    raise error


async def noting(ctx: JobContext, **result: Any) -> None:
    """Log the value, and keep running while the worker sends the log line."""
    ctx.log("info", result.pop("message", "m"), **result)
    await asyncio.sleep(1)


async def staging(ctx: JobContext, value: Any) -> None:
    """Report the value as progress, and keep running while the worker sends the report."""
    ctx.progress(10, value, value)
    await asyncio.sleep(1)


async def given(value: Any) -> Any:
    return value


USES: dict[str, Callable[[JobContext, Any], Any]] = {
    "returns": lambda ctx, value: given(value),
    "fails": lambda ctx, value: given(Fail(value, data={"v": value})),
    "retries": lambda ctx, value: given(Retry(value, after=value, data=value)),
    "snoozes": lambda ctx, value: given(Snooze(after=value)),
    "cancels": lambda ctx, value: given(Cancel(value, data=value)),
    "raises": lambda ctx, value: raises(
        value if isinstance(value, Exception) else RuntimeError(value)
    ),
    "raises data": lambda ctx, value: raises(ProcessorError("no", data=value, retry_after=value)),
    "raises an exit": lambda ctx, value: raises(SystemExit(value)),
    "suspends": lambda ctx, value: raises(Suspended({"kind": value, "name": value})),
    "asks": lambda ctx, value: ctx.ask(value, [value], timeout=1, default=value),
    "waits": lambda ctx, value: ctx.wait_for_event(value, timeout=1, default=value),
    "steps": lambda ctx, value: ctx.step("s", lambda: given(value)),
    "names a step": lambda ctx, value: ctx.step(value, lambda: given(1)),
    "spawns": lambda ctx, value: ctx.spawn([NewJob(job_type="work", payload={"v": value})]),
    "logs": lambda ctx, value: noting(ctx, v=value, more=[value]),
    "logs a message": lambda ctx, value: noting(ctx, message=value),
    "logs a key": lambda ctx, value: noting(ctx, **{str(value)[:9]: 1}),
    "reports": staging,
    "tags": lambda ctx, value: given(ctx.tag(value)),  # type: ignore[func-returns-value]
    "costs": lambda ctx, value: given(vars(ctx).update(cost_usd=value)),
}


@pytest.fixture
def no_log() -> Iterator[None]:
    """Disable logging, because the logged values are too large for a test report."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("no_log")
@pytest.mark.parametrize("use", sorted(USES))
def test_what_a_processor_hands_over_costs_its_own_attempt_alone(use: str) -> None:
    """A processor passes a value that cannot be serialized, or is too large, to the worker.

    Its job and an ordinary job in the same run are both settled.
    """
    sizes: list[int] = []

    class Encoding(ModelQueue):
        async def report(self, items: Sequence[ReportItem]) -> list[ReportResult]:
            sizes.append(len(encode([item.wire() for item in items])))
            return await super().report(items)

        async def settle(self, items: Sequence[Any], **more: Any) -> Any:
            sizes.append(len(encode([item.wire() for item in items])))
            answer = await super().settle(items, **more)
            for item in items:
                self.rows[item.job_id].status = "failed"  # do not run the job again
            return answer

        async def spawn(self, *args: Any) -> Any:
            return []

    queue = Encoding([Row(name, {}) for name in (*VALUES, "ordinary")])

    async def work(job: Job[Any], ctx: JobContext) -> Any:
        if job.id == "ordinary":
            await asyncio.sleep(1)
            return "done"
        return await USES[use](ctx, VALUES[job.id]())

    leaping(tick(queue, work))

    settled = {row.id: row.settled.get(1) for row in queue.rows.values()}
    assert None not in settled.values(), settled
    assert settled["ordinary"] == "completed"
    assert max(sizes) < 2_500_000


async def tick(queue: ModelQueue, work: Callable[..., Any]) -> None:
    """Run each job of the model queue once."""
    worker = queue.worker(work, options=TickOptions(concurrency=100, linger_seconds=0))
    running = asyncio.create_task(worker.run_forever())
    await asyncio.sleep(20)
    worker.stop()
    await running


@pytest.mark.parametrize("call", ["report", "settle", "lease", "maintain"])
def test_an_error_that_no_rule_knows_ends_the_loop_and_gives_back_what_runs(call: str) -> None:
    """An unexpected error in one of the worker's loops ends the worker.

    The worker releases its running jobs, so that no loop stops unnoticed.
    """
    queue = ModelQueue([Row("1", {}), Row("2", {})])

    async def work(job: Job[Any], ctx: JobContext) -> None:
        await asyncio.sleep(3 if job.id == "1" else 100)

    async def broken(*args: Any, **more: Any) -> Any:
        raise ArithmeticError("a fault of ours")

    async def story() -> None:
        running = asyncio.create_task(queue.worker(work).run_forever())
        await asyncio.sleep(1)
        setattr(queue, call, broken)
        with pytest.raises(ArithmeticError):
            await running

    leaping(story())

    if call != "settle":
        assert {row.settled[1] for row in queue.rows.values()} <= {"completed", "released"}
