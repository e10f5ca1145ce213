# mypy: ignore-errors
"""Runs a worker of PgQueuer or of Procrastinate, for comparison with our worker.

This script, like peers.mjs, runs in an environment with only the packages of these queues:
`python peers.py QUEUE URL JOBS MS WAY`.
"""

import asyncio
import json
import sys
import time

import asyncpg
import procrastinate
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode


async def pgqueuer_worker(url: str, job, is_tuned: bool):
    """Return two functions.

    The first function enqueues 1,000 jobs, and the second runs a worker until none is left.
    """
    driver = AsyncpgDriver(await asyncpg.connect(url))
    queries = Queries(driver)
    await queries.install()
    worker = PgQueuer(driver)

    @worker.entrypoint("noop")
    async def noop(_: object) -> None:
        await job()

    size = 500 if is_tuned else 10
    return (
        lambda: queries.enqueue(["noop"] * 1000, [None] * 1000, [0] * 1000),
        lambda: worker.run(batch_size=size, mode=QueueExecutionMode.drain),
    )


async def procrastinate_worker(url: str, job, is_tuned: bool):
    """Return functions that enqueue and run jobs by Procrastinate, as `pgqueuer_worker` does."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
    await app.open_async()
    await app.schema_manager.apply_schema_async()

    @app.task(name="noop")
    async def noop() -> None:
        await job()

    slots = 50 if is_tuned else 1
    return (
        lambda: noop.batch_defer_async(*[{}] * 1000),
        lambda: app.run_worker_async(concurrency=slots, wait=False, install_signal_handlers=False),
    )


async def drain(name: str, url: str, jobs: int, ms: int, is_tuned: bool) -> None:
    """Enqueue all jobs, then run one worker until all jobs have ended."""
    done = 0

    async def job() -> None:
        nonlocal done
        if ms:
            await asyncio.sleep(ms / 1000)
        done += 1

    workers = {"pgqueuer": pgqueuer_worker, "procrastinate": procrastinate_worker}
    fill, run = await workers[name](url, job, is_tuned)
    for _ in range(0, jobs, 1000):
        await fill()
    print("FILLED", flush=True)
    cpu, started = time.process_time(), time.perf_counter()
    await asyncio.wait([asyncio.ensure_future(run())], timeout=10)
    drain_seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    result = {"drain": drain_seconds, "cpu": cpu_seconds, "done": done}
    print("SEEN" + json.dumps(result), flush=True)
    await asyncio.sleep(0.3)  # the parent reads the session's CPU time before its end


name, url, jobs, ms, way = sys.argv[1:]
asyncio.run(drain(name, url, int(jobs), int(ms), way == "tuned"))
