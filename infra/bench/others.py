# mypy: disable-error-code="import-not-found,untyped-decorator"
# (the other queues are installed only where this file is run)
"""The same measurements for other queues, each run alone in an environment of its own.

Imports nothing of this project, because it runs where only the other queue is installed:
`python others.py dbos|procrastinate|absurd fill|drain|pickup --url … --jobs …`. Absurd's schema is
in no package; it is read from the file that ABSURD_SQL names, and skipped without it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

#: What is installed for each, and how to count what it has finished.
REQUIREMENTS = {
    "dbos": "dbos==3.4.0",
    "procrastinate": "procrastinate==3.10.0",
    "absurd": "absurd-sdk==0.5.1",
}
COUNT = {
    "dbos": "select count(*) from dbos.workflow_status where status = 'SUCCESS'",
    "procrastinate": "select count(*) from procrastinate_jobs where status = 'succeeded'",
    "absurd": "select count(*) from absurd.t_bench where state = 'completed'",
}


def spread(rng: random.Random) -> float:
    """Pauses between enqueues that fall into step with no poll."""
    return 0.05 + rng.random() * 0.05


def dbos(options: argparse.Namespace) -> dict[str, Any]:
    """DBOS with a poll of 50 ms, as fast as its documentation suggests to go."""
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench",
            "system_database_url": options.url,
            "log_level": "ERROR",
        }
    )
    waits: list[float] = []

    @DBOS.workflow()
    def noop(sent: float) -> None:
        waits.append(time.time() - sent)

    if options.what == "fill":
        # listens to another queue, so that nothing is run yet
        DBOS.listen_queues(["nobody"])
    DBOS.launch()
    queue = DBOS.register_queue("bench", polling_interval_sec=0.05)
    if options.what == "fill":
        for _ in range(options.jobs):
            queue.enqueue(noop, 0.0)
    elif options.what == "drain":
        print("ready", flush=True)
        time.sleep(3600)  # until the caller has seen enough and ends this process
    else:
        rng = random.Random(0)
        for _ in range(options.jobs):
            queue.enqueue(noop, time.time())
            time.sleep(spread(rng))
        time.sleep(2)
    DBOS.destroy()
    return {"waits": waits if options.what == "pickup" else []}


async def procrastinate(options: argparse.Namespace) -> dict[str, Any]:
    """Procrastinate, woken by LISTEN on a direct connection."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=options.url))
    waits: list[float] = []

    @app.task(name="noop")
    async def noop(sent: float) -> None:
        waits.append(time.time() - sent)

    async with app.open_async():
        if options.what == "fill":
            await app.schema_manager.apply_schema_async()
            for _ in range(0, options.jobs, 1000):
                await noop.batch_defer_async(*[{"sent": 0.0}] * 1000)
        elif options.what == "drain":
            print("ready", flush=True)
            await app.run_worker_async(
                concurrency=options.concurrency, wait=False, install_signal_handlers=False
            )
        else:
            worker = asyncio.create_task(
                app.run_worker_async(concurrency=5, install_signal_handlers=False)
            )
            rng = random.Random(0)
            await asyncio.sleep(1)
            for _ in range(options.jobs):
                await noop.defer_async(sent=time.time())
                await asyncio.sleep(spread(rng))
            await asyncio.sleep(1)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
    return {"waits": waits if options.what == "pickup" else []}


def absurd(options: argparse.Namespace) -> dict[str, Any]:
    """Absurd with a poll of 50 ms, the same as dbos here."""
    import psycopg
    from absurd_sdk import Absurd

    if options.what == "fill":
        with psycopg.connect(options.url, autocommit=True) as connection:
            connection.execute(Path(os.environ["ABSURD_SQL"]).read_text())
    app = Absurd(options.url, queue_name="bench")
    waits: list[float] = []

    @app.register_task(name="noop")
    def noop(params: Any, context: Any) -> None:
        waits.append(time.time() - params["sent"])

    if options.what == "fill":
        app.create_queue("bench")
        for _ in range(options.jobs):
            app.spawn("noop", {"sent": 0.0})
    elif options.what == "drain":
        app.start_worker(concurrency=options.concurrency, poll_interval=0.05)
    else:
        worker = threading.Thread(
            target=lambda: app.start_worker(concurrency=5, poll_interval=0.05), daemon=True
        )
        worker.start()
        client = Absurd(options.url, queue_name="bench")
        client.register_task(name="noop")(noop)
        rng = random.Random(0)
        for _ in range(options.jobs):
            client.spawn("noop", {"sent": time.time()})
            time.sleep(spread(rng))
        time.sleep(1)
        app.stop_worker()
        worker.join(5)
    return {"waits": waits if options.what == "pickup" else []}


def main() -> int:
    """Run one measurement of one queue and print what it saw as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queue", choices=tuple(REQUIREMENTS))
    parser.add_argument("what", choices=("fill", "drain", "pickup"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=100)
    options = parser.parse_args()
    if options.queue == "procrastinate":
        seen = asyncio.run(procrastinate(options))
    else:
        seen = {"dbos": dbos, "absurd": absurd}[options.queue](options)
    print("SEEN" + json.dumps(seen), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
