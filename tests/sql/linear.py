"""Were the limits ever broken? Asked of the write-ahead log, in the order of the commits.

Workers lease and settle jobs of types with every kind of limit while calls are
cancelled, sessions cut, workers lost and the server killed. Then it decodes from the WAL each lease
that was ever inserted or deleted and replays the commits one by one: no scope may hold more leases
than its limit after any of them, no rate may be exceeded, no job be leased twice at once, and each
fence must follow the one before. Nothing is sampled, so what it did not find did not happen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from infra.bench.age import Connection, Project
from infra.bench.scratch import scratch_project

WORKSPACES = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
TYPES: dict[str, dict[str, Any]] = {
    "by_key": {"key_concurrency": 3},
    "by_workspace": {"workspace_concurrency": 4},
    "by_type": {"max_concurrency": 9},
    "by_all": {"max_concurrency": 6, "workspace_concurrency": 4, "key_concurrency": 1},
    "rated": {"rate_limit": {"limit": 6, "per_seconds": 1}},
    "rated_by_key": {"rate_limit": {"limit": 4, "per_seconds": 1, "per_key": True}},
    "free": {},
}
KEYED = ("by_key", "by_all", "rated_by_key")
TENANT_MAX = {WORKSPACES[1]: 12}
SLOT = "linear"
#: Tokens that a replay may find missing: clocks are read to the microsecond.
ROUNDING = 0.01
_COLUMN = re.compile(r"(\w+)\[[^\]]+\]:('(?:[^']|'')*'|\S+)")

Scope = tuple[str, ...]


@dataclass
class History:
    """The leases of every commit, replayed."""

    running: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    held: Counter[Scope] = field(default_factory=Counter)
    peaks: Counter[Scope] = field(default_factory=Counter)
    fences: dict[str, int] = field(default_factory=dict)
    starts: dict[Scope, list[float]] = field(default_factory=lambda: defaultdict(list))
    breaches: list[str] = field(default_factory=list)
    commits: int = 0

    def replay(self, lines: Iterable[str]) -> None:
        """Read what `test_decoding` says, a line a change."""
        changes: list[tuple[bool, dict[str, str]]] = []
        for line in lines:
            if line.startswith("BEGIN"):
                changes = []
            elif line.startswith("COMMIT"):
                self._commit(changes)
            elif ".leases: INSERT" in line or ".leases: DELETE" in line:
                values = {name: value.strip("'") for name, value in _COLUMN.findall(line)}
                changes.append((": INSERT" in line, values))
        self._check_rates()

    def _commit(self, changes: list[tuple[bool, dict[str, str]]]) -> None:
        self.commits += bool(changes)
        touched: set[Scope] = set()
        for is_start, values in changes:
            touched |= self._start(values) if is_start else self._end(values["job_id"])
        for scope in touched:
            self.peaks[scope] = max(self.peaks[scope], self.held[scope])
            limit = limit_of(scope)
            if limit is not None and self.held[scope] > limit:
                self.breaches.append(f"{'/'.join(scope)}: {self.held[scope]} of {limit}")

    def _start(self, values: dict[str, str]) -> set[Scope]:
        job, fence = values["job_id"], int(values["fence"])
        who = (values["job_type"], values["workspace_id"], values["concurrency_key"])
        if job in self.running:
            self.breaches.append(f"{job} was leased twice at once")
        if fence != self.fences.get(job, 0) + 1:
            self.breaches.append(f"{job}: fence {fence} after {self.fences.get(job, 0)}")
        self.running[job], self.fences[job] = who, fence
        at = datetime.fromisoformat(values["leased_at"]).timestamp()
        for scope in scopes_of(*who):
            self.held[scope] += 1
            self.starts[scope].append(at)
        return set(scopes_of(*who))

    def _end(self, job: str) -> set[Scope]:
        if job not in self.running:
            self.breaches.append(f"the lease of {job} ended twice")
            return set()
        scopes = scopes_of(*self.running.pop(job))
        self.held.subtract(scopes)
        return set(scopes)

    def _check_rates(self) -> None:
        for scope, starts in self.starts.items():
            rate = rate_of(scope)
            if rate is not None and (left := least_tokens(starts, *rate)) < -ROUNDING:
                self.breaches.append(f"{'/'.join(scope)}: {-left:.2f} starts above its rate")


def scopes_of(job_type: str, workspace: str, key: str) -> list[Scope]:
    """The scopes that a lease counts in."""
    scopes: list[Scope] = [("type", job_type), ("workspace", workspace)]
    scopes.append(("type in workspace", job_type, workspace))
    return [*scopes, ("key", job_type, workspace, key)] if key else scopes


def limit_of(scope: Scope) -> int | None:
    """Most leases of a scope at once."""
    if scope[0] == "workspace":
        return TENANT_MAX.get(scope[1])
    name = {"type": "max", "type in workspace": "workspace", "key": "key"}[scope[0]]
    limit: int | None = TYPES[scope[1]].get(f"{name}_concurrency")
    return limit


def rate_of(scope: Scope) -> tuple[int, float] | None:
    """Starts and seconds of the scope's rate."""
    rate = TYPES.get(scope[1], {}).get("rate_limit")
    if rate is None or scope[0] != ("key" if rate.get("per_key") else "type"):
        return None
    return rate["limit"], rate["per_seconds"]


def least_tokens(starts: list[float], limit: int, seconds: float) -> float:
    """The least that a token bucket held over these starts; below 0 the rate was exceeded."""
    tokens = least = float(limit)
    last = min(starts)
    for at in sorted(starts):
        tokens = min(limit, tokens + (at - last) * limit / seconds) - 1
        last = at
        least = min(least, tokens)
    return least


@dataclass
class Load:
    """Workers and an operator of faults beside them, each with its own session."""

    project: Project
    seconds: float
    workers: int
    kills: int = 0
    seed: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def run(self) -> History:
        """Prepare, load, and replay what the WAL says of it."""
        with self.project.connect() as connection:
            _prepare(connection)
        until = time.monotonic() + self.seconds
        threads = [
            threading.Thread(target=self._work, args=(self.seed + number, until))
            for number in range(self.workers)
        ]
        for thread in threads:
            thread.start()
        self._disturb(until)
        for thread in threads:
            thread.join()
        history = History()
        with self._connected() as connection:
            query = (
                "select data from pg_logical_slot_get_changes(%s, null, null,"
                " 'skip-empty-xacts', '1', 'include-xids', '0')"
            )
            history.replay(line for (line,) in connection.execute(query, (SLOT,)).fetchall())
            connection.execute("select pg_drop_replication_slot(%s)", (SLOT,))
        return history

    def _connected(self) -> Connection:
        while True:
            try:
                return self.project.connect()
            except psycopg.OperationalError:  # the server recovers
                time.sleep(0.3)

    def _work(self, seed: int, until: float) -> None:
        rng = random.Random(seed)
        while time.monotonic() < until:
            try:
                with self._connected() as connection:
                    connection.execute("set statement_timeout = '8s'")
                    self._tick(connection, rng, until)
            except psycopg.Error as error:
                self.faults[f"lost by a worker: {error.sqlstate}"] += 1
                time.sleep(rng.uniform(0.02, 0.1))

    def _tick(self, connection: Connection, rng: random.Random, until: float) -> None:
        tick, call = str(uuid.uuid4()), 0
        items: list[dict[str, Any]] = []
        while time.monotonic() < until and rng.random() > 0.01:
            call += 1
            limit = rng.choice([1, 1, 1, 2, 5])
            lease = {"worker_id": tick, "tick_id": tick, "call": call, "limit": limit}
            answer = _rpc(connection, "settle_jobs", {"items": items, "lease": lease})
            # some are never settled: a worker that was lost with them
            leases = [one for one in answer["lease"]["leases"] if rng.random() > 0.03]
            items = [_outcome(one, rng) for one in leases]
            time.sleep(rng.random() ** 3 * 0.15 if items else rng.uniform(0.03, 0.08))

    def _disturb(self, until: float) -> None:
        rng = random.Random(self.seed - 1)
        while time.monotonic() < until:
            try:
                with self._connected() as connection:
                    while time.monotonic() < until:
                        _enqueue(connection, rng)
                        _rpc(connection, "run_maintenance", {"budget_ms": 300})
                        self._break(connection, rng, until)
                        time.sleep(0.05)
            except psycopg.Error as error:
                self.faults[f"lost by the operator: {error.sqlstate}"] += 1

    def _break(self, connection: Connection, rng: random.Random, until: float) -> None:
        others = "datname = current_database() and pid <> pg_backend_pid()"
        query = f"from pg_stat_activity where {others} and backend_type = 'client backend'"
        luck = rng.random()
        if until - time.monotonic() < self.seconds * self.kills / 3:
            [(pid,)] = connection.execute(f"select pid {query} limit 1".encode()).fetchall()
            self.kills -= 1
            self.faults["kill -9 of a backend, and crash recovery"] += 1
            os.kill(int(pid), signal.SIGKILL)
        elif luck < 0.25:
            connection.execute(f"select pg_cancel_backend(pid) {query} and random() < 0.3".encode())
            self.faults["cancelled calls"] += 1
        elif luck < 0.35:
            found = f"select pg_terminate_backend(pid) {query} and random() < 0.15"
            connection.execute(found.encode())
            self.faults["cut sessions"] += 1


def _prepare(connection: Connection) -> None:
    common = {"lease_seconds": 2, "max_attempts": 50}
    types = [{"job_type": name, **common, **policy} for name, policy in TYPES.items()]
    connection.execute("select public.register_job_types(%s)", (json.dumps(types),))
    # failures here are planned: neither a type nor a job is to be taken out for them
    _rpc(connection, "set_settings", {"lost_attempts_max": 1000})
    for workspace, most in TENANT_MAX.items():
        connection.execute(
            "insert into queue.tenant_limits (workspace_id, max_running) values (%s, %s)"
            " on conflict (workspace_id) do update set max_running = excluded.max_running",
            (workspace, most),
        )
    connection.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (SLOT,))


def _enqueue(connection: Connection, rng: random.Random) -> None:
    [(waiting,)] = connection.execute("select count(*) from queue.ready").fetchall()
    for workspace in WORKSPACES if int(str(waiting)) < 600 else ():
        items: list[dict[str, Any]] = []
        for _ in range(150):
            name = rng.choice(list(TYPES))
            key = {"concurrency_key": rng.choice("abc")} if name in KEYED else {}
            items.append({"job_type": name, "priority": rng.choice([50, 100]), **key})
        connection.execute(
            "select public.enqueue_jobs(%s, %s, 'ids')", (workspace, json.dumps(items))
        )


def _outcome(lease: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    item = {"job_id": lease["job"]["id"], "fence": lease["fence"]}
    luck = rng.random()
    if luck < 0.05:
        error = {"type": "E", "message": "as planned"}
        return {**item, "outcome": "retry", "retry_after_seconds": 0, "error": error}
    if luck < 0.07:
        return {**item, "outcome": "released"}
    if luck < 0.1:
        return {**item, "outcome": "snoozed", "delay_seconds": 0.1}
    return {**item, "outcome": "completed"}


def _rpc(connection: Connection, function: str, request: dict[str, Any]) -> Any:
    [(answer,)] = connection.execute(
        f"select public.{function}(%s)".encode(), (json.dumps(request),)
    ).fetchall()
    return answer


def main() -> None:
    """Run it; fails when anything was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-linear-") as name,
        scratch_project(Path(name)) as project,
    ):
        load = Load(project, options.seconds, options.workers, options.kills, options.seed)
        history = load.run()
    print(f"{len(history.fences)} jobs", end="")
    print(f", {sum(history.fences.values())} leases in {history.commits} commits; faults:")
    for fault, count in sorted(load.faults.items()):
        print(f"{count:>6}  {fault}")
    print("most at once, of the limit:")
    for scope, peak in sorted(history.peaks.items()):
        if (limit := limit_of(scope)) is not None:
            print(f"{peak:>4} of {limit:<3} {' '.join(part[:12] for part in scope)}")
    if history.breaches:
        raise SystemExit(f"{len(history.breaches)} breaches:\n" + "\n".join(history.breaches[:20]))
    print("no limit, rate or fence was ever broken")


if __name__ == "__main__":
    main()
