# mypy: ignore-errors
"""One job per call, from one or many clients at once, by each queue's own means.

Runs where only that queue is installed: `python single_peer.py QUEUE URL CALLS CLIENTS`. Prints
SEEN and the calls a second. Ours runs here too, over the same driver as PgQueuer.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid

ACME = "11111111-1111-4111-8111-111111111111"


async def pgqueuer(url: str, clients: int):
    """An INSERT by its Queries, a connection each."""
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    drivers = [AsyncpgDriver(await asyncpg.connect(url)) for _ in range(clients)]
    await Queries(drivers[0]).install()
    queries = [Queries(driver) for driver in drivers]
    return [lambda q=one: q.enqueue("noop", None) for one in queries]


async def minutehand(url: str, clients: int):
    """`enqueue_job`, a connection each."""
    import asyncpg

    connections = [await asyncpg.connect(url) for _ in range(clients)]
    return [
        lambda c=one: c.fetchval("select public.enqueue_job($1, 'bench', '{}')", uuid.UUID(ACME))
        for one in connections
    ]


async def procrastinate(url: str, clients: int):
    """`defer_async` over its pool."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url, min_size=clients, max_size=clients))

    @app.task(name="noop")
    async def noop(sent: float) -> None:
        return None

    await app.open_async()
    await app.schema_manager.apply_schema_async()
    return [lambda: noop.defer_async(sent=0.0) for _ in range(clients)]


async def dbos(url: str, clients: int):
    """`enqueue` in a thread for each client."""
    from dbos import DBOS

    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})

    @DBOS.workflow()
    def noop(sent: float) -> None:
        return None

    DBOS.listen_queues(["nobody"])
    DBOS.launch()
    queue = await asyncio.to_thread(DBOS.register_queue, "bench")
    return [lambda: asyncio.to_thread(queue.enqueue, noop, 0.0) for _ in range(clients)]


async def main(name: str, url: str, calls: int, clients: int) -> None:
    """Warm up, then make the calls."""
    make = {
        "minutehand": minutehand,
        "pgqueuer": pgqueuer,
        "procrastinate": procrastinate,
        "dbos": dbos,
    }
    actions = await make[name](url, clients)

    async def some(action, count: int) -> None:
        for _ in range(count):
            await action()

    await asyncio.gather(*(some(action, 20) for action in actions))
    began = time.perf_counter()
    await asyncio.gather(*(some(action, calls // clients) for action in actions))
    print(f"SEEN{calls // clients * clients / (time.perf_counter() - began)}", flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
