"""Workers are killed and stopped, the Data API goes away: the books add up.

Run as a module it is such a worker: it notes each begin and end of an attempt in a file, apart from
the queue, and ends by a signal alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from infra.bench.scratch import scratch_settings
from minutehand.config import Settings
from minutehand.worker import Backoff, Job, JobContext, Registry, Retry, Snooze, TickOptions, Worker
from tests.support.killable import environment_of
from tests.support.paths import ROOT
from tests.support.project import Project
from tests.support.renewed import Renewed
from tests.support.weekly import weekly

LEASE_SECONDS = 2
#: Each finds what must not be there.
PROBLEMS = {
    "not completed": "select id from public.jobs where status <> 'completed'",
    "ended other than once": """
        select j.id from public.jobs as j left join public.job_events as e on e.job_id = j.id
          and e.type in ('job.completed', 'job.failed', 'job.cancelled')
        group by j.id having count(e.seq) <> 1""",
    "a gap in the events": """
        select job_id from public.job_events group by job_id
        having count(*) <> max(seq) or min(seq) <> 1""",
    "a result of another job": """
        select id from public.jobs
        where result ->> 'number' is distinct from payload ->> 'number'""",
    "a lease left behind": "select job_id from queue.leases",
}


class Errand(BaseModel):
    """A job of this test."""

    number: int


def registry_of(ledger: int, rng: random.Random) -> Registry:
    """One type whose attempts differ: short, long, failing, snoozing, stepping."""
    registry = Registry()

    async def half() -> str:
        return "done"

    @registry.processor(
        "chaos",
        payload=Errand,
        lease=LEASE_SECONDS,
        max_attempts=50,
        backoff=Backoff(first=1, cap=1),
    )
    async def run(job: Job[Errand], ctx: JobContext) -> Any:
        os.write(ledger, f"begin {job.id} {job.fence}\n".encode())
        luck = rng.random()
        if luck < 0.05:
            raise RuntimeError("as planned")
        if luck < 0.10:
            return Snooze(after=0.2) if luck < 0.08 else Retry("as planned", after=0)
        if luck < 0.20:
            await ctx.step("half", half)
        ctx.progress(50)
        await asyncio.sleep(3.0 if luck > 0.995 else rng.random() * 0.03)
        os.write(ledger, f"end {job.id} {job.fence}\n".encode())
        return {"fence": job.fence, "number": job.payload.number}

    return registry


async def work(ledger: Path) -> None:
    """Tick without end, now and then two ticks at a time."""
    rng = random.Random()
    notes = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    options = TickOptions(concurrency=20, linger_seconds=0.5, quiet=True)
    settings = Settings.from_env(os.environ)
    worker = Worker(settings, registry=registry_of(notes, rng), options=options)
    while True:
        budget, ticks = rng.choice([3.0, 8.0, 20.0]), 1 + (rng.random() < 0.2)
        await asyncio.gather(
            *(worker.tick(budget_seconds=budget) for _ in range(ticks)), return_exceptions=True
        )
        await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_every_job_ends_exactly_once_whatever_dies(renewed: Renewed, tmp_path: Path) -> None:
    """A result of a stale lease, a job lost or ended twice would be a problem in the books."""
    rng, ledger = random.Random(11), tmp_path / "ledger"
    gateway = renewed.gateway  # this one: stopped, `renewed` would have another
    project = Project(scratch_settings(gateway.url), renewed)
    environment = environment_of(project, PYTHONPATH=f"{ROOT / 'shared'}{os.pathsep}{ROOT}")
    first = Worker(project.settings, registry=registry_of(0, rng))
    await first.register()
    await first.aclose()
    for number in range(weekly(1000, otherwise=200)):
        project.insert("chaos", {"number": number})

    def spawn() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.contract.test_promise_02_chaos", str(ledger)]
        return subprocess.Popen(command, env=environment, cwd=ROOT)

    async def inflict() -> None:
        await asyncio.sleep(rng.uniform(0.1, 0.6))
        index, fault = rng.randrange(2), rng.choice(["kill", "stop", "away"])
        if fault == "kill":
            workers[index].kill()
            workers[index].wait()
            workers[index] = spawn()
        elif fault == "stop":
            workers[index].send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE_SECONDS * rng.uniform(0.5, 2.5))
            workers[index].send_signal(signal.SIGCONT)
        else:
            gateway.stop()
            await asyncio.sleep(rng.random())
            gateway.start()

    workers = [spawn(), spawn()]
    give_up = time.monotonic() + 300
    try:
        with project.database.connect() as connection:
            # workers die here far more often than a job may usually lose them
            connection.execute(
                "update queue.settings set value = '1000' where name = 'lost_attempts_max'"
            )
            left = [(1,)]
            while left != [(0,)]:
                assert time.monotonic() < give_up, left
                await inflict()
                left = connection.execute(
                    "select count(*) - count(finished_at) from public.jobs"
                ).fetchall()
            found = {name: connection.execute(query).fetchall() for name, query in PROBLEMS.items()}
            results = connection.execute("select id::text, result ->> 'fence' from public.jobs")
            settled = {f"end {job} {fence}" for job, fence in results}
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()

    notes = Counter(ledger.read_text().splitlines())
    assert {name: rows for name, rows in found.items() if rows} == {}
    assert max(notes.values()) == 1, "a lease was run twice"
    assert settled <= notes.keys(), "a result of an attempt that never ended"


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1])))
