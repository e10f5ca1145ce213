# mypy: ignore-errors
"""Runs a worker of PgQueuer, for comparison with our worker.

This script runs in an environment with only PgQueuer, with the arguments of peers.mjs:
`python peers.py pgqueuer URL JOBS MS WAY`.
"""

import asyncio
import json
import sys
import time

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode


async def drain(url: str, jobs: int, ms: int, is_tuned: bool) -> None:
    """Enqueue all jobs, then run one worker until all jobs have ended."""
    done = 0
    driver = AsyncpgDriver(await asyncpg.connect(url))
    queries, worker = Queries(driver), PgQueuer(driver)
    await queries.install()

    @worker.entrypoint("noop")
    async def noop(_: object) -> None:
        nonlocal done
        if ms:
            await asyncio.sleep(ms / 1000)
        done += 1

    for _ in range(0, jobs, 1000):
        await queries.enqueue(["noop"] * 1000, [None] * 1000, [0] * 1000)
    print("FILLED", flush=True)
    cpu, started = time.process_time(), time.perf_counter()
    run = worker.run(batch_size=500 if is_tuned else 10, mode=QueueExecutionMode.drain)
    await asyncio.wait([asyncio.ensure_future(run)], timeout=10)
    drain_seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    result = {"drain": drain_seconds, "cpu": cpu_seconds, "done": done}
    print("SEEN" + json.dumps(result), flush=True)
    await asyncio.sleep(0.3)  # the parent reads the session's CPU time before its end


url, jobs, ms, way = sys.argv[2:]
asyncio.run(drain(url, int(jobs), int(ms), way == "tuned"))
