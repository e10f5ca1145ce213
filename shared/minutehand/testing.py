"""Kill an app's workers behind each of their writes: nothing may be lost, and nothing done twice.

For tests: it needs a scratch database, as its owner, behind a Data API. Run as a module it is what
starts such workers. A processor alone is tested with `minutehand.worker.testing`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import pkgutil
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.queue.data_api import DataApi, encode
from minutehand.queue.foreign import trusted
from minutehand.worker.deadlines import TickOptions
from minutehand.worker.loop import Worker
from minutehand.worker.testing import SqlConnection


async def kill_in_each_stage(
    connection: SqlConnection,
    environment: Mapping[str, str],
    ended: Callable[[], Awaitable[object]],
    *,
    schema: str = "public",
    engine_schema: str = "queue",
    most: int = 300,
) -> list[str]:
    """Work off the queue by workers that die by SIGKILL, each right after another write.

    A worker dies as soon as the database has stored something of a job that none died after
    before: a step, an end, children, or a call of an app's own function with the job's fence.
    Between two of them leases expire, backoffs end, and attempts are given back.

    Args:
        connection: To the scratch database, in autocommit, as its owner.
        environment: All that the workers read: the project, `MINUTEHAND_APPS`, the app's settings.
            With `WORKER_CONCURRENCY` 1 no worker dies in the middle of another job's step.
        ended: Whether what was to be done is done; asked after each worker.
        most: Workers after which it must have ended.

    Returns:
        What the workers that died had written last, with `#` for digits.

    Raises:
        AssertionError: It has not ended, or a worker could not start.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "minutehand.testing",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=dict(environment),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    deaths: list[str] = []
    try:
        for _ in range(most):
            process.stdin.write(b"\n")
            said = await process.stdout.readline()
            assert said, "the workers could not start: see their error"
            deaths += json.loads(said)
            if await ended():
                return deaths
            for statement in _NEXT:
                connection.execute(statement.format(schema=schema, engine=engine_schema))
        raise AssertionError(f"it has not ended after {most} workers, which died after {deaths}")
    finally:
        process.stdin.close()
        await process.wait()


_NEXT = (
    "update {engine}.leases set expires_at = {engine}.clock() - interval '1 second'",
    "with due as (update {engine}.deferred set run_at = {engine}.clock() - interval '1 second'"
    " returning job_id) update {schema}.jobs"
    " set next_retry_at = {engine}.clock() - interval '1 second'"
    " where status = 'pending' and id in (select job_id from due)",
    "update {schema}.jobs set attempts = 1, lost_attempts = 0"
    " where finished_at is null and attempts > 0",
)


def _writes(function: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    """What a call stores of leased jobs, alike for the same in another attempt."""
    plain = json.loads(encode(arguments))
    request = plain.get("p_request")
    request = request if isinstance(request, dict) else plain
    for item in request.get("items", ()):
        yield from (f"{item['job_id']} step {step['name']}" for step in item.get("steps", ()))
        if "outcome" in item:
            yield f"{item['job_id']} {item['outcome']}"
    if request.keys() & {"fence", "p_fence"}:
        # digits differ between attempts: fences, instants, durations
        yield f"{function} {re.sub(r'[0-9]+', '#', json.dumps(request, sort_keys=True))}"


async def _work(survived: set[str], pipe: int) -> None:
    """Run what is due, and die right after the first write that is new."""
    rpc = DataApi.rpc
    one = asyncio.Lock()  # else what another call has stored would be known to no one

    async def dying(self: DataApi, function: str, arguments: Mapping[str, Any], **how: Any) -> Any:
        async with one:
            answer = await rpc(self, function, arguments, **how)
            if new := [write for write in _writes(function, arguments) if write not in survived]:
                os.write(pipe, json.dumps(new).encode())
                os.kill(os.getpid(), signal.SIGKILL)
        return answer

    DataApi.rpc = dying  # type: ignore[method-assign]  # this process is for nothing else
    settings = Settings.from_env(os.environ)
    concurrency = settings.worker_concurrency
    options = TickOptions(concurrency=concurrency, linger_seconds=0, grace_seconds=0.3)
    worker = Worker(settings, registry=load_processors(settings), options=options)
    await worker.register()
    await worker.tick(budget_seconds=60)


def _main() -> None:
    """Run a worker for each line read; answer with what the dead one wrote last, as a list."""
    # a death costs no start of an interpreter, no import, and no reading of certificates
    trusted()
    for app in find_apps(Settings.from_env(os.environ).apps):
        package = importlib.import_module(app.package)
        for module in pkgutil.walk_packages(package.__path__, f"{app.package}."):
            with suppress(ImportError):  # of an extra that workers do without
                importlib.import_module(module.name)
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
            sys.exit(1)  # it has printed why
        survived |= {*json.loads(last)}
        sys.stdout.write(f"{last.decode()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
