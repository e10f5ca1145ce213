"""`python -m infra.bench.budget`: a bulk of jobs on a plan's limit, and what others see of it.

A stack of its own with hosted's free limit. One client has a channel of the application's own,
which knows nothing of jobs; others watch the workspace and single jobs. Fails when that channel is
shut down, when a watcher has not exactly the database's events, or when any five seconds carried
more messages, deliveries included, than the plan allows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
from psycopg.types.json import Jsonb
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

from infra.bench.streams import sign_in, stack
from minutehand.client import Client, FeedWatcher, JobWatcher, Timing
from minutehand.local.users import ADA
from supabase import AsyncClient, AsyncClientOptions

JOB_TYPE = "budget"
#: Between two messages of the application's own channel.
_OWN_EVERY = 0.5
_TIMING = Timing(polling_interval=2.0)
#: What a message cost by hosted's count: itself, and its delivery to each watcher of its topic.
_WORST_WINDOW = """
  with sent as (
    select inserted_at, sum(1 + coalesce((%(receivers)s::jsonb ->> topic)::int, 0)) as cost
    from realtime.messages where inserted_at >= %(since)s group by inserted_at)
  select coalesce(max(cost), 0) from (
    select sum(cost) over (
      order by inserted_at range between interval '5 seconds' preceding and current row) as cost
    from sent) as windows
"""


@dataclass
class Report:
    """What a run saw."""

    jobs: int
    limit: float
    #: How the application's own channel ended before its time; empty for not at all.
    foreign: list[str] = field(default_factory=list)
    foreign_heard: int = 0
    worst_window: int = 0
    sent: int = 0
    held: int = 0
    look_again: int = 0
    seconds: float = 0.0
    #: Per watcher what is missing, and what came twice.
    wrong: dict[str, tuple[int, int]] = field(default_factory=dict)
    watchers: int = 0

    @property
    def problems(self) -> list[str]:
        """What must not be."""
        found = [f"the application's own channel: {each}" for each in self.foreign]
        if self.worst_window > 5 * self.limit:
            found.append(f"{self.worst_window} messages in five seconds")
        if self.foreign_heard == 0:
            found.append("the application's own channel received nothing")
        return found + [
            f"{name}: {missing} missing, {twice} twice"
            for name, (missing, twice) in self.wrong.items()
        ]

    def lines(self) -> list[str]:
        """The report as text."""
        rows: list[tuple[str, object]] = [
            ("jobs", self.jobs),
            ("limit, messages/s", self.limit),
            ("seconds", round(self.seconds, 1)),
            ("watchers", self.watchers),
            ("messages sent", self.sent),
            ("of them to read again", self.look_again),
            ("messages held back", self.held),
            ("most in five seconds, deliveries included", self.worst_window),
            ("own channel received", self.foreign_heard),
            ("problems", len(self.problems)),
        ]
        return [f"{name:<44}{value:>10}" for name, value in rows] + self.problems


@contextlib.asynccontextmanager
async def own_channel(env: Mapping[str, str], report: Report) -> AsyncIterator[None]:
    """A public channel of the application's, which sends to itself now and then."""
    client = AsyncRealtimeClient(
        env["REALTIME_URL"], token=env["SUPABASE_PUBLISHABLE_KEY"], auto_reconnect=False
    )
    await client.connect()
    channel = client.channel(
        "own-app",
        {
            "config": {
                "private": False,
                "broadcast": {"ack": False, "self": True},
                "presence": {"key": "", "enabled": False},
            }
        },
    )
    subscribed = asyncio.Event()
    leaving = False

    def change(state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state is RealtimeSubscribeStates.SUBSCRIBED:
            subscribed.set()
        elif not leaving:
            report.foreign.append(f"{state.value} {error or ''}".strip())

    def heard(_: Any) -> None:
        report.foreign_heard += 1

    async def speak() -> None:
        while True:
            await channel.send_broadcast("hello", {"at": time.time()})
            await asyncio.sleep(_OWN_EVERY)

    channel.on_broadcast("*", heard)
    await channel.subscribe(change)
    async with asyncio.timeout(60):
        await subscribed.wait()
    speaking = asyncio.create_task(speak())
    try:
        yield
    finally:
        leaving = True
        speaking.cancel()
        await asyncio.wait([speaking])
        await client.close()


async def collect(watcher: FeedWatcher | JobWatcher, into: list[tuple[str, int]]) -> None:
    """Note every event that a watcher hands out."""
    async for event in watcher:
        into.append((event.job_id, event.seq))


async def run(
    env: Mapping[str, str],
    *,
    jobs: int,
    limit: float,
    watchers: int = 3,
    watched_jobs: int = 3,
    batch: int = 100,
    patience: float = 120,
    linger: float = 6,
) -> Report:
    """Enqueue `jobs` over HTTP, run them by SQL, and compare what each watcher received.

    Args:
        batch: Jobs leased in one call.
        patience: Seconds after the last job until every watcher must have seen all.
        linger: Seconds at the end in which the own channel must stay open: Realtime looks at its
            counts every five.
    """
    report = Report(jobs, limit, watchers=watchers + watched_jobs)
    workspace = str(uuid4())
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as held:
        sql = await held.enter_async_context(
            await psycopg.AsyncConnection.connect(env["DATABASE_URL"], autocommit=True)
        )
        http = await held.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=60))
        token = await sign_in(env)
        await _prepare(sql, workspace)
        row = await (await sql.execute("select clock_timestamp() at time zone 'UTC'")).fetchone()
        assert row is not None
        client = Client(
            AsyncClient(
                env["SUPABASE_URL"],
                env["SUPABASE_PUBLISHABLE_KEY"],
                AsyncClientOptions(httpx_client=http),
            ),
            schema="public",
            token=token,
        )
        told: dict[str, list[tuple[str, int]]] = {}
        reading: list[asyncio.Task[None]] = []
        watching: list[FeedWatcher | JobWatcher] = []

        async def watch(name: str, watcher: FeedWatcher | JobWatcher) -> None:
            told[name] = []
            watching.append(watcher)
            reading.append(asyncio.create_task(collect(watcher, told[name])))
            async with asyncio.timeout(90):
                while watcher.freshness != "live":  # noqa: ASYNC110 - it has no event to wait for
                    await asyncio.sleep(0.02)

        await held.enter_async_context(own_channel(env, report))
        for n in range(watchers):
            await watch(f"workspace {n}", client.watch_workspace(workspace, timing=_TIMING))
        ids = await _enqueue(http, env, token, workspace, jobs)
        for job_id in ids[:watched_jobs]:
            await watch(f"job {job_id}", client.watch_job(job_id, timing=_TIMING))
        await _work_off(sql, batch)
        expected = await _expected(sql, workspace, ids[:watched_jobs], watchers)
        await _until_equal(told, expected, patience)
        for name, events in expected.items():
            missing, twice = set(events) - set(told[name]), len(told[name]) - len(set(told[name]))
            if missing or twice:
                report.wrong[name] = (len(missing), twice)
        give_up = time.monotonic() + linger
        while not report.foreign and time.monotonic() < give_up:  # noqa: ASYNC110 - a callback fills it
            await asyncio.sleep(0.1)
        for watcher in watching:
            await watcher.aclose()
        await asyncio.gather(*reading, return_exceptions=True)
        receivers = {f"workspace:{workspace}": watchers} | {
            f"job:{each}": 1 for each in ids[:watched_jobs]
        }
        await _count(sql, report, row[0], receivers)
    report.seconds = time.monotonic() - began
    return report


async def _prepare(sql: psycopg.AsyncConnection[Any], workspace: str) -> None:
    await sql.execute("insert into public.workspaces (id, name) values (%s, 'Bulk')", [workspace])
    await sql.execute(
        "insert into public.workspace_members (workspace_id, user_id, role)"
        " values (%s, %s, 'manager')",
        [workspace, str(ADA.id)],
    )
    await _call(sql, "register_job_types", [{"job_type": JOB_TYPE}])
    limits = {"user_pending_max": 1_000_000, "user_enqueues_burst": 1_000_000}
    await _call(sql, "set_settings", limits)


async def _call(sql: psycopg.AsyncConnection[Any], function: str, argument: Any) -> Any:
    cursor = await sql.execute(f"select public.{function}(%s)".encode(), [Jsonb(argument)])
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def _enqueue(
    http: httpx.AsyncClient, env: Mapping[str, str], token: str, workspace: str, jobs: int
) -> list[str]:
    ids: list[str] = []
    for start in range(0, jobs, 1000):
        items = [{"job_type": JOB_TYPE, "payload": {}}] * min(1000, jobs - start)
        answer = await http.post(
            f"{env['API_URL']}/api/jobs/bulk",
            headers={"Authorization": f"Bearer {token}"},
            json={"workspace_id": workspace, "jobs": items},
        )
        answer.raise_for_status()
        ids += [made["job"]["id"] for made in answer.json()["jobs"]]
    return ids


async def _work_off(sql: psycopg.AsyncConnection[Any], batch: int) -> None:
    """Lease, report on and settle until nothing is left, as a worker does."""
    request = {"worker_id": "bench", "tick_id": str(uuid4()), "job_types": [JOB_TYPE]}
    call = 0
    while True:
        call += 1
        lease = {**request, "call": call, "limit": batch}
        answer = await _call(sql, "lease_jobs", lease)
        leases = answer["leases"]
        if not leases and answer["next_due_in_ms"] == 0:
            continue  # a worker of the stack is looking at them
        if not leases:
            break
        handles = [{"job_id": each["job"]["id"], "fence": each["fence"]} for each in leases]
        progress = {"progress": {"percentage": 50}}
        await _call(
            sql, "report_jobs", {**request, "items": [{**each, **progress} for each in handles]}
        )
        done = {"outcome": "completed"}
        await _call(
            sql, "settle_jobs", {**request, "items": [{**each, **done} for each in handles]}
        )
    for _ in range(10):  # as at a worker's end: until everyone was notified
        await _call(sql, "run_maintenance", {"budget_ms": 1000})
        await asyncio.sleep(0.3)


async def _expected(
    sql: psycopg.AsyncConnection[Any], workspace: str, job_ids: Sequence[str], watchers: int
) -> dict[str, list[tuple[str, int]]]:
    states = "select job_id::text, seq from public.job_events where workspace_id = %s" + (
        " and type not in ('job.progress', 'job.log')"
    )
    of_workspace = await (await sql.execute(states, [workspace])).fetchall()
    expected = {f"workspace {n}": of_workspace for n in range(watchers)}
    for job_id in job_ids:
        own = "select job_id::text, seq from public.job_events where job_id = %s"
        expected[f"job {job_id}"] = await (await sql.execute(own, [job_id])).fetchall()
    return expected


async def _until_equal(
    told: Mapping[str, Sequence[tuple[str, int]]],
    expected: Mapping[str, Sequence[tuple[str, int]]],
    patience: float,
) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while any(len(told[name]) < len(events) for name, events in expected.items()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def _count(
    sql: psycopg.AsyncConnection[Any], report: Report, since: Any, receivers: Mapping[str, int]
) -> None:
    values = {"since": since, "receivers": Jsonb(receivers)}
    row = await (await sql.execute(_WORST_WINDOW, values)).fetchone()
    assert row is not None
    report.worst_window = int(row[0])
    counts = (
        "select count(*), count(*) filter (where event = 'job.look_again'),"
        " (select coalesce(pg_sequence_last_value('queue.messages_held'), 0))"
        " from realtime.messages where inserted_at >= %s"
    )
    row = await (await sql.execute(counts, [since])).fetchone()
    assert row is not None
    report.sent, report.look_again, report.held = (int(each) for each in row)


def main() -> int:
    """Run and print; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.budget", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--watchers", type=int, default=3)
    parser.add_argument("--plan", choices=("free", "pro"), default="free")
    chosen = parser.parse_args()
    limit = {"free": 100, "pro": 500}[chosen.plan]
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-") as folder,
        stack(Path(folder), plan=chosen.plan) as env,
    ):
        report = asyncio.run(
            run(
                env,
                jobs=chosen.jobs,
                limit=limit,
                watchers=chosen.watchers,
                batch=500,
                patience=600,
            )
        )
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
