"""Two versions of a type's code at the same time: the younger deploy defines the type."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.worker import Registry, Schedule, TickOptions, Worker, loop
from tests.support.engine import Engine
from tests.support.renewed import Renewed

NAME = "nightly"
A, B = "aaaaaaaaaa", "bbbbbbbbbb"
#: Time of the old code's deploy. The others come minutes later.
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = f"select max_concurrency, timeout_seconds from queue.job_types where job_type = '{NAME}'"
SCHEDULES = "select name, next_at, last_slot_at from queue.schedules where source is not null"


@pytest.fixture
def engine(renewed: Renewed, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Let workers publish their types at each of their runs, and not every five minutes."""
    monkeypatch.setattr(loop, "REGISTER_INTERVAL_SECONDS", 0.0)
    return Engine(renewed, renewed.session())


def worker(
    engine: Engine, stack: AsyncExitStack, commit: str, minutes: int, **options: Any
) -> Worker:
    """Return a worker of a later deploy, with its own limits and schedule."""
    assert isinstance(engine.database, Renewed)
    registry = Registry()

    async def nightly(job: Any, ctx: Any) -> dict[str, str]:
        return {"by": commit}

    registry.processor(NAME, payload=dict[str, Any], **options)(nightly)
    code = {"commit": commit, "deployed_at": BEGUN + timedelta(minutes=minutes)}
    settings = scratch_settings(engine.database.gateway.url).model_copy(update=code)
    made = Worker(settings, registry=registry, options=TickOptions(linger_seconds=0))
    stack.push_async_callback(made.aclose)
    return made


async def run(worker: Worker) -> None:
    """Run the worker once, after it publishes its types."""
    await worker.register()
    await worker.tick(budget_seconds=5)


async def test_the_younger_deploy_wins(engine: Engine) -> None:
    """Later registrations of the older code change nothing. A roll-back is a deploy."""
    engine.stop_clock()
    seven: dict[str, Any] = {
        "schedule": Schedule("0 7 * * *"),
        "max_concurrency": 5,
        "timeout": 600.0,
    }
    none: dict[str, Any] = {"max_concurrency": 1, "timeout": 60.0}
    async with AsyncExitStack() as stack:
        old, new, back, again = (
            worker(engine, stack, commit, minutes, **options)
            for minutes, (commit, options) in enumerate([(A, none), (B, seven)] * 2)
        )
        await run(old)
        assert (engine.one(LIMITS), engine.rows(SCHEDULES)) == ((1, 60), [])

        await run(new)
        [(name, next_at, _)] = engine.rows(SCHEDULES)
        await run(old)
        assert engine.one(LIMITS) == (5, 600)
        assert engine.rows(SCHEDULES) == [(name, next_at, None)]
        [found] = engine.rpc("explain_queue")["findings"]
        assert (found["reason"], found["cause"]) == ("two_codes", f"both serve {NAME}")
        assert "+aaaaaaaaa and " in found["sentence"]
        assert "+bbbbbbbbb" in found["sentence"]

        await run(back)
        assert (engine.one(LIMITS), engine.rows(SCHEDULES)) == ((1, 60), [])
        await run(new)
        assert (engine.one(LIMITS), engine.rows(SCHEDULES)) == ((1, 60), [])
        engine.advance((next_at - engine.one("select queue.clock()")).total_seconds() + 60)
        await run(again)  # run after the schedule's hour
        assert engine.rows(SCHEDULES) == [(name, next_at + timedelta(days=1), next_at)]
        assert engine.count("public.jobs") == 1
