"""The chaos run: everything that can die is killed while jobs run; then the books are checked.

`python -m tests.integration.worker.chaos --jobs 10000` fails if the ledger does not add up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from infra.bench.scratch import WORKSPACE, Scratch, scratch_project, user_token
from minutehand.local.ports import reserve_port
from minutehand.local.processes import spawn, stop
from minutehand.queue import NewJob, QueueClient
from minutehand.worker import Worker
from tests.integration.worker.chaos_worker import LEASE_SECONDS, Ledger, chaos_registry
from tests.sql import faults as sql_faults
from tests.support.faulty_proxy import FaultyProxy, Odds
from tests.support.paths import ROOT

ODDS = Odds(
    lose_request=0.01,
    lose_answer=0.03,
    cut_answer=0.01,
    double=0.03,
    late=0.02,
    delay=0.03,
    delay_seconds=2.5,
)
FAULTS = (
    "kill worker",
    "stop worker",
    "restart data api",
    "restart postgres",
    *sql_faults.FAULTS,
)

#: Far above the longest wait of a job here: an event's 20 s.
STALLED_SECONDS = 150


class StalledError(Exception):
    """Jobs are left and nothing happens; the message says what was seen."""


@dataclass
class Books:
    """What the run left behind, and what of it does not add up."""

    jobs: int
    faults: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    begun: int = 0
    ended: int = 0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The ledger as text."""
        rows: list[tuple[str, object]] = [("jobs", self.jobs)]
        rows += [(f"fault: {name}", count) for name, count in sorted(self.faults.items())]
        rows += [(f"call: {name}", count) for name, count in sorted(self.calls.items())]
        rows += [(f"attempt: {name}", count) for name, count in sorted(self.attempts.items())]
        rows += [("processors begun", self.begun), ("processors ended", self.ended)]
        rows += [("problems", len(self.problems))]
        lines = [f"{name:<28}{count:>8}" for name, count in rows]
        return lines + [f"  {problem}" for problem in self.problems[:20]]


@dataclass
class Chaos:
    """One run."""

    scratch: Scratch
    folder: Path
    jobs: int
    workers: int
    rng: random.Random
    faults: Sequence[str] = FAULTS
    odds: Odds = ODDS
    pause: tuple[float, float] = (0.5, 2.0)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    books: Books = field(default_factory=lambda: Books(0))

    @property
    def ledger(self) -> Path:
        """Where workers note what they do."""
        return self.folder / "ledger.txt"

    async def run(self) -> Books:
        """Enqueue, unleash, wait until every job has ended, check the books."""
        self.books.jobs = self.jobs
        await self._fill()
        proxy = FaultyProxy(reserve_port(), self.scratch.gateway.port, self.rng, self.odds)
        await proxy.start()
        environment = {
            **self.scratch.environment,
            "SUPABASE_URL": f"http://127.0.0.1:{proxy.port}",
            "PYTHONPATH": f"{ROOT / 'shared'}{os.pathsep}{ROOT}",
        }
        self.processes = [self._spawn(environment) for _ in range(self.workers)]
        try:
            for _ in self._while_more_than(self.jobs // 10):
                await self._inflict_one(environment)
            proxy.odds = Odds()
            with self.scratch.connect() as connection:
                sql_faults.stop_schedules(connection)
            for _ in self._while_more_than(0):
                await asyncio.sleep(0.3)
        finally:
            for process in self.processes:
                process.send_signal(signal.SIGCONT)
                stop(process, by=signal.SIGKILL)
            await proxy.stop()
        self.books.calls = proxy.counts
        self._check()
        return self.books

    async def _fill(self) -> None:
        registry = chaos_registry(Ledger(self.ledger), self.rng)
        worker = Worker(self.scratch.settings, registry=registry)
        await worker.register()
        await worker.aclose()
        with self.scratch.connect() as connection:
            # workers die here far more often than a job may usually lose them
            connection.execute(
                "update queue.settings set value = '1000' where name = 'lost_attempts_max'"
            )
        client = QueueClient(self.scratch.settings)
        queue = client.acting_as(user_token())
        for start in range(0, self.jobs, 1000):
            numbers = range(start, min(start + 1000, self.jobs))
            await queue.enqueue_many(
                WORKSPACE, [NewJob(job_type="chaos", payload={"number": n}) for n in numbers]
            )
        await client.aclose()

    def _spawn(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / "workers.log").open("ab") as log:
            return spawn(
                [
                    sys.executable,
                    "-m",
                    "tests.integration.worker.chaos_worker",
                    "--ledger",
                    self.ledger,
                    "--seed",
                    str(self.rng.randrange(2**31)),
                ],
                env=environment,
                cwd=ROOT,
                output=log.fileno(),
            )

    async def _inflict_one(self, environment: dict[str, str]) -> None:
        """Wait a little, then one fault from its begin to its end."""
        await asyncio.sleep(self.rng.uniform(*self.pause))
        fault = self.rng.choice(self.faults)
        self.books.faults[fault] += 1
        await self._inflict(fault, self.rng.randrange(len(self.processes)), environment)

    async def _inflict(self, fault: str, index: int, environment: dict[str, str]) -> None:
        if fault == "kill worker":
            stop(self.processes[index], by=signal.SIGKILL)
            self.processes[index] = self._spawn(environment)
        elif fault == "stop worker":
            process = self.processes[index]
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE_SECONDS * self.rng.uniform(0.5, 2.5))
            process.send_signal(signal.SIGCONT)
        elif fault in sql_faults.FAULTS:
            await asyncio.to_thread(self._inflict_on_sql, fault)
        elif fault == "restart data api":
            self.scratch.gateway.stop()
            await asyncio.sleep(self.rng.random())
            self.scratch.gateway.start()
        else:
            postgres = self.scratch.postgres
            if postgres.process is not None:
                stop(postgres.process, by=signal.SIGKILL)
            postgres.start()

    def _inflict_on_sql(self, fault: str) -> None:
        try:
            with self.scratch.connect() as connection:
                sql_faults.FAULTS[fault](connection, self.rng)
        except psycopg.Error:
            self.books.faults[f"{fault} (cut short)"] += 1

    def _while_more_than(self, most: int) -> Iterator[None]:
        """Yield as long as more than `most` jobs are left.

        Raises:
            StalledError: None ended for `STALLED_SECONDS`.
        """
        most_ended, since = -1, time.monotonic()
        while True:
            left, ended = self._count()
            if left <= most:
                return
            if ended > most_ended:
                most_ended, since = ended, time.monotonic()
            elif time.monotonic() - since > STALLED_SECONDS:
                raise StalledError(self._describe(left))
            yield

    def _count(self) -> tuple[int, int]:
        """Jobs that are left, and that have ended."""
        with self.scratch.connect() as connection:
            [(left, ended)] = connection.execute(
                "select count(*) - count(finished_at), count(finished_at) from public.jobs"
            ).fetchall()
        return int(str(left)), int(str(ended))

    def _describe(self, left: int) -> str:
        with self.scratch.connect() as connection:
            jobs = connection.execute(
                "select to_jsonb(j) from public.jobs as j where finished_at is null limit 5"
            ).fetchall()
        return "\n".join(
            [
                f"{left} jobs left and none ended in {STALLED_SECONDS} s:",
                *(str(job) for (job,) in jobs),
                f"exit codes of the workers: {[process.poll() for process in self.processes]}",
                *(self.folder / "workers.log").read_text().splitlines()[-20:],
            ]
        )

    # The books --------------------------------------------------------------------------------

    def _check(self) -> None:
        with self.scratch.connect() as connection:
            for name, query in _MUST_BE_EMPTY.items():
                found = connection.execute(query.encode()).fetchall()
                if found:
                    self.books.problems.append(f"{name}: {len(found)}, e.g. {found[0]}")
            # schedules and crowds have added some
            [(jobs,)] = connection.execute("select count(*) from public.jobs").fetchall()
            self.books.jobs = int(str(jobs))
            for outcome, count in connection.execute(
                f"select outcome, count(*) from {_ATTEMPTS} as a group by 1".encode()
            ).fetchall():
                self.books.attempts[str(outcome)] = int(str(count))
            settled = {
                (str(job), int(str(fence)))
                for job, fence in connection.execute(
                    f"select job_id, fence from {_ATTEMPTS} as a"
                    " where outcome = 'completed'".encode()
                ).fetchall()
            }
        begun: Counter[tuple[str, int]] = Counter()
        ended: Counter[tuple[str, int]] = Counter()
        for line in self.ledger.read_text().splitlines():
            what, job, fence = line.split()
            (begun if what == "begin" else ended)[job, int(fence)] += 1
        self.books.begun, self.books.ended = sum(begun.values()), sum(ended.values())
        twice = [key for key, count in begun.items() if count > 1]
        if twice:
            self.books.problems.append(f"a lease was run twice: {len(twice)}, e.g. {twice[0]}")
        never = settled - ended.keys()
        if never:
            self.books.problems.append(f"settled but never ended: {len(never)}")


_ATTEMPTS = """(select j.id as job_id, a.fence, a.outcome from public.jobs as j
  cross join queue.attempt_lines(j, 1000) as a where a.outcome is not null)"""
#: Each finds rows that must not be there.
_MUST_BE_EMPTY = {
    "not completed": """
        select id, status, error_message from public.jobs where status <> 'completed'""",
    "ended other than once": """
        select j.id, count(e.seq) from public.jobs as j
        left join public.job_events as e on e.job_id = j.id
          and e.type in ('job.completed', 'job.failed', 'job.cancelled')
        group by j.id having count(e.seq) <> 1""",
    "gap in the events": """
        select job_id from public.job_events
        group by job_id having count(*) <> max(seq) or min(seq) <> 1""",
    "result of a stale fence": f"""
        select j.id, j.result, a.fence from public.jobs as j
        left join {_ATTEMPTS} as a on a.job_id = j.id and a.outcome = 'completed'
        where (j.result ->> 'fence')::bigint is distinct from a.fence or a.fence <> j.fence""",
    "completed more than once": f"""
        select job_id from {_ATTEMPTS} as a where outcome = 'completed'
        group by job_id having count(*) <> 1""",
    "a lease without its end": f"""
        select j.id, j.fence, count(a.fence) from public.jobs as j
        left join {_ATTEMPTS} as a on a.job_id = j.id
        group by j.id, j.fence having count(a.fence) <> j.fence""",
    "attempts do not add up": f"""
        select j.id, j.attempts from public.jobs as j
        left join {_ATTEMPTS} as a on a.job_id = j.id
          and a.outcome not in ('snoozed', 'released', 'waiting')
        group by j.id, j.attempts having count(a.fence) <> j.attempts""",
    "a lease left behind": "select job_id from queue.leases",
    "membership left behind": """
        select job_id from queue.ready union all select job_id from queue.deferred
        union all select job_id from queue.waits""",
    # five seconds touch six of the budget's, which stay below five of the plan's
    "more Realtime messages in five seconds than the plan has": """
        select * from (
          select inserted_at, count(*) over (order by inserted_at
            range between interval '5 seconds' preceding and current row) as messages
          from realtime.messages) as windows
        where messages > 6 * queue.message_budget()""",
    "result of another job": """
        select id from public.jobs
        where result ->> 'number' is distinct from payload ->> 'number'""",
}


def run_chaos(
    scratch: Scratch, folder: Path, *, jobs: int, workers: int = 3, seed: int = 0
) -> Books:
    """One run over a scratch project; the books are checked when it returns."""
    chaos = Chaos(scratch, folder, jobs, workers, random.Random(seed), books=Books(jobs))
    return asyncio.run(chaos.run())


def main() -> int:
    """Run it and print the ledger; 1 when the books do not add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-chaos-") as name,
        scratch_project(Path(name)) as scratch,
    ):
        books = run_chaos(
            scratch, Path(name), jobs=options.jobs, workers=options.workers, seed=options.seed
        )
    print("\n".join(books.lines()))
    return 1 if books.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
