"""An account that runs few functions at once: workers leave the API its room."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from minutehand.local.ports import reserve_port
from minutehand.queue import WorkerQueue
from minutehand.queue.errors import QueueError
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.fanout import FanOut
from supabase_local.lambda_runtime import FunctionConfig, Invocation, LambdaRuntime
from supabase_local.lambda_runtime.gateway import Route
from tests.support.killable import until
from tests.support.payloads import Nothing, nothing
from tests.support.project import ACME, Project

HERE = Path(__file__).parent
ACCOUNT = 6
WORKERS = 2
ONE = {"workspace_id": ACME, "job_type": "hold", "payload": {}}
BACKLOG = {"workspace_id": ACME, "jobs": [{"job_type": "hold", "payload": {}}] * 80}


@asynccontextmanager
async def functions(
    project: Project, gate: Path, *, workers_at_once: int | None
) -> AsyncIterator[LambdaRuntime]:
    """The real `jobs` and `worker` under Lambda's rules, in an account of six."""
    port = reserve_port()
    variables = {
        **{k: v for k, v in project.settings.environ.items() if isinstance(v, str)},
        "SUPABASE_URL": project.settings.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": project.settings.supabase_publishable_key,
        "SUPABASE_JWT_SECRET": project.settings.supabase_jwt_secret or "",
        "MINUTEHAND_SCHEMA": project.settings.schema_name,
        "MINUTEHAND_APPS": "slow_app",
        "WORKER_FUNCTION_NAME": "worker",
        "AWS_ENDPOINT_URL_LAMBDA": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "WORKER_CONCURRENCY": "2",
        "EXTRA_WORKERS": "10",
        "SLOW_APP_GATE": str(gate),
        "STREAMING": "false",
        **({} if workers_at_once is None else {"WORKERS_AT_ONCE": str(workers_at_once)}),
    }
    both = [
        FunctionConfig(
            name=name,
            handler=f"minutehand.functions.{name}.handler.handler",
            task_root=HERE,
            timeout=timeout,
            memory_mb=512,
            variables=variables,
            max_retries=0,
            max_event_age=60,
        )
        for name, timeout in (("jobs", 60.0), ("worker", 300.0))
    ]
    routes = [Route("POST /api/jobs", "jobs"), Route("POST /api/jobs/bulk", "jobs")]
    runtime = LambdaRuntime(both, routes=routes, concurrency=ACCOUNT)
    await runtime.start(port)
    try:
        yield runtime
    finally:
        await runtime.stop()


@asynccontextmanager
async def backlog(
    project: Project, gate: Path, *, workers_at_once: int | None
) -> AsyncIterator[tuple[LambdaRuntime, httpx.AsyncClient]]:
    """The functions with eighty jobs that end when `gate` is there, and a client of the API."""
    async with (
        functions(project, gate, workers_at_once=workers_at_once) as runtime,
        httpx.AsyncClient(
            base_url=runtime.url,
            headers={"authorization": f"Bearer {project.token()}"},
            timeout=60,
        ) as api,
    ):
        # a first run publishes the type
        assert (await runtime.functions["worker"].invoke(Invocation(b"{}"))).ok
        many = await api.post("/api/jobs/bulk", json=BACKLOG)
        assert many.is_success, many.text
        yield runtime, api


async def until_running(project: Project, wanted: int) -> None:
    """Wait until so many jobs are held by workers."""
    count = "select count(*) as n from queue.leases"
    await until(lambda: project.rows(count)[0]["n"] >= wanted, seconds=150)


async def test_a_backlog_never_starves_the_api(project: Project, tmp_path: Path) -> None:
    """Two workers hold all they can, eighty jobs wait, and each new one is still accepted."""
    gate = tmp_path / "gate"
    async with backlog(project, gate, workers_at_once=WORKERS) as (runtime, api):
        await until_running(project, WORKERS * 2)

        statuses = [(await api.post("/api/jobs", json=ONE)).status_code for _ in range(30)]

        assert statuses == [201] * 30
        held = project.rows("select count(distinct worker_id) as n from queue.leases")[0]["n"]
        assert held == WORKERS
        assert runtime.account.most <= ACCOUNT
        gate.touch()


async def test_without_the_bound_a_backlog_takes_the_whole_account(
    project: Project, tmp_path: Path
) -> None:
    """What the bound is for: the same account, the same backlog."""
    gate = tmp_path / "gate"
    async with backlog(project, gate, workers_at_once=None) as (_, api):
        await until_running(project, ACCOUNT * 2)

        refused = await api.post("/api/jobs", json=ONE)

        assert refused.status_code == 503
        gate.touch()


async def test_as_many_runs_as_allowed_are_admitted_and_an_ended_one_makes_room(
    worker_queue: WorkerQueue,
) -> None:
    """Repeating a lost answer takes no second place."""
    first, second, third = (str(uuid.uuid4()) for _ in range(3))

    async def begin(run: str) -> tuple[bool, int]:
        found = await worker_queue.begin_run(run, worker_id=run, most=2, seconds=60)
        return found.admitted, found.free

    assert await begin(first) == (True, 1)
    assert await begin(first) == (True, 1)
    assert await begin(second) == (True, 0)
    assert await begin(third) == (False, 0)
    await worker_queue.end_run(first)
    await worker_queue.end_run(first)
    assert await begin(third) == (True, 0)


async def test_a_run_learns_at_its_end_that_another_was_refused(
    worker_queue: WorkerQueue,
) -> None:
    """Of its own time, and once."""
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    await worker_queue.begin_run(first, worker_id="a", most=1, seconds=60)
    await worker_queue.begin_run(second, worker_id="b", most=1, seconds=60)

    assert await worker_queue.end_run(first) is True
    await worker_queue.begin_run(second, worker_id="b", most=1, seconds=60)
    assert await worker_queue.end_run(second) is False


async def test_what_comes_after_the_last_look_is_run_though_its_worker_was_refused(
    project: Project, registry: Registry
) -> None:
    """The only place was still taken by a run that had found nothing more."""
    ran: list[str] = []
    refused: list[bool] = []

    @registry.processor("short", payload=Nothing)
    async def short(job: Job[Nothing], ctx: JobContext) -> None:
        ran.append(job.id)

    woken = Worker(project.settings, registry=registry, most=1)

    class Ending(WorkerQueue):
        """A job comes, and its worker, when the run has looked and has not yet ended."""

        async def end_run(self, run_id: str) -> bool:
            if not refused:
                project.insert("short")
                refused.append((await woken.tick(budget_seconds=60)).crowded_out)
            return await super().end_run(run_id)

    ending = Worker(
        project.settings,
        registry=registry,
        queue=Ending(project.settings),
        options=TickOptions(linger_seconds=0),
        most=1,
    )
    summary = await ending.tick(budget_seconds=60)
    await ending.aclose()
    await woken.aclose()

    assert (refused, len(ran), summary.completed) == ([True], 1, 1)


async def test_a_run_that_was_killed_counts_until_its_host_has_ended_it(
    project: Project, worker_queue: WorkerQueue
) -> None:
    """Lambda says how long that is at most."""
    killed, next_one = str(uuid.uuid4()), str(uuid.uuid4())
    await worker_queue.begin_run(killed, worker_id="a", most=1, seconds=60)
    project.run_sql("update queue.worker_runs set expires_at = queue.clock()")

    found = await worker_queue.begin_run(next_one, worker_id="b", most=1, seconds=60)

    assert found.admitted


@pytest.mark.parametrize("most", [0, -1])
async def test_a_bound_of_none_is_refused(worker_queue: WorkerQueue, most: int) -> None:
    """It would stop every worker in silence."""
    with pytest.raises(QueueError, match="most"):
        await worker_queue.begin_run(str(uuid.uuid4()), worker_id="a", most=most, seconds=60)


async def test_a_crowded_worker_leases_nothing_and_extra_workers_fit_what_is_free(
    project: Project, registry: Registry, worker_queue: WorkerQueue
) -> None:
    """One place is taken, one is this worker's, one is left: a backlog starts one more, not ten."""
    started: list[int] = []

    registry.processor("short", payload=Nothing)(nothing)

    async def start(count: int) -> int:
        started.append(count)
        return count

    def a_worker(most: int) -> Worker:
        return Worker(
            project.settings,
            registry=registry,
            options=TickOptions(concurrency=2, linger_seconds=0),
            fan_out=FanOut(most=10, typical_seconds=5.0),
            start_extra_workers=start,
            most=most,
        )

    other = str(uuid.uuid4())
    await worker_queue.begin_run(other, worker_id="other", most=3, seconds=60)
    crowded, free = a_worker(1), a_worker(3)
    await crowded.register()
    for _ in range(60):
        project.insert("short")

    refused = await crowded.tick(budget_seconds=60)
    done = await free.tick(budget_seconds=60)
    await crowded.aclose()
    await free.aclose()

    assert (refused.crowded_out, refused.leased) == (True, 0)
    assert (done.crowded_out, done.completed) == (False, 60)
    assert started == [1]
    [left] = project.rows("select run_id::text from queue.worker_runs")
    assert left["run_id"] == other
