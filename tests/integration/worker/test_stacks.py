"""The Postgres sessions of a running attempt and its calls, found in the attempt's stack."""

import asyncio
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvloop

from minutehand.queue.models import JobId
from minutehand.worker import Job, JobContext, Registry, attempt, current_job
from minutehand.worker.current_job import JobExecutor, RecordedCoroutine
from minutehand.worker.stacks import Frames, awaited, database_sessions, running_frames
from tests.integration.worker.test_clocks import working
from tests.support.engine import Engine, Json
from tests.support.patience import Seen, until


async def until_read(look: Callable[[], Seen | None]) -> Seen:
    """Wait as `until` does, but read in the event loop, as a worker does.

    Another thread would read the frames of a coroutine while it runs, which can end the process.
    """
    async with asyncio.timeout(240):
        while not (seen := look()):  # noqa: ASYNC110 - frames notify no one
            await asyncio.sleep(0.05)
    return seen


def wait_of(task: asyncio.Task[Any]) -> tuple[str | None, str | None]:
    return awaited(running_frames(task, ""))


def waits_for(task: asyncio.Task[Any], found: tuple[str | None, str | None]) -> bool:
    return wait_of(task) == found


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
    sessions = await until_read(partial(sessions_of, task))
    engine.run("select pg_advisory_unlock(7)")
    assert sessions == await task
    assert sessions_of(task) == []


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize(("size", "kind"), [(60_000, None), (900_000, "output")])
def test_the_program_for_which_a_processor_waits_is_found(
    run: Any, size: int, kind: str | None
) -> None:
    """Also whether someone must read its output. Its arguments may be secrets."""

    async def wait() -> None:
        asyncio.get_running_loop().set_default_executor(JobExecutor())
        pipe: Any = {"stderr": subprocess.PIPE}
        shell = f"TOKEN=a/b; head -c {size} /dev/zero >&2; exec sleep 9"
        popen: Any = partial(subprocess.Popen, shell, shell=True, **pipe)
        one = await asyncio.to_thread(popen)
        other = await asyncio.create_subprocess_shell(shell, **pipe)
        waits = [*map(asyncio.create_task, (asyncio.to_thread(one.wait), other.wait()))]
        for task, pid in zip(waits, (one.pid, other.pid), strict=True):
            name = "sh" if kind else "sleep"  # the shell waits until someone reads its output
            unread = ", whose unread output fills its buffer" if kind else ""
            expected = f"the program {name} (pid {pid}){unread}", kind
            await until_read(partial(waits_for, task, expected))
        one.kill()
        other.kill()
        one.stderr.close()
        await other.communicate()
        await asyncio.gather(*waits)

    run(wait())


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
        await task


async def test_the_object_for_which_a_processor_waits_is_found() -> None:
    """It is the outermost object of the standard library, which may use others."""
    asyncio.get_running_loop().set_default_executor(JobExecutor())
    result = Future[int]()
    for wait, found in (
        (asyncio.Semaphore(0).acquire(), ("an asyncio.Semaphore", "lock")),
        (asyncio.LifoQueue[int]().get(), ("an item of an asyncio.Queue", "event")),
        (asyncio.to_thread(result.result), ("a concurrent.futures.Future", None)),
    ):
        task = asyncio.create_task(wait)
        wait_of(task)  # can be read before the task starts
        await until_read(partial(waits_for, task, found))
        task.cancel()
    result.set_result(1)


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
        in_thread = [engine.explain(job_id)["data"].get("in_thread") for job_id in jobs]
        opened.set()
        opened_in_thread.set()
        await tick

    file = r"tests/integration/worker/test_stacks\.py:\d+"
    library = r"\n\S+\.py:\d+ wait"
    assert in_thread == [None, True, None]
    assert re.fullmatch(rf"await opened\.wait\(\)\n{file} load\n{file} read{library}", found[0])
    assert re.fullmatch(
        rf"opened_in_thread\.wait\(\)\n{file} load_in_thread\n{file} read_in_thread{library}",
        found[1],
    )
    assert re.fullmatch(
        rf"opened_in_thread\.wait\(\)\n{file} load_by_thread\n{file} read_in_thread{library}",
        found[2],
    )


async def test_a_job_that_cannot_be_sampled_runs_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error does not end the reports of the worker, which all jobs need."""
    monkeypatch.setattr(attempt, "PULSE_SECONDS", 0.1)
    monkeypatch.setattr(attempt, "REPORT_SECONDS", 0.1)
    registry, opened = Registry(), asyncio.Event()

    class Odd(psycopg.AsyncConnection[Any]):
        @property
        def closed(self) -> bool:
            raise RuntimeError("not yet connected")

        async def hold(self) -> None:
            await opened.wait()

    @registry.processor("odd", payload=dict)
    async def hold(job: Job[Json], ctx: JobContext) -> None:
        await Odd.__new__(Odd).hold()

    def has_failed() -> bool:
        return any(getattr(one, "event", "") == "pulse.failed" for one in caplog.records)

    async with working(engine, registry, timedelta()) as worker:
        job_id = engine.enqueue(job_type="odd")
        tick = asyncio.create_task(worker.tick())
        await asyncio.to_thread(until, has_failed)
        opened.set()
        await tick

    assert engine.get(job_id)["status"] == "completed"


class Silent(asyncio.StreamReader):
    """A reader of the user, which has no transport."""


def test_a_read_without_a_server_is_no_error() -> None:
    async def main() -> None:
        for reader in (asyncio.StreamReader(), Silent()):
            task = asyncio.create_task(reader.read())
            await asyncio.sleep(0)
            assert wait_of(task) == (None, None)
            reader.feed_eof()
            await task

    asyncio.run(main())


def server_of(task: asyncio.Task[Any]) -> tuple[str | None, str | None] | None:
    found = wait_of(task)
    return found if found[1] == "data" else None


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_the_server_for_which_a_processor_waits_is_found(run: Any) -> None:
    """The calls that wait are asyncio's, those of httpx, and those of blocking libraries."""

    def block(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as one, one.makefile() as file:
            file.readline()

    async def read(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readline()
        writer.close()

    async def get(port: int) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            await client.get(f"http://127.0.0.1:{port}")

    async def wait() -> None:
        asyncio.get_running_loop().set_default_executor(JobExecutor())
        ended = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await ended.wait()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            calls = [
                *map(asyncio.create_task, (read(port), get(port), asyncio.to_thread(block, port)))
            ]
            for call in calls:
                found = await until_read(partial(server_of, call))
                assert found == (f"data from 127.0.0.1:{port}", "data")
            ended.set()
            await asyncio.gather(*calls, return_exceptions=True)

    run(wait())


def test_no_code_of_the_user_runs_while_a_wait_is_read() -> None:
    """A user may replace the output of a program, and the name of a module."""

    def frames_of(thread: str) -> Frames | None:
        frames = running_frames(None, thread)
        return frames if any(frame.f_code.co_name == "wait" for frame, _ in frames) else None

    class Odd(str):
        def __getattr__(self, _: str) -> Any:
            raise RuntimeError

        def __hash__(self) -> int:
            raise RuntimeError

    program: Any = subprocess.Popen(["sleep", "99"])
    program.stdout = Odd()
    new = subprocess.Popen.__new__(subprocess.Popen)  # its fields follow
    module: Any = {"__name__": Odd()}
    exec("import time\ndef wait(self): time.sleep(99)", module)
    calls = program.wait, partial(module["wait"], None), partial(module["wait"], new)
    for number, call in enumerate(calls):
        name = f"odd {number}"
        threading.Thread(target=call, daemon=True, name=name).start()
        frames = until(partial(frames_of, name))
        found = awaited(frames)[0] or ""
        assert found.startswith("the program sleep") == (number == 0)
    program.kill()
