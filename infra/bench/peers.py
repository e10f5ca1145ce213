# mypy: ignore-errors
"""PgQueuer by its own means, and single calls of ours over the same driver.

Runs where only PgQueuer is installed: `python peers.py drain QUEUE URL JOBS` prints FILLED, then
seconds as JSON after SEEN; `python peers.py single QUEUE URL CALLS CLIENTS`, calls a second.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

WORKSPACE = uuid.UUID("11111111-1111-4111-8111-111111111111")


async def drain(url: str, jobs: int) -> None:
    """Bulk enqueue, then one worker in drain mode."""
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


async def pgqueuer(url: str, clients: int):
    """An insert by its Queries, a connection each."""
    drivers = [AsyncpgDriver(await asyncpg.connect(url)) for _ in range(clients)]
    await Queries(drivers[0]).install()
    queries = [Queries(driver) for driver in drivers]
    return [lambda q=one: q.enqueue("noop", None) for one in queries]


async def minutehand(url: str, clients: int):
    """`enqueue_job`, a connection each."""
    statement = "select public.enqueue_job($1, 'bench', '{}')"
    connections = [await asyncpg.connect(url) for _ in range(clients)]
    return [lambda c=one: c.fetchval(statement, WORKSPACE) for one in connections]


async def single(name: str, url: str, calls: int, clients: int) -> None:
    """Warm up, then make the calls."""
    actions = await {"minutehand": minutehand, "pgqueuer": pgqueuer}[name](url, clients)

    async def some(action, count: int) -> None:
        for _ in range(count):
            await action()

    await asyncio.gather(*(some(action, 20) for action in actions))
    began = time.perf_counter()
    await asyncio.gather(*(some(action, calls // clients) for action in actions))
    print(f"SEEN{calls // clients * clients / (time.perf_counter() - began)}", flush=True)


what, name, url, *numbers = sys.argv[1:]
counts = [int(number) for number in numbers]
asyncio.run(drain(url, *counts) if what == "drain" else single(name, url, *counts))
