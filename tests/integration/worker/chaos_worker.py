"""The worker process of the chaos run; writes every attempt's begin and end into a ledger file.

The ledger is apart from the queue on purpose: it records what really ran, independently of what
was stored.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from minutehand.config import Settings
from minutehand.log import configure_logging
from minutehand.worker import Backoff, Job, JobContext, Registry, Retry, Snooze, TickOptions, Worker

LEASE_SECONDS = 2


class Errand(BaseModel):
    """A job of the chaos run."""

    number: int


class Ledger:
    """An append-only file; one line per begin and end, written with one call each."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, what: str, job: Job[Any]) -> None:
        """Write a line; a process killed after this has left it behind."""
        os.write(self._file, f"{what} {job.id} {job.fence}\n".encode())


def chaos_registry(ledger: Ledger, rng: random.Random) -> Registry:
    """One type whose attempts differ: short, long, failing, snoozing, stepping."""
    registry = Registry()

    @registry.processor(
        "chaos",
        payload=Errand,
        lease=LEASE_SECONDS,
        timeout=60,
        max_attempts=50,
        backoff=Backoff(first=1, cap=1),
    )
    async def run(job: Job[Errand], ctx: JobContext) -> Any:
        ledger.note("begin", job)
        luck = rng.random()
        if luck < 0.05:
            raise RuntimeError("as planned")
        if luck < 0.08:
            return Snooze(after=0.2)
        if luck < 0.10:
            return Retry("as planned", after=0)
        if luck < 0.15:
            await ctx.step("half", _half)
        if job.payload.number % 50 == 7:
            # emitted by a fault with a long payload, or else timed out
            await ctx.wait_for_event(f"long {job.payload.number % 3}", timeout=20)
        ctx.progress(50)
        await asyncio.sleep(3.0 if luck > 0.998 else rng.random() * 0.03)
        ledger.note("end", job)
        return {"fence": job.fence, "number": job.payload.number}

    return registry


async def _half() -> str:
    await asyncio.sleep(0.01)
    return "done"


async def main(argv: list[str]) -> None:
    """Tick without end, two overlapping ticks at a time now and then; ends by signal only."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=20)
    options = parser.parse_args(argv)
    configure_logging("ERROR", stream=sys.stderr)
    rng = random.Random(options.seed)
    worker = Worker(
        Settings.from_env(os.environ),
        registry=chaos_registry(Ledger(options.ledger), rng),
        options=TickOptions(concurrency=options.concurrency, linger_seconds=0.5, quiet=True),
    )
    while True:
        try:
            budget = rng.choice([3.0, 8.0, 20.0])
            ticks = 2 if rng.random() < 0.2 else 1
            await asyncio.gather(*(worker.tick(budget_seconds=budget) for _ in range(ticks)))
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
