"""What a call of the engine costs by instructions, which no other work on the machine blurs.

`python -m infra.bench.instructions` runs Postgres as a single process under valgrind (which must be
installed), a short and a long run of each case; their difference, without the start, is the table.
WAL and transaction ids, of which each subtransaction that writes takes one, are of the same runs;
statements are those within a call, as auto_explain reports them. Beside each figure is what it is
of the last release's, and the last line says what rose. An argument names the cases: those that
contain it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from infra.bench.scratch import prepared
from minutehand.local.users import ACME
from supabase_local.postgres import Postgres

SETUP = """
create function public.bench_step(p_limit integer) returns bigint language plpgsql as $$
declare
  v_call integer := (select /* own */ coalesce(max(last_call), 0) + 1 from queue.ticks);
  v_items jsonb := (select /* own */ coalesce(jsonb_agg(jsonb_build_object('job_id', job_id,
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
MADE = f"(select jsonb_agg({ITEM}) from generate_series(1, 1000))"
BULK = f"select public.enqueue_jobs('{ACME}', {MADE}, 'ids') is null"
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
#: A call by its name, how often it is made, jobs of each, and what makes those that wait before.
CASES: dict[str, tuple[str, int, int, tuple[str, ...]]] = {
    "enqueue_job": (f"{ENQUEUE}) is null", 50, 1, ()),
    "enqueue_job with a key": (f"{ENQUEUE}, {KEY}) is null", 50, 1, ()),
    "enqueue_jobs of 1,000, a job": (BULK, 2, 1000, ()),
    "a plain insert of 1,000, a job": (INSERT, 2, 1000, ()),
    "settle and lease of one": (ONE, 50, 1, (BULK,)),
    "settle and lease of 500, a job": (MANY, 3, 500, (BULK,) * 6),
    "a lease that finds nothing": (ONE, 20, 1, ()),
    # last: it leaves its tenants' turns
    "settle and lease of 500 of 1,000 tenants, a job": (MANY, 3, 500, TENANTS),
}


def count(server: Postgres, copy: Path, lines: list[str]) -> list[int]:
    """Instructions, bytes of WAL and transaction ids of statements, over a copy of the data."""
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
    counted = re.findall(r"Collected : (\d+)", done.stderr)
    if not counted or "ERROR" in done.stderr:
        raise RuntimeError(done.stderr[-2000:])
    states = [list(map(int, found)) for found in re.findall(r"wal (\d+) xid (\d+)", done.stdout)]
    return [int(counted[-1]), *(b - a for a, b in zip(states[0], states[-1], strict=True))]


class Figures(NamedTuple):
    """What a call costs; instructions and bytes of WAL a job."""

    statements: float
    instructions: float
    wal: float
    ids: float


def statements(url: str, call: str) -> int:
    """How many statements a call makes once its session is warm, but for itself and the bench's."""
    said: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        for _ in range(3):
            connection.execute(call.encode())
        for line in (
            "load 'auto_explain'",
            "set auto_explain.log_nested_statements = on",
            "set auto_explain.log_min_duration = 0",
            "set client_min_messages = log",
        ):
            connection.execute(line.encode())
        said.clear()
        connection.execute(f"{call} /* own */".encode())
    return sum("Query Text" in one and "/* own */" not in one for one in said)


class Engine:
    """A server with the engine's present text, or with that of the last release."""

    def __init__(self, folder: Path, *, is_released: bool) -> None:
        self.copy = folder / "copy"
        self.server = Postgres(folder / "server", scratch=True)
        self.server.start()
        self.url = prepared(self.server, "bench", is_released=is_released)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(SETUP.encode())

    def measure(self, call: str, calls: int, jobs: int, made: tuple[str, ...]) -> Figures:
        """Measure a case."""
        if self.server.process is None:
            self.server.start()
        gone = "delete from public.jobs; delete from queue.ticks"
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in (gone, *made, "vacuum analyze", "checkpoint"):
                connection.execute(statement.encode())
        made_of = statements(self.url, call)
        self.server.stop()
        before = [f"select public.bench_step({jobs})"] * 2 if made else []
        short, long = (
            count(self.server, self.copy, [*before, STATE, *[call] * number, STATE])
            for number in (calls, 2 * calls)
        )
        code, wal, ids = ((b - a) / calls for a, b in zip(short, long, strict=True))
        return Figures(made_of, code / jobs, wal / jobs, ids)


def main() -> None:
    """Print the table, and what rose by more than 5 %."""
    rose: list[str] = []
    columns = ("call", "statements", "instructions", "WAL bytes", "transaction ids")
    print(f"| {' | '.join(columns)} |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="minutehand-instructions-", dir="/dev/shm") as name:
        Path(name).chmod(0o755)
        present = Engine(Path(name, "present"), is_released=False)
        released = Engine(Path(name, "released"), is_released=True)
        for case, (call, calls, jobs, made) in CASES.items():
            if not all(word in case for word in sys.argv[1:]):
                continue
            now, then = (one.measure(call, calls, jobs, made) for one in (present, released))
            cells = []
            for kind, new, old in zip(columns[1:], now, then, strict=True):
                ratio = f"{new / old:.2f}" if old else "new" if new else "0"
                cells.append(f"{new:,.{'1f' if kind == columns[-1] else '0f'}} ({ratio})")
                if new > 1.05 * old:
                    rose.append(f"{case}: {kind} {ratio}")
            print(f"| {case} | {' | '.join(cells)} |", flush=True)
        for one in (present, released):
            one.server.destroy()
    print(f"\nRose by more than 5 % since the last release: {'; '.join(rose) or 'nothing'}.")


if __name__ == "__main__":
    main()
