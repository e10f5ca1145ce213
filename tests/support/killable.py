"""Worker processes that are killed after each of their writes.

Run as a module, this file is such a process.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.queue.data_api import DataApi, encode
from minutehand.queue.outbound_http import trusted
from minutehand.worker import TickOptions, Worker
from tests.support.project import Project

#: The maximum number of workers until all jobs have ended.
MOST = 300


async def survive(
    project: Project, app: str, ended: Callable[[], Awaitable[object]], **environment: str | None
) -> list[str]:
    """Work off the queue by workers of an app that die by SIGKILL, each right after another write.

    A worker dies as soon as the database has stored a kind of write after which no worker has died
    yet: a step, a job's end, children, or a call of an app's own function with the job's fence.
    With `WORKER_CONCURRENCY` 1, no worker dies in the middle of another job's step.

    Returns:
        The last write of each dead worker, with `#` in place of digits.
    """
    command = (sys.executable, "-m", "tests.support.killable")
    pipe = asyncio.subprocess.PIPE
    settings = {
        "SUPABASE_URL": project.settings.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "STAGE": "local",
        "MINUTEHAND_APPS": f"minutehand_apps.{app}",
        **{name: value for name, value in environment.items() if value is not None},
    }
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=settings)
    assert process.stdin is not None
    assert process.stdout is not None
    deaths: list[str] = []
    try:
        for _ in range(MOST):
            process.stdin.write(b"\n")
            result = await process.stdout.readline()
            assert result, "the workers could not start: see their error"
            deaths += json.loads(result)
            if await ended():
                return deaths
            project.expire()
            project.make_due()
            project.sql(
                "update jobs set attempts = 1, lost_attempts = 0"
                " where finished_at is null and attempts > 0"
            )
        raise AssertionError(f"it has not ended after {MOST} workers, which died after {deaths}")
    finally:
        process.stdin.close()
        await process.wait()


def _writes(function: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a call stores for leased jobs, in a form that is equal in another attempt."""
    plain = json.loads(encode(arguments))
    request = plain.get("p_request")
    request = request if isinstance(request, dict) else plain
    for item in request.get("items", ()):
        yield from (f"{item['job_id']} step {step['name']}" for step in item.get("steps", ()))
        if "outcome" in item:
            yield f"{item['job_id']} {item['outcome']}"
    if request.keys() & {"fence", "p_fence"}:
        # These digits differ between attempts: fences, times and durations.
        yield f"{function} {re.sub(r'[0-9]+', '#', json.dumps(request, sort_keys=True))}"


async def _work(survived: set[str], pipe: int) -> None:
    """Run all due jobs, and kill this process right after the first new write."""
    rpc = DataApi.rpc
    one = asyncio.Lock()  # one call at a time

    async def dying(self: DataApi, function: str, arguments: Mapping[str, Any], **how: Any) -> Any:
        async with one:
            answer = await rpc(self, function, arguments, **how)
            if new := [write for write in _writes(function, arguments) if write not in survived]:
                os.write(pipe, json.dumps(new).encode())
                os.kill(os.getpid(), signal.SIGKILL)
        return answer

    DataApi.rpc = dying  # type: ignore[method-assign]  # only this process is affected
    settings = Settings.from_env(os.environ)
    concurrency = settings.worker_concurrency
    options = TickOptions(concurrency=concurrency, linger_seconds=0, grace_seconds=0.3)
    worker = Worker(settings, registry=load_processors(settings), options=options)
    await worker.register()
    await worker.tick(budget_seconds=60)


def main() -> None:
    """Run a worker for each input line, and print the killed worker's last write as a list."""
    # Fork with imports and certificates loaded, so that each worker starts fast.
    trusted()
    load_processors(Settings.from_env(os.environ))
    survived: set[str] = set()
    for _ in sys.stdin:
        ear, mouth = os.pipe()
        child = os.fork()
        if child == 0:
            asyncio.run(_work(survived, mouth))
            os._exit(0)
        os.close(mouth)
        with os.fdopen(ear, "rb") as pipe:
            last = pipe.read() or b"[]"
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) > 0:
            sys.exit(1)  # the worker has printed the reason
        survived |= {*json.loads(last)}
        print(last.decode(), flush=True)


if __name__ == "__main__":
    main()
