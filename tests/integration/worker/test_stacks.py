"""The Postgres sessions of a running attempt and its calls, found in the attempt's stack."""

import asyncio
import queue
import re
import subprocess
import threading
import time
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop

from minutehand.queue.models import JobId
from minutehand.worker import Job, JobContext, Registry, attempt, current_job
from minutehand.worker.current_job import JobExecutor, RecordedCoroutine
from minutehand.worker.stacks import awaited, database_sessions, running_frames
from tests.integration.worker.test_clocks import working
from tests.support.engine import Engine, Json
from tests.support.patience import until


def wait_of(task: asyncio.Task[Any]) -> tuple[str | None, str | None]:
    return awaited(running_frames(task, ""))


def sessions_of(task: asyncio.Task[Any]) -> list[int]:
    return database_sessions(running_frames(task, ""))


async def test_the_session_of_a_processors_query_is_found(engine: Engine) -> None:
    """The worker finds the session of a query, and other connections that the processor opened."""
    engine.run("select pg_advisory_lock(7)")

    async def process() -> list[int]:
        async with (
            await psycopg.AsyncConnection.connect(engine.database.url) as one,
            await psycopg.AsyncConnection.connect(engine.database.url) as other,
        ):
            await one.execute("select pg_advisory_lock(7)")
            return [one.info.backend_pid, other.info.backend_pid]

    task = asyncio.create_task(process())
    sessions = await asyncio.to_thread(until, partial(sessions_of, task))
    engine.run("select pg_advisory_unlock(7)")
    assert sessions == await task
    assert sessions_of(task) == []


async def test_the_program_for_which_a_processor_waits_is_found() -> None:
    """Its arguments may be secrets, so only its name and process id are returned."""

    async def wait() -> None:
        await (await asyncio.create_subprocess_exec("/bin/sleep", "0.5")).communicate()

    async def wait_in_thread() -> None:
        await asyncio.to_thread(subprocess.run, ["/bin/sleep", "0.5"], check=True, timeout=9)

    asyncio.get_running_loop().set_default_executor(JobExecutor())
    for process in (wait, wait_in_thread):
        task = asyncio.create_task(process())
        await asyncio.sleep(0.2)
        assert re.fullmatch(r"the program sleep \(pid \d+\)", wait_of(task)[0] or "")
        await task
        assert wait_of(task) == (None, None)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("pipe", ["stdout", "stderr"])
def test_a_program_that_waits_for_a_reader_of_its_output_is_found(run: Any, pipe: str) -> None:
    """The fact is read in the pipe, and in the reader of asyncio."""

    async def start() -> None:
        asyncio.get_running_loop().set_default_executor(JobExecutor())
        popen: Any = subprocess.Popen
        options: Any = {pipe: subprocess.PIPE}
        for size, found in (60_000, None), (900_000, "output"):
            shell = f"head -c {size} /dev/zero{' >&2' * (pipe == 'stderr')}; exec sleep 9"
            program = await asyncio.to_thread(popen, shell, shell=True, **options)
            other = await asyncio.create_subprocess_shell(shell, **options)
            waits = [*map(asyncio.create_task, (asyncio.to_thread(program.wait), other.wait()))]
            await asyncio.sleep(0.4)
            for wait, pid in zip(waits, (program.pid, other.pid), strict=True):
                text, kind = wait_of(wait)
                assert (kind, f"(pid {pid})" in str(text)) == (found, True)
            program.kill()
            other.kill()
            await asyncio.to_thread(program.communicate)
            await other.communicate()
            await asyncio.gather(*waits)

    run(start())


async def test_a_process_that_keeps_the_output_of_an_ended_program_open_is_named() -> None:
    """The processor waits for the end of the output, so the program itself is not named."""
    run = partial(subprocess.Popen, "sleep 0.6 &", shell=True, stdout=subprocess.PIPE)
    with run() as program:
        until(lambda: b") Z " in Path(f"/proc/{program.pid}/stat").read_bytes())
        task = asyncio.create_task(asyncio.to_thread(program.communicate))
        asyncio.get_running_loop().set_default_executor(JobExecutor())
        await asyncio.sleep(0.1)
        keeper = wait_of(task)[0] or ""
        assert re.match(r"the program sleep \(pid \d+\), which keeps the output of an", keeper)
        assert f"(pid {program.pid})" not in keeper
        await task


async def acquire_twice(lock: Any) -> None:
    async with lock, lock:
        pass


async def wait_in(condition: asyncio.Condition) -> None:
    async with condition:
        await condition.wait()


async def test_the_object_for_which_a_processor_waits_is_found() -> None:
    """It is the outermost object of the standard library, which may use others."""
    asyncio.get_running_loop().set_default_executor(JobExecutor())
    items: queue.Queue[int] = queue.Queue()
    opened, result = threading.Event(), Future[int]()
    thread = threading.Thread(target=opened.wait)
    thread.start()
    for wait, found in (
        (acquire_twice(asyncio.Lock()), ("an asyncio.Lock", "lock")),
        (acquire_twice(asyncio.BoundedSemaphore(1)), ("an asyncio.Semaphore", "lock")),
        (wait_in(asyncio.Condition()), ("an asyncio.Condition", "event")),
        (asyncio.LifoQueue[int]().get(), ("an item of an asyncio.Queue", "item")),
        (asyncio.to_thread(items.get), ("an item of a queue.Queue", "item")),
        (asyncio.to_thread(opened.wait), ("a threading.Event", "event")),
        (asyncio.to_thread(thread.join), ("the end of a thread", None)),
        (asyncio.to_thread(result.result), ("the result of a concurrent.futures.Future", None)),
    ):
        task = asyncio.create_task(wait)
        await asyncio.sleep(0.05)
        assert wait_of(task) == found
        task.cancel()
    items.put(1)
    result.set_result(1)
    opened.set()


async def test_a_lazy_object_of_the_processor_is_not_evaluated() -> None:
    class Kind(type):
        def __eq__(cls, other: object) -> bool:
            raise RuntimeError("evaluated")

    class Lazy(metaclass=Kind):
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise RuntimeError("evaluated")

        async def wait(self) -> None:
            await asyncio.Future()

    task = asyncio.create_task(Lazy().wait())
    await asyncio.sleep(0)
    assert (wait_of(task), sessions_of(task)) == ((None, None), [])
    task.cancel()


async def test_a_coroutine_that_blocks_the_event_loop_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that only waits did not block it."""
    monkeypatch.setattr(current_job, "_LONG_SECONDS", 0.02)

    async def block() -> None:
        for _ in range(3):
            time.sleep(0.05)  # noqa: ASYNC251
            await asyncio.sleep(0)

    blocks, waits = (RecordedCoroutine(run, JobId("1")) for run in (block(), asyncio.sleep(0.1)))
    await asyncio.gather(asyncio.create_task(blocks), asyncio.create_task(waits))

    assert 0.15 <= blocks.blocked_seconds < 5
    assert waits.blocked_seconds == 0
    monkeypatch.setattr(current_job, "_REMEMBERED_SECONDS", 0.0)
    assert blocks.blocked_seconds == 0


async def test_the_calls_of_a_running_job_are_part_of_its_explanation(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's line is the innermost of its project, in a coroutine, in a thread or in both."""
    monkeypatch.setattr(attempt, "PULSE_SECONDS", 0.1)
    monkeypatch.setattr(attempt, "REPORT_SECONDS", 0.1)
    registry = Registry()
    opened, opened_in_thread = asyncio.Event(), threading.Event()

    async def read() -> None:
        await opened.wait()

    def read_in_thread() -> None:
        opened_in_thread.wait()

    @registry.processor("awaits", payload=dict)
    async def load(job: Job[Json], ctx: JobContext) -> None:
        await read()

    @registry.processor("awaits a thread", payload=dict)
    async def load_by_thread(job: Job[Json], ctx: JobContext) -> None:
        await asyncio.to_thread(read_in_thread)

    @registry.processor("blocks", payload=dict)
    def load_in_thread(job: Job[Json], ctx: JobContext) -> None:
        read_in_thread()

    def calls(job_id: str) -> str:
        data = engine.explain(job_id)["data"]
        return "\n".join([data.get("code", ""), *data.get("stack", [])]).strip()

    asyncio.get_running_loop().set_default_executor(JobExecutor())
    types = ("awaits", "blocks", "awaits a thread")
    async with working(engine, registry, timedelta()) as worker:
        jobs = [engine.enqueue(job_type=name) for name in types]
        tick = asyncio.create_task(worker.tick())
        found = [await asyncio.to_thread(until, partial(calls, job_id)) for job_id in jobs]
        opened.set()
        opened_in_thread.set()
        await tick

    file = r"tests/integration/worker/test_stacks\.py:\d+"
    library = r"\n\S+\.py:\d+ wait"
    assert re.fullmatch(rf"await opened\.wait\(\)\n{file} load\n{file} read{library}", found[0])
    assert re.fullmatch(
        rf"opened_in_thread\.wait\(\)\n{file} load_in_thread\n{file} read_in_thread{library}",
        found[1],
    )
    assert re.fullmatch(
        rf"opened_in_thread\.wait\(\)\n{file} load_by_thread\n{file} read_in_thread{library}",
        found[2],
    )
