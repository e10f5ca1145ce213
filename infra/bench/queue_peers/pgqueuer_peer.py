# mypy: ignore-errors
"""PgQueuer by its own means: bulk enqueue, then one worker in drain mode. Prints seconds as JSON.

Runs where only PgQueuer is installed: `python pgqueuer_peer.py URL JOBS`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode


async def main(url: str, jobs: int) -> None:
    """Fill, drain, tell."""
    connection = await asyncpg.connect(url)
    driver = AsyncpgDriver(connection)
    queries = Queries(driver)
    await queries.install()
    began = time.perf_counter()
    for _ in range(0, jobs, 1000):
        await queries.enqueue(["noop"] * 1000, [None] * 1000, [0] * 1000)
    filled = time.perf_counter() - began
    worker = PgQueuer(driver)

    @worker.entrypoint("noop")
    async def noop(job: object) -> None:
        return None

    print("FILLED", flush=True)
    cpu = time.process_time()
    began = time.perf_counter()
    await worker.run(batch_size=500, mode=QueueExecutionMode.drain)
    seen = {"fill": filled, "drain": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    print("SEEN" + json.dumps(seen), flush=True)
    await asyncio.sleep(0.3)  # anyone who reads this looks at the session's CPU now
    await connection.close()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
