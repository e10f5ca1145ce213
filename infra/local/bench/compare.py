"""Ours beside other queues on the same Postgres in one run; ratios count, not numbers.

`python -m infra.local.bench.compare` fetches the others into throw-away environments with uv.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from infra.local.bench.measure import drain_processes, fill, percentile, pick_up_waits
from infra.local.bench.others import COUNT, REQUIREMENTS
from infra.local.bench.scratch import Scratch, scratch_project
from infra.local.processes import spawn, stop

OTHERS = Path(__file__).with_name("others.py")
OURS_DONE = "select count(*) from public.jobs where completed_at is not null"


@dataclass(frozen=True, slots=True)
class Line:
    """One queue's figures."""

    name: str
    drain_per_second: float
    pick_up_p50_ms: float
    pick_up_p95_ms: float


def rate(url: str, count: str, jobs: int, *, seconds: float = 300.0) -> float:
    """Jobs a second between the first hundredth and the last job, seen from the database."""
    began = None
    give_up = time.monotonic() + seconds
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < give_up:
            row = connection.execute(count.encode()).fetchone()
            done = int(row[0]) if row else 0
            if began is None and done >= jobs // 100:
                began, at = time.monotonic(), done
            if began is not None and done >= jobs:
                return (done - at) / max(0.001, time.monotonic() - began)
            time.sleep(0.02)
    raise TimeoutError(f"{jobs} jobs were not done after {seconds} s")


def ours(scratch: Scratch, options: argparse.Namespace) -> Line:
    """Minutehand, the whole way over HTTP."""
    waits = asyncio.run(pick_up_waits(scratch, jobs=options.pickups)).waits
    with scratch.connect() as connection:
        connection.execute("delete from public.jobs")
    asyncio.run(fill(scratch, "bench_noop", options.jobs))
    with drain_processes(scratch, workers=2, concurrency=options.concurrency):
        per_second = rate(scratch.database_url, OURS_DONE, options.jobs)
    return _line("minutehand, over HTTP", per_second, waits)


def other(name: str, scratch: Scratch, options: argparse.Namespace) -> Line:
    """Another queue, on a direct connection, in a database of its own."""
    with scratch.connect() as connection:
        connection.execute(f"create database other_{name}".encode())
    url = scratch.postgres.url(database=f"other_{name}")
    _run(name, "fill", url, options.jobs)
    with _drainers(name, url, options):
        per_second = rate(url, COUNT[name], options.jobs)
    waits = _run(name, "pickup", url, options.pickups)
    return _line(name, per_second, waits)


def _line(name: str, per_second: float, waits: list[float]) -> Line:
    return Line(name, per_second, percentile(waits, 0.5) * 1000, percentile(waits, 0.95) * 1000)


def _command(name: str, what: str, url: str, jobs: int, concurrency: int = 100) -> list[str]:
    uv = Path(sys.executable).with_name("uv")
    return [
        str(uv if uv.exists() else "uv"),
        *("run", "--quiet", "--no-project", "--isolated", "--python", sys.executable),
        *("--with", REQUIREMENTS[name], "--with", "psycopg[binary]"),
        *("python", str(OTHERS), name, what, "--url", url, "--jobs", str(jobs)),
        *("--concurrency", str(concurrency)),
    ]


def _run(name: str, what: str, url: str, jobs: int) -> list[float]:
    done = subprocess.run(
        _command(name, what, url, jobs), capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN")]
    if not lines:
        raise RuntimeError(f"{name} {what} failed: {done.stderr[-2000:]}")
    waits: list[float] = json.loads(lines[-1].removeprefix("SEEN"))["waits"]
    return waits


@contextmanager
def _drainers(name: str, url: str, options: argparse.Namespace) -> Iterator[None]:
    command = _command(name, "drain", url, options.jobs, options.concurrency)
    processes = [spawn(command, env=os.environ, output=subprocess.DEVNULL) for _ in range(2)]
    try:
        yield
    finally:
        for process in processes:
            stop(process)


def table(scratch: Scratch, options: argparse.Namespace) -> Iterator[str]:
    """Measure everything in turn; a queue that cannot be fetched is left out and named."""
    base = ours(scratch, options)
    yield f"{'':<24}{'drain/s':>9}{'ratio':>7}{'p50 ms':>8}{'p95 ms':>8}{'ratio':>7}"
    yield _row(base, base)
    for name in options.others:
        try:
            yield _row(other(name, scratch, options), base)
        except RuntimeError as error:
            yield f"{name:<24} not measured: {str(error).splitlines()[-1][:80]}"


def _row(line: Line, base: Line) -> str:
    return (
        f"{line.name:<24}{line.drain_per_second:>9,.0f}"
        f"{base.drain_per_second / line.drain_per_second:>7.2f}"
        f"{line.pick_up_p50_ms:>8.1f}{line.pick_up_p95_ms:>8.1f}"
        f"{base.pick_up_p50_ms / line.pick_up_p50_ms:>7.2f}"
    )


def main() -> int:
    """Print the table, line by line as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--pickups", type=int, default=150)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--with", dest="others", nargs="*", default=list(REQUIREMENTS))
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-compare-") as folder,
        scratch_project(Path(folder)) as scratch,
    ):
        for line in table(scratch, options):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
