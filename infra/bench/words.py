"""Words on their way: from `words.write` into a page by Realtime and by SSE; a thousand streams.

The first on the stack that `make run DEMO=0` has started, with a worker of its own; the second in a
scratch project, of which the server's CPU and its WAL are read. As a module with `work` it is the
worker.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from infra.bench.queues import Meter
from infra.bench.scratch import WORKSPACE, scratch_project, user_token
from minutehand.config import Settings
from minutehand.log import configure_logging
from minutehand.node import node_binary
from minutehand.queue.direct import DirectApi
from minutehand.queue.worker_client import WorkerQueue
from minutehand.terminal.connection import read_env_file
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker

ENV, STREAMS = Path(".local/env"), 1000
PAGE = Path(__file__).with_suffix(".mjs")
#: A model's: 25 words a second for twelve seconds.
PAUSE, WORDS = 0.04, 300
#: As the server has counted them: those of jobs that have ended are joined meanwhile.
PIECES = "select n_tup_ins from pg_stat_user_tables where relname = 'pieces'"
KEPT = "select count(*), count(distinct job_id), sum(char_length(text)) from queue.outputs"


async def work() -> None:
    """Be the worker: each word is the time at which it is written, in ms."""
    settings = Settings.from_env(os.environ)
    configure_logging("INFO", stream=io.StringIO())
    registry = Registry()

    @registry.processor("bench.words", payload=dict, lease=60)
    async def say(job: Job[dict[str, Any]], ctx: JobContext) -> None:
        async with ctx.stream("words") as words:
            await asyncio.sleep(job.payload.get("pause", 0))
            for _ in range(WORDS):
                words.write(f"{time.time() * 1000:.1f} ")
                await asyncio.sleep(PAUSE)

    api = DirectApi(os.environ["DATABASE_URL"], schema=settings.schema_name)
    queue, options = WorkerQueue(settings, api=api), TickOptions(concurrency=STREAMS)
    await Worker(settings, registry=registry, queue=queue, options=options).run_forever()


def started(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The worker, beside no app."""
    given = {**os.environ, **environment, "MINUTEHAND_APPS": ""}
    command = [sys.executable, "-m", "infra.bench.words", "work"]
    return subprocess.Popen(command, env=given)


def enqueued(connection: psycopg.Connection[Any], count: int, payload: dict[str, Any]) -> list[str]:
    """Ids of jobs that say words, once the worker has published their type."""
    registered = "select from queue.job_types where job_type = 'bench.words'"
    while connection.execute(registered).fetchone() is None:
        time.sleep(0.1)
    items = json.dumps([{"job_type": "bench.words", "payload": payload}] * count)
    made = connection.execute("select public.enqueue_jobs(%s, %s)", (WORKSPACE, items)).fetchone()
    assert made is not None
    return [one["job"]["id"] for one in made[0]["jobs"]]


def said(name: str, took: list[float]) -> None:
    """Print the percentiles of one way."""
    cuts = statistics.quantiles(took, n=100)
    print(f"{name}: first {took[0]:.0f}, p50 {cuts[49]:.0f}, p95 {cuts[94]:.0f} ms of {len(took)}")


def by_page(place: dict[str, str], token: str, job: str) -> list[float]:
    """By Realtime, into Node."""
    request = {
        "url": place["SUPABASE_URL"],
        "key": place["SUPABASE_PUBLISHABLE_KEY"],
        "token": token,
        "job": job,
        "schema": "public",
    }
    command = [str(node_binary()), str(PAGE), json.dumps(request)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return list(json.loads(lines[-1]))


def by_sse(place: dict[str, str], token: str, job: str) -> list[float]:
    """By the stream of a job's events."""
    headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
    path = f"{place['API_URL']}/api/jobs/{job}/events"
    took: list[float] = []
    with httpx.stream("GET", path, headers=headers, timeout=60, verify=False) as source:
        for line in source.iter_lines():
            if line.startswith("data: ") and '"words"' in line:
                now, page = time.time() * 1000, json.loads(line[6:])["data"]
                took += [now - float(each) for each in page.get("text", "").split()]
            if line.startswith("event: end"):
                break
    return took


def latency() -> None:
    """One job after another, each read in one way."""
    place = read_env_file(ENV)
    token = user_token(secret=place["SUPABASE_JWT_SECRET"])
    with (
        psycopg.connect(place["DATABASE_URL"], autocommit=True) as connection,
        started(place) as worker,
    ):
        try:
            for name, read in (("Realtime", by_page), ("SSE", by_sse)) * 3:
                [job] = enqueued(connection, 1, {"pause": 4})
                said(name, read(place, token, job))
        finally:
            worker.kill()


def crowd() -> None:
    """A thousand jobs that speak at once, of one worker."""
    with (
        tempfile.TemporaryDirectory() as folder,
        scratch_project(Path(folder)) as project,
        project.connect() as connection,
        started(dict(project.environment)) as worker,
    ):
        try:
            enqueued(connection, 1, {})
            time.sleep(15)
            meter, process = Meter(project.postgres), psutil.Process(worker.pid)
            [[known]] = connection.execute(PIECES).fetchall()
            [[lsn]] = connection.execute("select pg_current_wal_insert_lsn()").fetchall()
            before, own, began = meter.read(), sum(process.cpu_times()[:2]), time.perf_counter()
            enqueued(connection, STREAMS, {})
            left = "select exists (select from public.jobs where finished_at is null)"
            while connection.execute(left).fetchall() != [(False,)]:
                time.sleep(0.2)
            seconds = time.perf_counter() - began
            spent, worked = meter.read() - before, sum(process.cpu_times()[:2]) - own
            [[wal]] = connection.execute(
                "select pg_current_wal_insert_lsn() - %s::pg_lsn", (lsn,)
            ).fetchall()
            time.sleep(2)  # until the server's processes have reported their counts
            [[all_pieces]] = connection.execute(PIECES).fetchall()
            pieces = all_pieces - known
            connection.execute("select queue.do_output('infinity')")
            [[rows, jobs, characters]] = connection.execute(KEPT).fetchall()
        finally:
            worker.kill()
    own_cost, cost = worked / pieces * 1e6, spent / pieces * 1e6
    print(
        f"{STREAMS} streams, {STREAMS * WORDS} words in {seconds:.0f} s: {pieces} pieces; a piece "
        f"{cost:.0f} µs CPU of Postgres, {own_cost:.0f} of the worker, "
        f"{int(wal) / pieces:.0f} bytes of WAL; then {rows} rows of {jobs} jobs, "
        f"{characters} characters"
    )


def main() -> None:
    """Measure both, or what is named: latency, crowd."""
    for each in (latency, crowd):
        if each.__name__ in (sys.argv[1:] or ("latency", "crowd")):
            each()


if __name__ == "__main__":
    asyncio.run(work())
