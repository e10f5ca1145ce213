"""A thousand benchmark jobs on a stack of their own while providers, a region and Postgres fail.

`make soak`; prints what became of the jobs and exits 1 when a promise was broken. The faults:
a share of all submissions to providers is answered with 500, one region is down for a while, and
Postgres is shut down in the middle; the stack starts it again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from infra.bench.paths import ROOT
from minutehand.terminal.connection import read_env_file

REGIONS = ("us-east", "eu-west", "asia-pacific")
#: The one that goes down; a job needs two of the three, so that its regions allow it to complete.
DOWN = "asia-pacific"
START_LIMIT_MS, START_P99_MS = 120_000.0, 2_000.0
PROVIDERS = "BEACON_PROVIDERS"
#: Jobs of a worker at once; by default five.
CONCURRENCY = 20


@dataclass
class Counted:
    """What the submitting client met."""

    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    accepted: int = 0


class Soak:
    """One run over one stack.

    Args:
        values: The stack's addresses, as `.local/env` has them.
    """

    def __init__(self, values: dict[str, str], options: argparse.Namespace) -> None:
        self._values = values
        self._options = options
        self._prefix = f"soak-{os.getpid()}-"
        self._counted = Counted()

    async def run(self) -> int:
        """Submit, break, wait, report; the exit code."""
        seconds = self._options.jobs / self._options.rate
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=30, limits=limits) as http:
            token = await self._sign_in(http)
            await self._faults(http, down=False)
            breaking = asyncio.create_task(self._break(http, seconds))
            began = time.monotonic()
            submissions = []
            for number in range(self._options.jobs):
                await asyncio.sleep(
                    max(0.0, began + number / self._options.rate - time.monotonic())
                )
                submissions.append(asyncio.create_task(self._submit(http, token, number)))
            await asyncio.gather(*submissions)
            await breaking
            await self._faults(http, down=False)
            ended_in = await self._ended()
        return self._report(time.monotonic() - began, ended_in)

    async def _sign_in(self, http: httpx.AsyncClient) -> str:
        answer = await http.post(
            f"{self._values['SUPABASE_URL']}/auth/v1/token",
            params={"grant_type": "password"},
            headers={"apikey": self._values["SUPABASE_PUBLISHABLE_KEY"]},
            json={
                "email": self._values["DEMO_EMAIL"],
                "password": self._values["DEMO_PASSWORD"],
            },
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    async def _submit(self, http: httpx.AsyncClient, token: str, number: int) -> None:
        """Submit one job as a client does that repeats what may be repeated."""
        body = {
            "workspace_id": self._values["DEMO_WORKSPACE_ID"],
            "jobspec_id": f"{self._prefix}{number}",
            "version": "1",
            "benchmark": {"name": "soak"},
            "constraints": {"regions": list(REGIONS), "min_regions": 2},
            "questions": ["Are you there?"],
        }
        headers = {"Authorization": f"Bearer {token}"}
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up:
            try:
                answer = await http.post(
                    f"{self._values['API_URL']}/api/v1/jobs", json=body, headers=headers
                )
            except httpx.TransportError as error:
                self._counted.unexpected.append(f"{type(error).__name__}: {error}")
                return
            self._counted.statuses[answer.status_code] += 1
            if answer.status_code in {200, 202}:
                self._counted.accepted += 1
                return
            if answer.status_code != 503:
                self._counted.unexpected.append(f"{answer.status_code}: {answer.text[:200]}")
                return
            await asyncio.sleep(1)
        self._counted.unexpected.append(f"job {number} was not accepted within 120 s")

    async def _break(self, http: httpx.AsyncClient, seconds: float) -> None:
        await asyncio.sleep(seconds * 0.25)
        await self._faults(http, down=True)
        await asyncio.sleep(min(seconds * 0.25, self._options.down_seconds))
        await self._faults(http, down=False)
        await asyncio.sleep(seconds * 0.1)
        # a fast shutdown, as an administrator's restart begins; the stack starts it again
        pid = int((self._postgres_folder() / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGINT)

    def _postgres_folder(self) -> Path:
        with psycopg.connect(self._values["DATABASE_URL"]) as connection:
            row = connection.execute("show data_directory").fetchone()
        assert row is not None
        return Path(row[0])

    async def _faults(self, http: httpx.AsyncClient, *, down: bool) -> None:
        faults: dict[str, Any] = {"*": {"error_rate": self._options.error_rate}}
        if down:
            faults[DOWN] = {"down": True}
        for provider in json.loads(self._values[PROVIDERS]):
            (await http.put(f"{provider['url']}/faults", json=faults)).raise_for_status()

    async def _ended(self) -> float:
        """Wait until every accepted job has ended; returns how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < self._options.patience_seconds:
            try:
                [row] = self._rows(
                    "select count(*) from public.beacon_jobs"
                    " where jobspec_id like %s and finished_at is null"
                )
                if row[0] == 0:
                    break
            except psycopg.OperationalError:
                pass  # on its way up: counted again in a second
            await asyncio.sleep(1)
        return time.monotonic() - began

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._values["DATABASE_URL"], autocommit=True) as connection:
            return connection.execute(statement.encode(), (f"{self._prefix}%",)).fetchall()

    def _report(self, seconds: float, ended_in: float) -> int:
        statuses = dict(
            self._rows(
                "select status, count(*) from public.beacon_jobs where jobspec_id like %s"
                " group by 1"
            )
        )
        [starts] = self._rows(
            "select percentile_cont(array[0.5, 0.99, 1]) within group (order by"
            " extract(epoch from started_at - created_at) * 1000) from public.beacon_jobs"
            " where jobspec_id like %s"
        )
        p50, p99, most = (float(each or 0) for each in starts[0] or (0, 0, 0))
        [(executions, receipts, doubled)] = self._rows(
            "select count(*), count(x.id), count(*) - count(distinct e.id) from"
            " public.beacon_executions as e left join public.beacon_receipts as x"
            " on x.execution_id = e.id where e.jobspec_id like %s and e.status = 'completed'"
        )
        completed = statuses.get("completed", 0)
        share = 100 * completed / self._options.jobs
        bad = {status for status in self._counted.statuses if status >= 500 and status != 503}
        checks = [
            ("accepted", f"{self._counted.accepted} of {self._options.jobs}",
             self._counted.accepted == self._options.jobs),
            ("completed", f"{completed} ({share:.1f} %; promised: over 99 %)", share > 99),
            ("other ends", str({k: v for k, v in statuses.items() if k != "completed"} or "none"),
             True),
            ("WORKER_CONCURRENCY", f"{CONCURRENCY} (the default is 5)", True),
            ("submission to start, p50", f"{p50:.0f} ms", True),
            ("submission to start, p99", f"{p99:.0f} ms (promised: under 2 s)", p99 < START_P99_MS),
            ("submission to start, max", f"{most:.0f} ms (limit: 2 minutes)",
             most < START_LIMIT_MS),
            ("executions completed, receipts", f"{executions}, {receipts}, {doubled} twice",
             executions == receipts and doubled == 0),
            ("answers by status", str(dict(sorted(self._counted.statuses.items()))), not bad),
            ("answers that are none", str(self._counted.unexpected[:3] or "none"),
             not self._counted.unexpected),
            ("submitted and ended", f"{seconds:.0f} s, {ended_in:.0f} s after the last one", True),
        ]  # fmt: skip
        width = max(len(name) for name, _, _ in checks)
        for name, value, kept in checks:
            sys.stdout.write(f"{'ok ' if kept else 'NOT'}  {name:<{width}}  {value}\n")
        return 0 if all(kept for _, _, kept in checks) else 1


def main(arguments: list[str] | None = None) -> int:
    """Start a stack, soak it, stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=3.0, help="submissions per second")
    parser.add_argument("--error-rate", type=float, default=0.1)
    parser.add_argument("--down-seconds", type=float, default=30.0)
    parser.add_argument("--patience-seconds", type=float, default=300.0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="minutehand-soak-") as folder:
        state = Path(folder) / "state"
        with (Path(folder) / "log").open("wb") as log:
            # executions wait for providers most of the time: five at once would wait for each other
            launcher = subprocess.Popen(
                [sys.executable, "-m", "minutehand.local", "up", "--any-ports", "--no-demo",
                 "--with-parent", "--state", str(state)],
                cwd=ROOT, stdout=log, stderr=log,
                env={**os.environ, "WORKER_CONCURRENCY": str(CONCURRENCY)},
            )  # fmt: skip
            try:
                give_up = time.monotonic() + 180
                while not (state / "ready").exists():
                    if launcher.poll() is not None or time.monotonic() > give_up:
                        sys.stderr.write((Path(folder) / "log").read_text(errors="replace")[-4000:])
                        return 2
                    time.sleep(0.2)
                return asyncio.run(Soak(read_env_file(state / "env"), options).run())
            finally:
                launcher.terminate()
                launcher.wait(60)


if __name__ == "__main__":
    sys.exit(main())
