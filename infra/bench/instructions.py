"""Cost of the engine's calls in CPU instructions, which other work on the machine does not affect.

`python -m infra.bench.instructions` runs Postgres as a single process under valgrind, which must be
installed. For each case, the table shows the difference between a long and a short run, so that the
cost of starting is left out. Each run also counts bytes of WAL and transaction ids (one per
subtransaction that writes). The amounts of WAL and ids depend on the machine's speed, because a
call sends a Realtime message, in a subtransaction, only if the workspace had fewer than five
changes in the current second. If WAL or ids have increased but instructions have not, repeat the
measurement. After each figure, the table shows the figure's ratio to the last release. The last
line of the output lists the figures that increased. Arguments of the command select the cases whose
names contain all arguments.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from infra.bench.scratch import prepare_database
from minutehand.local.users import ACME
from supabase_local.postgres import Postgres

SETUP = """
create function public.bench_step(p_limit integer) returns bigint language plpgsql as $$
declare
  v_call integer := (select coalesce(max(last_call), 0) + 1 from queue.ticks);
  v_items jsonb := (select coalesce(jsonb_agg(jsonb_build_object('job_id', job_id,
    'fence', fence, 'outcome', 'completed')), '[]') from queue.leases);
begin
  return length(public.settle_jobs(jsonb_build_object('items', v_items, 'lease', jsonb_build_object(
    'worker_id', 'w', 'tick_id', '00000000-0000-4000-8000-000000000001', 'call', v_call,
    'limit', p_limit, 'job_types', '["bench"]'::jsonb)))::text);
end $$;
select public.register_job_types('[{"job_type": "bench"}]')
"""
WATCHED = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
STATE = """select 'wal ' || (pg_current_wal_insert_lsn() - '0/0')
 || ' xid ' || pg_snapshot_xmax(pg_current_snapshot())""".replace("\n", "")


ITEM = "jsonb_build_object('job_type', 'bench', 'payload', '{}'::jsonb)"
ITEMS = f"(select jsonb_agg({ITEM}) from generate_series(1, 1000))"
BULK = f"select public.enqueue_jobs('{ACME}', {ITEMS}, 'ids') is null"
INSERT = (
    "insert into public.jobs (workspace_id, job_type) "
    f"select '{ACME}', 'bench' from generate_series(1, 1000)"
)
ONE, MANY = "select public.bench_step(1)", "select public.bench_step(500)"
KEY = "jsonb_build_object('concurrency_key', 'k')"
ENQUEUE = f"select public.enqueue_job('{ACME}', 'bench', '{{}}'"
TENANTS = (
    "insert into public.workspaces (id, name) select queue.new_id(), 'T'"
    " from generate_series(1, 1000)",
    f"select count(public.enqueue_jobs(w.id, (select jsonb_agg({ITEM}) from generate_series(1, 5)),"
    " 'ids')::text) from public.workspaces as w where w.name = 'T'",
)
#: Cases by name: the measured call, the number of calls, the number of jobs per call, and
#: statements that create the jobs before the measurement.
CASES: dict[str, tuple[str, int, int, tuple[str, ...]]] = {
    "enqueue_job": (f"{ENQUEUE}) is null", 50, 1, ()),
    "enqueue_job with a key": (f"{ENQUEUE}, {KEY}) is null", 50, 1, ()),
    "enqueue_jobs of 1,000, a job": (BULK, 2, 1000, ()),
    "a plain insert of 1,000, a job": (INSERT, 2, 1000, ()),
    "settle and lease of one": (ONE, 50, 1, (BULK,)),
    "settle and lease of 500, a job": (MANY, 3, 500, (BULK,) * 6),
    "a lease that finds nothing": (ONE, 20, 1, ()),
    # this case must be the last, because its tenants stay in the engine's order of tenants
    "settle and lease of 500 of 1,000 tenants, a job": (MANY, 3, 500, TENANTS),
}


def count(server: Postgres, copy: Path, lines: list[str]) -> list[int]:
    """Run statements on a copy of the data.

    Count the CPU instructions, bytes of WAL and transaction ids that the statements use.
    """
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(server.data_dir, copy)
    user = server.user
    as_user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid} if user else {}
    for path in (copy, *copy.rglob("*")) if as_user else ():
        shutil.chown(path, as_user["user"], as_user["group"])
    postgres = [str(server.binary("postgres")), "--single", "-D", str(copy), "-cfsync=off"]
    done = subprocess.run(
        [*WATCHED, *postgres, "-cjit=off", "bench"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=True,
        **as_user,
    )
    counts = re.findall(r"Collected : (\d+)", done.stderr)
    if not counts or "ERROR" in done.stderr:
        raise RuntimeError(done.stderr[-2000:])
    states = [list(map(int, match)) for match in re.findall(r"wal (\d+) xid (\d+)", done.stdout)]
    return [int(counts[-1]), *(b - a for a, b in zip(states[0], states[-1], strict=True))]


class Figures(NamedTuple):
    """Cost of a measured call. Instructions and bytes of WAL are per job."""

    instructions: float
    wal: float
    ids: float


class Engine:
    """A Postgres server with the engine from the current sources or from the last release."""

    def __init__(self, folder: Path, *, is_released: bool) -> None:
        self.copy = folder / "copy"
        self.server = Postgres(folder / "server", scratch=True)
        self.server.start()
        self.url = prepare_database(self.server, "bench", is_released=is_released)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(SETUP.encode())

    def measure(self, call: str, calls: int, jobs: int, setup: tuple[str, ...]) -> Figures:
        """Measure one case in a long and a short run."""
        if self.server.process is None:
            self.server.start()
        clear = "delete from public.jobs; delete from queue.ticks"
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in (clear, *setup, "vacuum analyze", "checkpoint"):
                connection.execute(statement.encode())
        self.server.stop()
        before = [f"select public.bench_step({jobs})"] * 2 if setup else []
        short, long = (
            count(self.server, self.copy, [*before, STATE, *[call] * number, STATE])
            for number in (calls, 2 * calls)
        )
        code, wal, ids = ((b - a) / calls for a, b in zip(short, long, strict=True))
        return Figures(code / jobs, wal / jobs, ids)


def main() -> None:
    """Print the table, and the names of all figures that increased by more than 5 %."""
    increases: list[str] = []
    columns = ("call", "instructions", "WAL bytes", "transaction ids")
    print(f"| {' | '.join(columns)} |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="minutehand-instructions-", dir="/dev/shm") as name:
        Path(name).chmod(0o755)
        present = Engine(Path(name, "present"), is_released=False)
        released = Engine(Path(name, "released"), is_released=True)
        engines = (present, released)
        for case, (call, calls, jobs, setup) in CASES.items():
            if not all(word in case for word in sys.argv[1:]):
                continue
            now, then = (engine.measure(call, calls, jobs, setup) for engine in engines)
            cells = []
            for kind, new, old in zip(columns[1:], now, then, strict=True):
                ratio = f"{new / old:.2f}" if old else "new" if new else "0"
                cells.append(f"{new:,.{'1f' if kind == columns[-1] else '0f'}} ({ratio})")
                if new > 1.05 * old:
                    increases.append(f"{case}: {kind} {ratio}")
            print(f"| {case} | {' | '.join(cells)} |", flush=True)
        for engine in engines:
            engine.server.destroy()
    text = "; ".join(increases) or "none"
    print(f"\nIncreases by more than 5 % since the last release: {text}.")


if __name__ == "__main__":
    main()
