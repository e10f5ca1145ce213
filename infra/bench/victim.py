"""One tenant's pick-up while others do what has once slowed everyone: prints ratios to quiet.

`make victim`. A victim enqueues a job now and then; two workers and maintenance run beside. Each
case is begun, measured and cleared; at last all of them run together. The claim: p95 stays within
three times the quiet value, which is measured before and after each case, since other work may go
on on the machine. The first case is what as many plain jobs do: what two cores cost, and no design.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.bench.age import Connection, _rpc
from infra.bench.scratch import WORKSPACE, Scratch, scratch_project

Case = Callable[[Connection], None]
VICTIM = "22222222-2222-4222-8222-222222222222"
MOST = 3.0
#: Milliseconds, but for the ratio; a worker's call settles up to 20 jobs and leases as many.
HEADER = f"{'p95 of a pick-up':<26}{'quiet':>8}{'beside':>9}{'ratio':>7}{'a call':>9}{'longest':>9}"


def plain_jobs(connection: Connection) -> None:
    """Ten thousand jobs without anything."""
    for _ in range(10):
        items = [{"job_type": "busy"}] * 1000
        _rpc(connection, "enqueue_jobs", p_workspace_id=WORKSPACE, p_jobs=items, p_return="ids")


def after_lists(connection: Connection) -> None:
    """Two hundred jobs that each run after the same five hundred."""
    many = [{"job_type": "busy"}] * 500
    ids = _rpc(connection, "enqueue_jobs", p_workspace_id=WORKSPACE, p_jobs=many, p_return="ids")[
        "ids"
    ]
    for _ in range(20):
        later = [{"job_type": "busy", "after": ids}] * 10
        _rpc(connection, "enqueue_jobs", p_workspace_id=WORKSPACE, p_jobs=later, p_return="ids")


def crowd(connection: Connection) -> None:
    """Thirty thousand jobs due at one instant."""
    connection.execute(
        "insert into public.jobs (workspace_id, job_type, scheduled_for)"
        " select %s, 'held', now() + interval '2 seconds' from generate_series(1, 30000)",
        (WORKSPACE,),
    )


def drained_keys(connection: Connection) -> None:
    """Ten thousand keys, each used once."""
    for start in range(0, 10_000, 1000):
        items = [{"job_type": "busy", "concurrency_key": f"k{start + n}"} for n in range(1000)]
        _rpc(connection, "enqueue_jobs", p_workspace_id=WORKSPACE, p_jobs=items, p_return="ids")


def paused_keys(connection: Connection) -> None:
    """Thirty thousand keys of a type that is paused."""
    _rpc(connection, "pause_jobs", p_request={"kind": "job_type", "name": "held"})
    connection.execute(
        "insert into public.jobs (workspace_id, job_type, concurrency_key)"
        " select %s, 'held', 'k' || n from generate_series(1, 30000) as n",
        (WORKSPACE,),
    )


def tenants_at_their_limits(connection: Connection) -> None:
    """A thousand tenants that may run nothing more."""
    connection.execute(
        "insert into public.workspaces (id, name)"
        " select md5(n::text)::uuid, 'T' from generate_series(1, 1000) as n on conflict do nothing"
    )
    connection.execute(
        "insert into queue.tenant_limits (workspace_id, max_running)"
        " select md5(n::text)::uuid, 0 from generate_series(1, 1000) as n on conflict do nothing"
    )
    connection.execute(
        "insert into public.jobs (workspace_id, job_type)"
        " select md5(n::text)::uuid, 'busy' from generate_series(1, 1000) as n"
    )


def long_event(connection: Connection) -> None:
    """An event of 200 kB that three hundred jobs wait for."""
    connection.execute(
        "insert into queue.named_events (workspace_id, name, payload)"
        " values (%s, 'e', jsonb_build_object('text', repeat('a long event ', 15400)))"
        " on conflict do nothing",
        (WORKSPACE,),
    )
    items = [{"job_type": "waits"}] * 300
    _rpc(connection, "enqueue_jobs", p_workspace_id=WORKSPACE, p_jobs=items, p_return="ids")


def schedules(connection: Connection) -> None:
    """A hundred and twenty schedules of every minute, due now."""
    connection.execute("delete from queue.schedules")
    connection.execute(
        "insert into queue.schedules (workspace_id, name, cron, job_type, next_at)"
        " select %s, 's' || n, '* * * * *', 'busy', now() from generate_series(1, 120) as n",
        (WORKSPACE,),
    )


CASES: dict[str, Case] = {
    "10,000 plain jobs": plain_jobs,
    "after lists": after_lists,
    "crowd due at once": crowd,
    "keys drained": drained_keys,
    "keys of a paused type": paused_keys,
    "1,000 tenants at limits": tenants_at_their_limits,
    "200 kB event": long_event,
    "120 schedules": schedules,
}


def _tell(name: str, p95: float, quiet: float, calls: list[float]) -> None:
    verdict = "" if p95 <= MOST * quiet else "  MORE THAN 3 TIMES"
    print(
        f"{name:<26}{quiet:>8.1f}{p95:>9.1f}{p95 / quiet:>7.1f}"
        f"{statistics.median(calls):>9.1f}{max(calls):>9.1f}{verdict}",
        flush=True,
    )


class Bench:
    """Workers, maintenance and a victim, each with its own session."""

    def __init__(self, scratch: Scratch, samples: int) -> None:
        self.scratch = scratch
        self.samples = samples
        self.stopped = threading.Event()
        self.begun: dict[str, float] = {}
        #: Milliseconds of each call by who made it, of what is being measured.
        self.calls: dict[str, list[float]] = {}

    def run(self) -> None:
        """Measure each case, and all together, between two quiet times; print p95s and ratios."""
        with self.scratch.connect() as connection:
            types: list[dict[str, Any]] = [
                {"job_type": name} for name in ("victim", "busy", "waits")
            ]
            types.append({"job_type": "held", "max_concurrency": 1})
            _rpc(connection, "register_job_types", p_types=types)
            threads = [
                threading.Thread(target=work) for work in (self._work, self._work, self._maintain)
            ]
            for thread in threads:
                thread.start()
            try:
                self._measure(connection)  # sessions plan their statements
                print(HEADER, flush=True)
                before = self._measure(connection)
                for name, cases in [
                    *((name, [case]) for name, case in CASES.items()),
                    ("all together", list(CASES.values())),
                ]:
                    p95, calls = self._beside(connection, cases)
                    after = self._measure(connection)
                    _tell(name, p95, (before + after) / 2, calls)
                    before = after
            finally:
                self.stopped.set()
                for thread in threads:
                    thread.join()

    def _beside(self, connection: Connection, cases: list[Case]) -> tuple[float, list[float]]:
        with self.scratch.connect() as other:
            doing = threading.Thread(target=lambda: [case(other) for case in cases])
            doing.start()
            p95 = self._measure(connection)
            doing.join()
        calls = list(self.calls["work"])  # settlements wait for what is deleted here
        connection.execute("delete from public.jobs where workspace_id <> %s", (VICTIM,))
        _rpc(
            connection,
            "pause_jobs",
            p_request={"kind": "job_type", "name": "held", "paused": False},
        )
        connection.execute("vacuum")
        time.sleep(1)
        return p95, calls

    def _measure(self, connection: Connection) -> float:
        waits = []
        self.calls = {"enqueue": [], "work": [], "maintain": []}
        for _ in range(self.samples):
            at = time.monotonic()
            made = _rpc(connection, "enqueue_job", p_workspace_id=VICTIM, p_job_type="victim")
            self._took("enqueue", at)
            job_id = made["job"]["id"]
            while job_id not in self.begun and not self.stopped.is_set():
                time.sleep(0.001)
            waits.append((self.begun[job_id] - at) * 1000)
            time.sleep(0.02)
        return statistics.quantiles(waits, n=20)[-1]

    def _took(self, who: str, began: float) -> None:
        self.calls[who].append((time.monotonic() - began) * 1000)

    def _work(self) -> None:
        tick, call = str(uuid.uuid4()), 1
        items: list[dict[str, Any]] = []
        with self.scratch.connect() as connection:
            while not self.stopped.is_set():
                call += 1
                lease = {"worker_id": tick, "tick_id": tick, "call": call, "limit": 20}
                request = {"worker_id": tick, "tick_id": tick, "items": items, "lease": lease}
                began = time.monotonic()
                answer = _rpc(connection, "settle_jobs", p_request=request)
                now = time.monotonic()
                self._took("work", began)
                items = []
                for one in answer["lease"]["leases"]:
                    self.begun[one["job"]["id"]] = now
                    items.append(_end(one))
                if not items:
                    time.sleep(0.005)

    def _maintain(self) -> None:
        with self.scratch.connect() as connection:
            while not self.stopped.is_set():
                began = time.monotonic()
                done = _rpc(connection, "run_maintenance", p_request={"budget_ms": 1000})
                self._took("maintain", began)
                time.sleep(max(0.02, time.monotonic() - began) if done["more"] else 0.2)


def _end(lease: dict[str, Any]) -> dict[str, Any]:
    item = {"job_id": lease["job"]["id"], "fence": lease["fence"]}
    if lease["job"]["job_type"] == "waits" and lease["steps"] == {}:
        return {**item, "outcome": "waiting", "wait": {"kind": "event", "name": "e", "event": "e"}}
    return {**item, "outcome": "completed"}


def main() -> None:
    """Run it."""
    sys.setswitchinterval(0.0005)  # a thread waits up to 5 ms for another's Python else
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-victim-") as name,
        scratch_project(Path(name)) as scratch,
    ):
        Bench(scratch, options.samples).run()


if __name__ == "__main__":
    main()
