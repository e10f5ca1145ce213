"""`python -m infra.bench [pickup|ticks|idle|drain|compare|all]`: measure and print tables."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from infra.bench import compare, measure
from infra.bench.scratch import Scratch, scratch_project

MEASUREMENTS = ("pickup", "ticks", "idle", "drain")


async def run(scratch: Scratch, options: argparse.Namespace) -> list[measure.Row]:
    """The rows of the chosen measurements, in order."""
    chosen = MEASUREMENTS if options.what == "all" else (options.what,)
    rows: list[measure.Row] = []
    if "pickup" in chosen:
        rows += await measure.pick_up(scratch, jobs=options.jobs or 200)
    if "ticks" in chosen:
        rows += await measure.tick_of(scratch, jobs=20, seconds=1.0, concurrency=5)
        rows += await measure.tick_of(scratch, jobs=200, seconds=1.0, concurrency=50)
    if "idle" in chosen:
        rows += await measure.idle(scratch, ticks=options.jobs or 2_000)
    if "drain" in chosen:
        rows += await measure.drain(
            scratch,
            jobs=options.jobs or 10_000,
            workers=options.workers,
            concurrency=options.concurrency,
        )
    return rows


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench", description=__doc__)
    choices = (*MEASUREMENTS, "compare", "all")
    parser.add_argument("what", choices=choices, nargs="?", default="all")
    parser.add_argument("--jobs", type=int, help="how many; each measurement has its own default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=300)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-bench-") as folder,
        scratch_project(Path(folder)) as scratch,
    ):
        if options.what != "compare":
            print_rows(asyncio.run(run(scratch, options)))
        if options.what in {"compare", "all"}:
            others = argparse.Namespace(
                jobs=options.jobs or 5_000,
                pickups=60,
                rounds=3,
                concurrency=options.concurrency,
                others=list(compare.PEERS),
            )
            for line in compare.table(scratch, others):
                print(line, flush=True)
    return 0


def print_rows(rows: list[measure.Row]) -> None:
    """Two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:>16}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
