# mypy: ignore-errors
"""PgQueuer and Procrastinate by their own means, and single calls of ours over the same driver.

Runs where only they are installed, as peers.mjs does: `python peers.py drain QUEUE URL JOBS MS WAY`
and `python peers.py single QUEUE URL CALLS CLIENTS`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid

import asyncpg
import procrastinate
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

WORKSPACE = uuid.UUID("11111111-1111-4111-8111-111111111111")


async def pgqueuer_worker(url: str, job, is_tuned: bool):
    """What enqueues a thousand, and its worker, which ends when nothing is left."""
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
    """The same of Procrastinate."""
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
    """Bulk enqueue, then one worker."""
    done = 0

    async def job() -> None:
        nonlocal done
        if ms:
            await asyncio.sleep(ms / 1000)
        done += 1

    workers = {"pgqueuer": pgqueuer_worker, "procrastinate": procrastinate_worker}
    fill, run = await workers[name](url, job, is_tuned)
    began = time.perf_counter()
    for _ in range(0, jobs, 1000):
        await fill()
    filled = time.perf_counter() - began
    print("FILLED", flush=True)
    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.wait([asyncio.ensure_future(run())], timeout=10)
    seen = {"fill": filled, "drain": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    print("SEEN" + json.dumps({**seen, "done": done}), flush=True)
    await asyncio.sleep(0.3)  # anyone who reads this looks at the session's CPU now


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


what, name, url, *rest = sys.argv[1:]
if what == "drain":
    asyncio.run(drain(name, url, int(rest[0]), int(rest[1]), rest[2] == "tuned"))
else:
    asyncio.run(single(name, url, *map(int, rest)))
