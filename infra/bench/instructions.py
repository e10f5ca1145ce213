"""What a call of the engine costs by instructions, which no other work on the machine blurs.

`python -m infra.bench.instructions` runs Postgres as a single process under valgrind (which must be
installed), a short and a long run of each case; their difference, without the start, is the table.
WAL and transaction ids are of the same runs.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg

from infra.bench.scratch import prepared
from minutehand.local.postgres import Postgres
from minutehand.local.users import ACME

STEP = """
create function public.bench_step(p_limit integer) returns bigint language plpgsql as $$
declare
  v_call integer := (select coalesce(max(last_call), 0) + 1 from queue.ticks);
  v_items jsonb := (select coalesce(jsonb_agg(jsonb_build_object('job_id', job_id, 'fence', fence,
    'outcome', 'completed')), '[]') from queue.leases);
begin
  return length(public.settle_jobs(jsonb_build_object('items', v_items, 'lease', jsonb_build_object(
    'worker_id', 'w', 'tick_id', '00000000-0000-4000-8000-000000000001', 'call', v_call,
    'limit', p_limit, 'job_types', '["bench", "quiet"]'::jsonb)))::text);
end $$
"""
TYPES = """
select public.register_job_types(
  '[{"job_type": "bench"}, {"job_type": "quiet", "events": "minimal"}]')
"""


@dataclass(frozen=True)
class Case:
    """One call to count: `jobs` in each, `waiting` of a type before it."""

    name: str
    call: str
    calls: int
    jobs: int = 1
    waiting: int = 0
    job_type: str = "bench"


def bulk(job_type: str, count: int) -> str:
    """A call that enqueues many jobs, built by the database."""
    items = f"jsonb_build_object('job_type', '{job_type}', 'payload', '{{}}'::jsonb)"
    made = f"(select jsonb_agg({items}) from generate_series(1, {count}))"
    return f"select public.enqueue_jobs('{ACME}', {made}, 'ids') is null"


def step(limit: int) -> str:
    """A call that settles what is leased and leases more."""
    return f"select public.bench_step({limit})"


CASES = (
    Case("enqueue_job", f"select public.enqueue_job('{ACME}', 'bench', '{{}}') is null", 50),
    Case(
        "enqueue_job with a key",
        f"select public.enqueue_job('{ACME}', 'bench', '{{}}',"
        " jsonb_build_object('concurrency_key', 'k')) is null",
        50,
    ),
    Case("enqueue_jobs of 1,000, a job", bulk("bench", 1000), 2, jobs=1000),
    Case("settle and lease of one", step(1), 50, waiting=200),
    Case("the same, minimal", step(1), 50, waiting=200, job_type="quiet"),
    Case("settle and lease of 500, a job", step(500), 3, jobs=500, waiting=6000),
    Case("the same, minimal, a job", step(500), 3, jobs=500, waiting=6000, job_type="quiet"),
    Case("a lease that finds nothing", step(1), 20),
)


class Bench:
    """A server's data, and single-user runs over copies of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Postgres(folder / "server", scratch=True)
        self.server.start()
        self.url = prepared(self.server, "bench")
        self.run(STEP, TYPES)

    def run(self, *statements: str) -> None:
        """Execute statements on the server."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def fill(self, case: Case) -> None:
        """Make the jobs that a case leases, and let statistics know them."""
        self.run("delete from public.jobs", "delete from queue.ticks")
        for _ in range(0, case.waiting, 1000):
            self.run(bulk(case.job_type, min(1000, case.waiting)))
        self.run("vacuum analyze", "checkpoint")

    def count(self, case: Case, calls: int) -> tuple[int, int, int]:
        """Instructions, bytes of WAL and transaction ids of a run of so many calls."""
        data = self.folder / "copy"
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(self.server.data_dir, data)
        if self.server.user:
            for path in (data, *data.rglob("*")):
                shutil.chown(path, self.server.user.pw_uid, self.server.user.pw_gid)
        state = (
            "select 'wal ' || (pg_current_wal_insert_lsn() - '0/0')"
            " || ' xid ' || pg_snapshot_xmax(pg_current_snapshot())"
        )
        lines = [step(case.jobs)] * 2 if case.waiting else []
        lines += [state, *[case.call] * calls, state]
        watched = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        binary = str(self.server._binary("postgres"))
        done = subprocess.run(
            [*watched, binary, "--single", "-D", str(data), "-cfsync=off", "-cjit=off", "bench"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=True,
            user=self.server.user.pw_uid if self.server.user else None,
            group=self.server.user.pw_gid if self.server.user else None,
        )
        counted = re.findall(r"Collected : (\d+)", done.stderr)
        if not counted or "ERROR" in done.stderr:
            raise RuntimeError(done.stderr[-2000:])
        states = re.findall(r"wal (\d+) xid (\d+)", done.stdout)
        (wal, xid), (wal_after, xid_after) = states[0], states[-1]
        return int(counted[-1]), int(wal_after) - int(wal), int(xid_after) - int(xid)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="minutehand-instructions-", dir="/dev/shm") as name:
        Path(name).chmod(0o755)
        bench = Bench(Path(name))
        print("| call | instructions | WAL bytes | transaction ids |\n|---|--:|--:|--:|")
        for case in CASES:
            if options.only not in case.name:
                continue
            if bench.server.process is None:
                bench.server.start()
            bench.fill(case)
            bench.server.stop()
            short, long = bench.count(case, case.calls), bench.count(case, 2 * case.calls)
            per_call = [(b - a) / case.calls for a, b in zip(short, long, strict=True)]
            jobs = case.jobs
            print(
                f"| {case.name} | {per_call[0] / jobs:,.0f} | {per_call[1] / jobs:,.0f} |"
                f" {per_call[2]:.1f} |",
                flush=True,
            )
        bench.server.destroy()


if __name__ == "__main__":
    main()
