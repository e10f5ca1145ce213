"""Ours beside other queues on the same Postgres in one run; ratios count, not numbers.

`python -m infra.bench.compare` fetches the others into throw-away environments with uv.
ABSURD_SQL names a file with Absurd's schema; it is skipped without one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.bench.measure import drain_processes, fill, percentile, pick_up_waits, rate
from infra.bench.others import COUNT, REQUIREMENTS
from infra.bench.queues import Peers
from infra.bench.scratch import Scratch, scratch_project
from minutehand.local.processes import spawn, stop
from minutehand.node import node_binary

OTHERS = Path(__file__).with_name("others.py")
NODE_PICK_UPS = Path(__file__).with_name("node_pickups.mjs")
#: Everything that is measured by default; of the last two the pick-up only.
NODE_PEERS = ("graphile-worker", "pg-boss")
PEERS = (*REQUIREMENTS, *NODE_PEERS)
OURS_DONE = "select count(*) from public.jobs where finished_at is not null"


@dataclass(slots=True)
class Line:
    """One queue's figures, gathered round by round."""

    name: str
    drains: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def drain_per_second(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.drains)

    def pick_up_ms(self, share: float) -> float:
        """Milliseconds that `share` of all pick-ups did not exceed."""
        return percentile(self.waits, share) * 1000


def measure_ours(line: Line, scratch: Scratch, options: argparse.Namespace) -> None:
    """Minutehand, the whole way over HTTP."""
    line.waits += asyncio.run(pick_up_waits(scratch, jobs=options.pickups)).waits
    with scratch.connect() as connection:
        connection.execute("delete from public.jobs")
    asyncio.run(fill(scratch, "bench_noop", options.jobs))
    with drain_processes(scratch, workers=2, concurrency=options.concurrency):
        line.drains.append(rate(scratch.database_url, OURS_DONE, options.jobs))


def measure_other(line: Line, scratch: Scratch, options: argparse.Namespace) -> None:
    """Another queue, on a direct connection, in a fresh database of its own."""
    name = line.name
    database = f"other_{name}_{len(line.drains)}_{len(line.waits)}"
    with scratch.connect() as connection:
        connection.execute(f'create database "{database}"'.encode())
    url = scratch.postgres.url(database=database)
    if name in NODE_PEERS:
        line.waits += _run_node(name, url, options.pickups)
        return
    _run(name, "fill", url, options.jobs)
    with _drainers(name, url, options):
        line.drains.append(rate(url, COUNT[name], options.jobs))
    line.waits += _run(name, "pickup", url, options.pickups)


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
    return _seen(f"{name} {what}", done)


def _seen(what: str, done: subprocess.CompletedProcess[str]) -> list[float]:
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN")]
    if not lines:
        raise RuntimeError(f"{what} failed: {done.stderr[-2000:]}")
    waits: list[float] = json.loads(lines[-1].removeprefix("SEEN"))["waits"]
    return waits


def _run_node(name: str, url: str, jobs: int) -> list[float]:
    home = Peers(Path(tempfile.gettempdir()) / "minutehand-bench-peers").node()
    done = subprocess.run(
        [str(node_binary()), str(NODE_PICK_UPS), name, url, str(jobs)],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
    )
    return _seen(f"{name} pickup", done)


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
    """Measure in turns, so that a busy moment of the machine does not hit one queue alone.

    A queue that cannot be fetched is skipped and named.
    """
    base = Line("minutehand, over HTTP")
    others = [Line(name) for name in options.others]
    missing: dict[str, str] = {}
    if "absurd" in options.others and not os.environ.get("ABSURD_SQL"):
        missing["absurd"] = "ABSURD_SQL names no file with its schema"
    for _ in range(options.rounds):
        measure_ours(base, scratch, options)
        for line in others:
            if line.name in missing:
                continue
            try:
                measure_other(line, scratch, options)
            except RuntimeError as error:
                missing[line.name] = str(error).splitlines()[-1][:80]
    yield f"{'':<24}{'drain/s':>9}{'ratio':>7}{'p50 ms':>8}{'p95 ms':>8}{'ratio':>7}"
    for line in (base, *others):
        if line.name in missing:
            yield f"{line.name:<24} not measured: {missing[line.name]}"
        else:
            yield _row(line, base)


def _row(line: Line, base: Line) -> str:
    drain = f"{'-':>9}{'-':>7}"
    if line.drains:
        drain = (
            f"{line.drain_per_second:>9,.0f}{base.drain_per_second / line.drain_per_second:>7.2f}"
        )
    return (
        f"{line.name:<24}{drain}"
        f"{line.pick_up_ms(0.5):>8.1f}{line.pick_up_ms(0.95):>8.1f}"
        f"{base.pick_up_ms(0.5) / line.pick_up_ms(0.5):>7.2f}"
    )


def main() -> int:
    """Print the table, line by line as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5_000)
    parser.add_argument("--pickups", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=300)
    parser.add_argument("--with", dest="others", nargs="*", default=list(PEERS))
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
