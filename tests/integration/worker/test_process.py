"""A worker in its own process: exit code, imports, and the report of its end."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minutehand.functions.worker.exit_report import ExitReport, ExitReporter
from minutehand.queue.models import JobId
from minutehand.worker.alarm import STACKS
from minutehand.worker.current_job import read_current_job
from minutehand.worker.loop import run_until_done
from tests.support.engine import Engine

JOB = JobId("01a2b3c4-0000-7000-8000-000000000001")
ENDS_AS_HOT_RELOAD_DOES = """
import asyncio, atexit, os, signal, threading
from contextlib import asynccontextmanager
from minutehand.functions.worker.process import serve_worker

async def never_stops():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@asynccontextmanager
async def start():
    left_behind = asyncio.create_task(never_stops())
    threading.Thread(target=threading.Event().wait).start()
    atexit.register(print, "at exit")
    os.kill(os.getpid(), signal.SIGTERM)
    yield

serve_worker(os.environ, start, lambda: None)
"""
STARTS_COLD = """
import sys
sys.modules.update(click=None, rich=None)  # httpx loads them where they are, and no zip has them
import minutehand.aws.rotation, minutehand.functions.worker.invocations
print(len(sys.modules), *{name.partition(".")[0] for name, module in sys.modules.items() if module})
"""
STARTS_FORKED = """
import asyncio, os, sys
from minutehand.functions.worker import app, process
app.load()
threads, loaded = os.listdir("/proc/self/task"), set(sys.modules)
asyncio.run(process._run_suspects(app.run_worker))
print(len(threads), *set(sys.modules) - loaded)
"""
#: A process that the code of a job ends, while a thread runs another job.
ENDS_IN_A_JOB = f"""
import asyncio, ctypes, faulthandler, os, signal, sys, threading
from functools import partial
from pathlib import Path
from minutehand.worker.current_job import *
from minutehand.worker.threads import run_in_thread

record_jobs(Path(sys.argv[1]))
faulthandler.enable(open(sys.argv[2], "w"))

def end(loop=None):
    if loop:  # wait until the coroutine of the job waits
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    {{how}}
    for end_child in (ctypes.string_at, os._exit):
        if os.fork() == 0:
            end_child(0)
        os.wait()
    ctypes.CDLL(None).kill(os.getpid(), 9)

async def end_in_task():
    end()

async def work(loop):
    JOB_ID.set(b"{JOB}")
    {{where}}

async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(JobExecutor(2))
    JOB_ID.set(b"0" * 36)
    asyncio.create_task(run_in_thread(threading.Event().wait, name=""))
    await asyncio.sleep(0)
    await asyncio.create_task(RecordedCoroutine(work(loop), "{JOB}"))

asyncio.run(main())
"""
#: The packages that a worker always imports. httpx imports idna and certifi, and pydantic imports
#: those of the second line.
NEEDED = {"minutehand", "tenacity", "httpx", "idna", "certifi", "pydantic", "pydantic_core"}
NEEDED |= {"annotated_types", "typing_extensions", "typing_inspection"}


def test_a_worker_that_ends_in_good_order_is_not_taken_for_a_crash(tmp_path: Path) -> None:
    """A worker that ends normally exits with 0, even if a processor's task or thread never stops.

    Functions of `atexit` run. Another exit code would delay the next worker.
    """
    command = [sys.executable, "-c", ENDS_AS_HOT_RELOAD_DOES]
    environ = {**os.environ, "WORKER_SOCKET": str(tmp_path / "socket")}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as worker:
        assert worker.wait(60) == 0
        assert worker.stdout
        assert worker.stdout.read() == "at exit\n"
        assert worker.stderr
        assert "Traceback" not in worker.stderr.read()


@pytest.mark.parametrize("exits", [SystemExit, KeyboardInterrupt])
def test_a_task_that_exits_ends_nothing_but_itself(exits: type[BaseException]) -> None:
    """A task that raises SystemExit or KeyboardInterrupt ends alone. Other jobs continue."""

    async def exit_soon() -> None:
        raise exits

    async def work() -> str:
        left = asyncio.create_task(exit_soon())
        with pytest.raises(exits):
            await left
        return "done"

    with asyncio.Runner() as runner:
        assert run_until_done(runner.get_loop(), work()) == "done"


def test_a_cold_start_imports_what_a_run_needs() -> None:
    """A worker's cold start imports only the needed packages and fewer than 410 modules."""
    command = [sys.executable, "-c", STARTS_COLD]
    done = subprocess.run(command, capture_output=True, check=True)
    count, *packages = done.stdout.decode().split()
    others = {name for name in packages if name[0] != "_"} - sys.stdlib_module_names - NEEDED
    assert (others, int(count) < 410) == (set(), True)


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_forked_process_imports_nothing(
    engine: Engine, environ: dict[str, str], is_direct: bool
) -> None:
    """The fork server imports all modules for its worker processes, and starts no thread."""
    environ |= {
        "MINUTEHAND_APPS": "tests.integration.serve.greeter",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "WORKER_SUSPECTS_ONLY": "1",
        "LOG_LEVEL": "ERROR",
    }
    if is_direct:
        environ["DATABASE_URL"] = engine.database.url
    command = [sys.executable, "-c", STARTS_FORKED]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)

    assert done.stdout.split() == ["1"]


def test_a_cold_start_of_the_api_imports_no_worker() -> None:
    """The API's cold start imports no worker, no boto3 and no metrics library."""
    code = "import sys, minutehand.functions.jobs.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())

    assert not loaded & {"minutehand.worker", "prometheus_client", "boto3", "botocore"}


async def test_the_end_of_a_process_is_reported_when_its_database_url_is_silent(
    engine: Engine, environ: dict[str, str], tmp_path: Path
) -> None:
    """If the DATABASE_URL does not respond, the host reports a process's end over HTTPS."""
    engine.register()
    engine.enqueue()
    engine.lease_one()
    record = tmp_path / "record"
    record.write_text(json.dumps({"worker_id": "w1"}))
    (tmp_path / f"record{STACKS}").touch()
    connections: list[asyncio.StreamWriter] = []

    async def connect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        environ["DATABASE_URL"] = f"postgresql://127.0.0.1:{port}/none"
        report = ExitReport(record, environ)
        evidence = report.read(1)
        reporter = ExitReporter(environ)
        await reporter.report(report.worker_id, evidence)
        await reporter.aclose()
        for writer in connections:
            writer.close()

    assert engine.rows("select evidence ->> 'exit_code' from queue.workers") == ["1"]
    assert len(connections) == 1


IN_TASK = "await asyncio.create_task(end_in_task())"
IN_THREAD = "await run_in_thread(partial(end, loop), name='')"
IN_THREAD_OF_ASYNCIO = "await asyncio.to_thread(end, loop)"


@pytest.mark.parametrize(
    ("where", "how", "code", "expected"),
    [
        (IN_TASK, "os._exit(7)", 7, JOB),
        (IN_THREAD, "os._exit(7)", 7, JOB),
        (IN_THREAD_OF_ASYNCIO, "os.kill(os.getpid(), signal.SIGKILL)", -9, JOB),
        ("end()", "ctypes.string_at(0)", -11, JOB),
        (IN_THREAD, "ctypes.string_at(0)", -11, JOB),
        (IN_THREAD_OF_ASYNCIO, "ctypes.string_at(0)", -11, JOB),
        ("end()", "", -9, JOB),
        (IN_THREAD, "", -9, None),
    ],
)
def test_the_file_names_the_job_whose_code_ended_the_process(
    tmp_path: Path, where: str, how: str, code: int, expected: JobId | None
) -> None:
    """The file names the job that called `os._exit` or `os.kill`, or that caused a fatal signal.

    If another process killed the process, the file names the job whose coroutine ran. A child
    process of the job changes nothing.
    """
    path, stacks = tmp_path / "current", tmp_path / "stacks"
    program = ENDS_IN_A_JOB.format(how=how, where=where)
    done = subprocess.run([sys.executable, "-c", program, path, stacks])

    assert done.returncode == code
    assert read_current_job(path, stacks.read_text())[0] == expected
