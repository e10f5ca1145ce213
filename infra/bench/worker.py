"""The Worker that a user runs beside other queues' workers: jobs a second, CPU of a job by part.

Run as a module it is that worker: `minutehand serve`'s loop with one processor. Over HTTPS by the
local gateway, and directly; as shipped and tuned, ours by 200 slots; jobs of nothing and of 5 ms.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from infra.bench.queues import CACHE, Meter, Peers, fill
from infra.bench.scratch import Scratch, scratch_project
from minutehand.config import Settings
from minutehand.log import configure_logging
from minutehand.queue.direct import DirectApi
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.loop import collect_seldom

PEERS = ("pgqueuer", "procrastinate", "pg-boss", "graphile-worker")
LEFT = "select exists (select from queue.ready) or exists (select from queue.leases)"


def measure(project: Scratch, jobs: int, ms: int, way: str, how: str) -> dict[str, float]:
    """Drain `jobs` by one worker process."""
    environment = {**os.environ, **project.environment, "BENCH_MS": str(ms)}
    environment |= {"MINUTEHAND_APPS": "", "WORKER_CONCURRENCY": "200" if way == "tuned" else ""}
    if how == "HTTPS":
        environment.pop("DATABASE_URL", None)
    command, pipe = [sys.executable, "-m", "infra.bench.worker"], subprocess.PIPE
    with (
        psycopg.connect(project.database_url, autocommit=True) as session,
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()
        fill(session, jobs)
        session.execute("vacuum analyze")
        assert project.gateway.process is not None
        meter, gateway = Meter(project.postgres), project.gateway.process.pid
        before = (meter.read(), _cpu(gateway), _cpu(worker.pid))
        began = time.perf_counter()
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
        while session.execute(LEFT).fetchall() != [(False,)]:
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        after = (meter.read(), _cpu(gateway), _cpu(worker.pid))
        worker.kill()
    parts = zip(("postgres", "gateway", "worker"), before, after, strict=True)
    spent = {name: (end - start) / jobs * 1e6 for name, start, end in parts}
    return {"jobs a second": jobs / seconds, **spent, "all": sum(spent.values())}


def measure_peer(project: Scratch, jobs: int, ms: int, way: str, name: str) -> dict[str, float]:
    """Drain by a peer's own worker, in a database of its own on the same server."""
    with psycopg.connect(project.postgres.url(), autocommit=True) as session:
        session.execute("drop database if exists peer with (force)")
        session.execute("create database peer")
    url = project.postgres.url(database="peer")
    seen = Peers(CACHE).drain(Meter(project.postgres), name, url, jobs, str(ms), way)
    return {"jobs a second": seen.drain, "all": seen.cost}


def _cpu(process: int) -> float:
    return float(sum(psutil.Process(process).cpu_times()[:2]))


async def work() -> None:
    """Be the worker."""
    settings = Settings.from_env(os.environ)
    configure_logging("INFO", stream=io.StringIO())
    seconds = int(os.environ["BENCH_MS"]) / 1000
    registry = Registry()

    @registry.processor("bench", payload=dict)
    async def bench(job: Job[Any], ctx: JobContext) -> None:
        if seconds:
            await asyncio.sleep(seconds)

    options = TickOptions(concurrency=settings.worker_concurrency, ends_blocked=True)
    url = os.environ.get("DATABASE_URL")
    api = DirectApi(url, schema=settings.schema_name) if url else None
    queue = WorkerQueue(settings, api=api)
    worker = Worker(settings, registry=registry, queue=queue, options=options)
    collect_seldom()
    await worker.register()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await worker.run_forever()


def main() -> None:
    """Print the medians of rounds in turns; arguments are jobs a round and rounds."""
    jobs, rounds = (int(each) for each in (*sys.argv[1:], *("10000", "5")[len(sys.argv) - 1 :]))
    logging.disable(logging.INFO)
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, scratch_project(Path(folder)) as project:
        runs = {}
        for way in ("shipped", "tuned"):
            for ms in (0, 5):
                for how in ("HTTPS", "direct"):
                    runs[f"{how}, {way}, {ms} ms"] = partial(measure, project, jobs, ms, way, how)
                for name in PEERS:
                    run = partial(measure_peer, project, jobs, ms, way, name)
                    runs[f"{name}, {way}, {ms} ms"] = run
        for _ in range(rounds):
            for name, run in runs.items():
                seen[name].append(run())
                print(name, json.dumps(seen[name][-1]), flush=True)
    for name, found in seen.items():
        medians = {key: round(statistics.median(one[key] for one in found)) for key in found[0]}
        print(f"{name}: {json.dumps(medians)}")


if __name__ == "__main__":
    asyncio.run(work())
