"""A worker run ends only when no job of its types is left.

The tests run whole workers on a real database.
"""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.config import Settings
from minutehand.functions.worker.invocations import SCHEDULE_SOURCE, LambdaWorker
from minutehand.functions.worker.processors import load_or_report, load_processors
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Registry, Worker, slots
from tests.integration.worker.coroutines.processors import NAME as COROUTINE
from tests.integration.worker.functions.processors import NAME as FUNCTION
from tests.support.engine import ACME, Engine
from tests.support.renewed import Renewed

#: The apps of a project. Each project also has the webhooks' own coroutine.
BOTH = ["coroutines", "functions"]


@pytest.fixture(autouse=True)
def _types(engine: Engine) -> None:
    engine.register(COROUTINE)
    engine.register(FUNCTION)


@pytest.fixture(autouse=True)
def _as_many_ahead_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the number of jobs that a worker leases ahead independent of the machine."""
    monkeypatch.setattr(slots, "WINDOW_SECONDS", 3600.0)
    monkeypatch.setattr(slots, "WAIT_SECONDS", 3600.0)


def settings_of(engine: Engine, apps: Sequence[str], **more: Any) -> Settings:
    """Return the settings of a project that has only these apps."""
    assert isinstance(engine.database, Renewed)
    names = tuple(f"tests.integration.worker.{name}" for name in apps)
    made = scratch_settings(engine.database.gateway.url)
    return made.model_copy(update={"apps": names, "workers_at_once": 3, **more})


def due(engine: Engine, *job_types: str) -> int:
    """Return the number of ready jobs of these types."""
    found = "select count(*) from queue.ready as r join queue.lanes as l on l.lane = r.lane"
    return int(engine.one(f"{found} where l.job_type = any (%s)", list(job_types)))


def by_lambda(settings: Settings) -> dict[str, Any]:
    """Run the worker as Lambda does on the minute schedule, and return the summary."""
    with closing(LambdaWorker(settings)) as worker:
        summary: dict[str, Any] = worker({"source": SCHEDULE_SOURCE}, None)
        return summary


def ticked(
    settings: Settings, registry: Registry, budget: float = 60, **more: Any
) -> dict[str, Any]:
    """Run the worker once, and return the summary."""

    async def run() -> dict[str, Any]:
        worker = Worker(settings, registry=registry)
        summary = await worker.tick(budget_seconds=budget, **more)
        await worker.aclose()
        return summary.as_dict()

    return asyncio.run(run())


def test_a_run_of_one_queue_ends_with_what_that_queue_has(engine: Engine) -> None:
    engine.declare("mails", "others")
    for queue, count in (("mails", 60), ("others", 7)):
        engine.enqueue_many(count, job_type=COROUTINE, queue=queue)
        engine.enqueue_many(count, job_type=FUNCTION, queue=queue)

    result = by_lambda(settings_of(engine, BOTH, worker_queues=("mails",)))

    assert (result["completed"], result["due_left"]) == (120, 0)
    assert due(engine, COROUTINE, FUNCTION) == 14


def test_a_job_that_comes_just_after_a_run_starts_another(engine: Engine) -> None:
    """A job enqueued just after a worker run wakes another worker.

    It does not wait for the next minute.
    """
    settings = settings_of(engine, ["coroutines"])
    wakes: list[bool] = []

    def enqueue() -> None:
        answer = engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="other")
        wakes.append(answer["wake"])

    async def run() -> None:
        registry = Registry()

        @registry.processor("brief", payload=dict)
        async def brief(job: Any, ctx: Any) -> None:
            await asyncio.sleep(0.7)  # meanwhile the worker calls lease again
            enqueue()

        worker = Worker(settings, registry=registry)
        await worker.register()
        engine.register("other")
        engine.enqueue(job_type="brief")
        summary = await worker.tick(budget_seconds=60)
        assert summary.completed == 1
        enqueue()
        await worker.aclose()

    asyncio.run(run())
    assert wakes == [False, True]
    engine.run_all()


def test_what_a_run_leaves_is_counted_for_all_types_that_it_serves(engine: Engine) -> None:
    """A worker run's summary counts jobs that a limit blocks. Paused jobs are not counted."""
    engine.pause("job_type", FUNCTION)
    engine.register("full", max_concurrency=1)
    engine.enqueue_many(4, job_type="full")
    [held] = engine.lease(1, job_types=["full"], worker="another")
    engine.enqueue_many(60, job_type=COROUTINE)
    engine.enqueue_many(3, job_type=FUNCTION)
    settings = settings_of(engine, BOTH)
    registry = load_processors(settings)
    registry.processor("full", payload=dict, max_concurrency=1)(print)

    result = ticked(settings, registry)

    assert (result["completed"], result["due_left"]) == (60, 3)
    assert due(engine, "full") == 3
    stored = "select summary from queue.workers where summary ->> 'tick_id' = %s"
    assert engine.one(stored, result["tick_id"])["due_left"] == 3
    assert engine.settle(held)["outcome"] == "applied"


def test_a_module_that_cannot_be_imported_is_a_finding_of_its_types(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends, so that a deploy fails, and the console shows the reason."""
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "__init__.py").touch()
    (tmp_path / "late" / "processors.py").write_text("import absent_library")
    monkeypatch.syspath_prepend(tmp_path)
    engine.register("late", source="late.processors:work")
    engine.register("other", source="late.other:work")
    settings = settings_of(engine, []).model_copy(update={"apps": ("late",)})

    async def load() -> None:
        queue = WorkerQueue(settings)
        try:
            await load_or_report(settings, queue)
        finally:
            await queue.aclose()

    with pytest.raises(ModuleNotFoundError):
        asyncio.run(load())

    found = engine.findings()["refused_type"]
    assert found["sentence"].endswith(" of late.")
    assert found["cause"].startswith("late.processors cannot be loaded: ModuleNotFoundError: ")


@pytest.mark.parametrize("named", [[COROUTINE], [FUNCTION], [COROUTINE, FUNCTION]])
def test_a_run_for_named_types_drains_these_and_counts_no_others(
    engine: Engine, named: list[str]
) -> None:
    settings = settings_of(engine, BOTH)
    for job_type in (COROUTINE, FUNCTION):
        engine.enqueue_many(130, job_type=job_type)

    result = ticked(settings, load_processors(settings), job_types=named)

    assert (result["completed"], result["due_left"]) == (130 * len(named), 0)
    assert due(engine, COROUTINE, FUNCTION) == 130 * (2 - len(named))


def test_one_request_bounds_each_pool_and_a_tenants_limit_over_all(engine: Engine) -> None:
    """One lease call limits each pool of job types and the workspace in total.

    A repeated call returns the same leases.
    """
    engine.enqueue_many(10, job_type=COROUTINE)
    engine.enqueue_many(10, job_type=FUNCTION)
    engine.limit(max_running=5)
    pools = [{"job_types": [COROUTINE], "limit": 3}, {"job_types": [FUNCTION], "limit": 4}]
    request: dict[str, Any] = {"pools": pools, "job_types": [COROUTINE, FUNCTION]}
    request |= {"tick_id": "77777777-7777-4777-8777-777777777777", "call": 1}

    first, again = (engine.lease_call(0, **request) for _ in range(2))

    jobs, same = ([each["job"] for each in found["leases"]] for found in (first, again))
    assert [job["job_type"] for job in jobs] == [COROUTINE] * 3 + [FUNCTION] * 2
    assert {job["id"] for job in jobs} == {job["id"] for job in same}
    assert first["due"] == 15
