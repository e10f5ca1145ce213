"""`python -m infra.local.bench [pickup|drain|ticks|all]`: run measurements and print a table."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from infra.local.bench import measure
from infra.local.bench.scratch import Scratch, scratch_project

MEASUREMENTS = ("pickup", "drain", "ticks")


async def run(scratch: Scratch, options: argparse.Namespace) -> list[measure.Row]:
    """The rows of the chosen measurements, in order."""
    chosen = MEASUREMENTS if options.what == "all" else (options.what,)
    rows: list[measure.Row] = []
    if "pickup" in chosen:
        rows += await measure.pick_up(scratch, jobs=options.jobs or 200)
    if "ticks" in chosen:
        rows += await measure.tick_of(scratch, jobs=20, seconds=1.0, concurrency=5)
        rows += await measure.tick_of(scratch, jobs=200, seconds=1.0, concurrency=50)
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
    parser = argparse.ArgumentParser(prog="python -m infra.local.bench", description=__doc__)
    parser.add_argument("what", choices=(*MEASUREMENTS, "all"), nargs="?", default="all")
    parser.add_argument("--jobs", type=int, help="how many; each measurement has its own default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=100)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-bench-") as folder,
        scratch_project(Path(folder)) as scratch,
    ):
        rows = asyncio.run(run(scratch, options))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:>16}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
