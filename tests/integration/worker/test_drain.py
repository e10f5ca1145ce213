"""A worker run ends only when no job of its types is left.

The tests run whole workers on a real database.
"""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.aws.extra_workers import EXTRA_WORKER_SOURCE
from minutehand.config import Settings
from minutehand.functions.worker.invocations import SCHEDULE_SOURCE, LambdaWorker
from minutehand.functions.worker.processors import load_or_report, load_processors
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Worker
from tests.integration.worker.drained.processors import COROUTINE, FUNCTION
from tests.support.engine import Engine, Json
from tests.support.renewed import Renewed
from tests.unit.aws.conftest import Service, service as service


@pytest.fixture(autouse=True)
def _types(engine: Engine) -> None:
    engine.register(COROUTINE)
    engine.register(FUNCTION)


def settings_of(engine: Engine, **more: Any) -> Settings:
    """Return the settings of a project with one app. Each project also has the webhooks' app."""
    assert isinstance(engine.database, Renewed)
    chosen = {"apps": ("tests.integration.worker.drained",), "workers_at_once": 3, **more}
    return scratch_settings(engine.database.gateway.url, **chosen)


def due(engine: Engine, *job_types: str) -> int:
    """Return the number of ready jobs of these types."""
    found = "select count(*) from queue.ready as r join queue.lanes as l on l.lane = r.lane"
    return engine.one(f"{found} where l.job_type = any (%s)", list(job_types))


def test_a_run_of_one_queue_ends_with_what_that_queue_has(engine: Engine) -> None:
    engine.declare("mails", "others")
    for queue, count in (("mails", 60), ("others", 7)):
        engine.enqueue_many(count, job_type=COROUTINE, queue=queue)
        engine.enqueue_many(count, job_type=FUNCTION, queue=queue)

    with closing(LambdaWorker(settings_of(engine, worker_queues=("mails",)))) as worker:
        result = worker({"source": SCHEDULE_SOURCE}, None)

    assert (result["completed"], result["due_left"]) == (120, 0)
    assert due(engine, COROUTINE, FUNCTION) == 14


@pytest.mark.parametrize("source", [SCHEDULE_SOURCE, EXTRA_WORKER_SOURCE])
def test_an_extra_worker_starts_no_other(engine: Engine, service: Service, source: str) -> None:
    engine.enqueue_many(60, job_type=FUNCTION)
    settings = settings_of(
        engine,
        extra_workers=2,
        worker_concurrency=1,
        worker_threads=1,
        worker_function_name="worker",
        aws_region="eu-central-1",
        aws_endpoint_url=service.url,
    )

    with closing(LambdaWorker(settings)) as worker:
        worker({"source": source}, None)

    assert bool(service.asked) is (source == SCHEDULE_SOURCE)


async def test_what_a_run_leaves_is_counted_for_all_types_that_it_serves(engine: Engine) -> None:
    """A worker run's summary counts jobs that a limit blocks. Paused jobs are not counted.

    The run counts them also if its last settlement finds that maintenance is due.
    """
    engine.pause("job_type", FUNCTION)
    engine.register("full", max_concurrency=1)
    engine.enqueue_many(4, job_type="full")
    [held] = engine.lease(1, job_types=["full"], worker="another")
    engine.enqueue_many(60, job_type=COROUTINE)
    engine.enqueue_many(3, job_type=FUNCTION)
    settings = settings_of(engine)
    registry = load_processors(settings)
    registry.processor("full", payload=dict, max_concurrency=1)(print)

    @registry.processor("last", payload=dict)
    async def last(job: Job[Json], ctx: JobContext) -> None:
        engine.run("update queue.tasks set done_at = '2020-01-01' where name = 'retention'")

    engine.enqueue(job_type="last", priority=900)

    worker = Worker(settings, registry=registry)
    result = (await worker.tick(budget_seconds=60)).as_dict()
    await worker.aclose()

    assert (result["completed"], result["due_left"]) == (61, 3)
    assert due(engine, "full") == 3
    stored = "select summary from queue.workers where summary ->> 'tick_id' = %s"
    assert engine.one(stored, result["tick_id"])["due_left"] == 3
    assert engine.settle(held)["outcome"] == "applied"


async def test_a_job_that_is_cancelled_with_a_retry_runs_again_in_the_same_run(
    engine: Engine,
) -> None:
    """The job cancels itself in its first attempt, and its worker stops and restarts it."""
    attempts = list[int]()
    settings = settings_of(engine)
    registry = load_processors(settings)

    @registry.processor("again", payload=dict)
    async def again(job: Job[Json], ctx: JobContext) -> None:
        attempts.append(await ctx.step("count", lambda: asyncio.to_thread(lambda: len(attempts))))
        if len(attempts) == 1:
            engine.rpc("cancel_job", p_job_id=str(job.id), p_retry=True)
            await asyncio.sleep(60)

    engine.register("again")
    job_id = engine.enqueue(job_type="again")

    worker = Worker(settings, registry=registry)
    await worker.tick(budget_seconds=60)
    await worker.aclose()

    assert (engine.status(job_id), attempts) == ("completed", [0, 0])
    assert engine.rows("select outcome from queue.attempts where job_id = %s", job_id) == [
        "cancelled",
        "completed",
    ]


async def test_a_module_that_cannot_be_imported_is_a_finding_of_its_types(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends, so that a deploy fails, and the console shows the reason."""
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "__init__.py").touch()
    (tmp_path / "late" / "processors.py").write_text("import absent_library")
    monkeypatch.syspath_prepend(tmp_path)
    engine.register("late", source="late.processors:work")
    engine.register("other", source="late.other:work")
    settings = settings_of(engine, apps=("late",))

    queue = WorkerQueue(settings)
    with pytest.raises(ModuleNotFoundError):
        await load_or_report(settings, queue)
    await queue.aclose()

    found = engine.findings()["refused_type"]
    assert found["sentence"].endswith(" of late.")
    assert found["cause"].startswith("late.processors cannot be loaded: ModuleNotFoundError: ")


def test_one_request_bounds_each_pool_and_a_tenants_limit_over_all(engine: Engine) -> None:
    """One lease call limits each pool of job types and the workspace in total.

    A repeated call returns the same leases.
    """
    engine.enqueue_many(10, job_type=COROUTINE)
    engine.enqueue_many(10, job_type=FUNCTION)
    engine.limit(max_running=5)
    pools = [{"job_types": [COROUTINE], "limit": 3}, {"job_types": [FUNCTION], "limit": 4}]
    request: Json = {"pools": pools, "job_types": [COROUTINE, FUNCTION]}
    request |= {"tick_id": "77777777-7777-4777-8777-777777777777", "call": 1}

    first, again = (engine.lease_call(0, **request) for _ in range(2))

    jobs, same = ([each["job"] for each in found["leases"]] for found in (first, again))
    assert [job["job_type"] for job in jobs] == [COROUTINE] * 3 + [FUNCTION] * 2
    assert {job["id"] for job in jobs} == {job["id"] for job in same}
    assert first["due"] == 15
