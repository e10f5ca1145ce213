"""The Postgres sessions of a running attempt and its calls, found in the attempt's stack."""

import asyncio
import re
import subprocess
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minutehand.queue.models import JobId
from minutehand.worker import Job, JobContext, Registry, attempt, current_job
from minutehand.worker.current_job import JobExecutor, RecordedCoroutine
from minutehand.worker.stacks import awaited_lock, child_process, database_sessions
from tests.integration.worker.test_clocks import working
from tests.support.engine import Engine, Json
from tests.support.patience import until


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
    sessions = await asyncio.to_thread(until, partial(database_sessions, task, ""))
    engine.run("select pg_advisory_unlock(7)")
    assert sessions == await task
    assert database_sessions(task, "") == []


async def test_the_program_for_which_a_processor_waits_is_found() -> None:
    """Its arguments may be secrets, so only its name and process id are returned."""

    async def wait() -> None:
        await (await asyncio.create_subprocess_exec("/bin/sleep", "0.5")).communicate()

    async def wait_in_shell() -> None:
        await (await asyncio.create_subprocess_shell("TOKEN=a/b sleep 0.5; true")).communicate()

    async def wait_in_thread(args: Any) -> None:
        await asyncio.to_thread(subprocess.run, args, check=True, timeout=9)

    asyncio.get_running_loop().set_default_executor(JobExecutor())
    sleep = ["/bin/sleep", "0.5"]
    for process, name in (
        (wait(), "sleep "),
        (wait_in_shell(), "sh "),
        (wait_in_thread(sleep), "sleep "),
        (wait_in_thread(iter(sleep)), ""),
    ):
        task = asyncio.create_task(process)
        program = await asyncio.to_thread(until, partial(child_process, task, ""))
        assert re.fullmatch(rf"the program {name}\(pid \d+\)", program)
        await task
        assert child_process(task, "") is None


async def test_a_process_that_keeps_the_output_of_an_ended_program_open_is_named() -> None:
    """The processor waits for the end of the output, so the program itself is not named."""
    run = partial(subprocess.Popen, "sleep 0.6 &", shell=True, stdout=subprocess.PIPE)
    with run() as program:
        until(lambda: b") Z " in Path(f"/proc/{program.pid}/stat").read_bytes())
        task = asyncio.create_task(asyncio.to_thread(program.communicate))
        asyncio.get_running_loop().set_default_executor(JobExecutor())
        await asyncio.sleep(0.1)
        keeper = child_process(task, "") or ""
        assert re.fullmatch(
            r"the program sleep \(pid \d+\), which keeps the output of sleep open", keeper
        )
        assert f"(pid {program.pid})" not in keeper
        await task


async def test_the_lock_for_which_a_processor_waits_is_found() -> None:
    """Also the number of tasks that wait for it."""
    lock = asyncio.Lock()
    await lock.acquire()
    tasks = [asyncio.create_task(lock.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    found = awaited_lock(tasks[0], "")
    lock.release()
    await tasks[0]
    tasks[1].cancel()
    assert found == "an asyncio.Lock (tasks that wait for it: 2)"


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
    assert (child_process(task, ""), database_sessions(task, "")) == (None, [])
    assert awaited_lock(task, "") is None
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
