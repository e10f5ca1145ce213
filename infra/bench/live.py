"""`python -m infra.bench.live`: how fast live updates are, beside the figures to beat.

A durable Postgres and a Realtime server of its own, without limits unless a row names a plan;
official JavaScript clients for the latency, bare sockets for the throughput, so that the server is
measured and not its clients. Server-sent events and clicks are measured over a whole stack.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import uvloop

from infra.bench.bare_client import all_received, join_many
from infra.bench.paths import ROOT
from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY
from infra.bench.streams import server_sent_events, stack
from infra.bench.visible import click_to_visible
from minutehand.local import migrations
from minutehand.local.ports import reserve_port
from minutehand.local.postgres import Postgres
from minutehand.local.processes import spawn, stop
from minutehand.node import node_binary

_SEND = """
  select realtime.send(
    jsonb_build_object('n', %s::int, 't', extract(epoch from clock_timestamp())::float8 * 1000,
      'type', 'job.progress', 'data', jsonb_build_object('percentage', 50, 'stage', 'working')),
    'job.progress', %s)
"""
_FLOOD = """
  select realtime.send(jsonb_build_object('n', n, 'text', repeat('x', 100)), 'e', %s)
  from generate_series(1, %s) as n
"""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    measured: str
    target: str
    met: bool


@dataclass
class Bench:
    """What is measured."""

    database_url: str
    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        """The project's address."""
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self, seconds: float = 20) -> None:
        """Wait until replication runs."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/realtime/v1/health", trust_env=False).is_success:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"Realtime on port {self.port} did not come up")

    def cpu_seconds(self) -> float:
        """CPU the server has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Bytes the server holds."""
        return int(self.process.memory_info().rss)


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """A Postgres and a Realtime server for the length of the block."""
    postgres = Postgres(folder)
    server: subprocess.Popen[bytes] | None = None
    try:
        postgres.start()
        migrations.prepare_hosted(postgres.url())
        port = reserve_port()
        server = spawn(
            [sys.executable, "-m", "supabase_local.realtime"],
            cwd=ROOT,
            env={
                "DATABASE_URL": postgres.url(),
                "PORT": str(port),
                "SUPABASE_JWT_SECRET": JWT_SECRET,
                "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
                "SUPABASE_SECRET_KEY": SECRET_KEY,
                "REALTIME_PLAN": "peak",
            },
            output=subprocess.DEVNULL,
        )
        running = Bench(postgres.url(), port, psutil.Process(server.pid))
        running.wait_ready()
        yield running
    finally:
        if server is not None:
            stop(server)
        postgres.destroy()


async def idle(on: Bench, *, sockets: int = 50, seconds: float = 5) -> list[Row]:
    """CPU while members wait and nothing happens."""
    members = await join_many(on.port, SECRET_KEY, "bench:idle", sockets)
    before = on.cpu_seconds()
    await asyncio.sleep(seconds)
    share = 100 * (on.cpu_seconds() - before) / seconds
    for member in members:
        member.close()
    return [Row(f"idle CPU, {sockets} sockets", f"{share:.1f} %", "< 5 %", share < 5)]


async def latency(
    on: Bench, *, subscribers: int = 50, per_second: int = 200, seconds: int = 10
) -> list[Row]:
    """From the insert to the callback of the official JavaScript client."""
    topic, events = "bench:latency", per_second * seconds
    process = await asyncio.create_subprocess_exec(
        str(node_binary()),
        str(Path(__file__).with_name("live_clients.mjs")),
        *(on.url, SECRET_KEY, topic, str(subscribers), str(events), str(per_second)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["ready"] == subscribers
    async with await psycopg.AsyncConnection.connect(on.database_url, autocommit=True) as sql:
        began = time.monotonic()
        for n in range(events):
            await sql.execute(_SEND, [n, topic])
            await asyncio.sleep(max(0.0, began + (n + 1) / per_second - time.monotonic()))
    async with asyncio.timeout(60):
        result = json.loads(await process.stdout.readline())
    await process.wait()
    rate = per_second * (1 + subscribers)
    name = (
        f"insert to callback, {subscribers} supabase-js clients, {per_second} events/s, "
        f"{rate:,} messages/s without a limit"
    )
    return [
        Row(f"{name}, p50", f"{result['p50']:.1f} ms", "<= 15 ms", result["p50"] <= 15),
        Row(f"{name}, p99", f"{result['p99']:.1f} ms", "<= 100 ms", result["p99"] <= 100),
    ]


async def throughput(on: Bench, *, sockets: int = 100, messages: int = 5000) -> list[Row]:
    """Deliveries per second of one transaction's messages to many sockets."""
    members = await join_many(on.port, SECRET_KEY, "bench:flood", sockets)
    before, began = on.cpu_seconds(), time.monotonic()
    async with await psycopg.AsyncConnection.connect(on.database_url, autocommit=True) as sql:
        await sql.execute(_FLOOD, ["bench:flood", messages])
        await all_received(members, messages)
    wall, cpu = time.monotonic() - began, on.cpu_seconds() - before
    for member in members:
        member.close()
    rate, per_core = sockets * messages / wall, sockets * messages / cpu
    return [
        Row(f"delivered over {sockets} sockets", f"{rate:,.0f} /s", ">= 10,000 /s", rate >= 10_000),
        Row("the same per second of server CPU", f"{per_core:,.0f} /s", "", True),
    ]


async def memory(
    on: Bench, *, sockets: int = 2, rounds: int = 72, messages: int = 20_000
) -> list[Row]:
    """Growth after warm-up, as a share per hour of 200 events a second, joins included."""
    sizes: list[int] = []
    async with await psycopg.AsyncConnection.connect(on.database_url, autocommit=True) as sql:
        for _ in range(rounds):
            members = await join_many(on.port, SECRET_KEY, "bench:memory", sockets)
            await sql.execute(_FLOOD, ["bench:memory", messages])
            await all_received(members, messages)
            for member in members:
                member.close()
            await asyncio.sleep(0.2)
            sizes.append(on.memory())
    # half of it is warm-up; medians over half an hour's events each, because the allocator takes
    # a quarter of a megabyte now and then, which extrapolated from minutes looks like a leak
    half, quarter = rounds // 2, rounds // 4
    warm = statistics.median(sizes[half : half + quarter])
    end = statistics.median(sizes[-quarter:])
    per_hour = 100 * (end - warm) / warm / (quarter * messages / (200 * 3600))
    megabytes = sizes[-1] / 1e6
    text = f"{per_hour:+.2f} %/h ({megabytes:.0f} MB)"
    return [Row("memory growth after warm-up, 200 events/s", text, "< 1 %/h", per_hour < 1)]


async def sse(_: Bench, *, streams: int = 50) -> list[Row]:
    """Server-sent events of one job over many streams, from a stack of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-") as folder,
        stack(Path(folder), plan="peak") as env,
    ):
        rate, count = await server_sent_events(env, streams=streams)
    name = f"server-sent events, {streams} streams, {count:,} in all"
    return [Row(name, f"{rate:,.0f} /s", ">= 5,000 /s", rate >= 5000)]


async def visible(_: Bench, *, clicks: int = 60, cold_clicks: int = 12) -> list[Row]:
    """From the click to a subscriber's callback, on Pro's limits."""
    rows: list[Row] = []

    async def measure(name: str, env: Mapping[str, str], **options: Any) -> None:
        seen = await click_to_visible(env, **options)
        rows.append(Row(f"click to visible on Pro, p50/p95/p99, {name}", str(seen), "", True))

    for kind, arguments in (("one process", ()), ("Lambda", ("--lambda",))):
        with (
            tempfile.TemporaryDirectory(prefix="minutehand-") as folder,
            stack(Path(folder), *arguments) as env,
        ):
            await measure(f"{kind}, warm, 1 watcher", env, watchers=1, clicks=clicks, pause=0.05)
            # a job is 101 messages here
            await measure(
                f"{kind}, warm, 100 watchers", env, watchers=100, clicks=clicks // 3, pause=0.5
            )
            if arguments:
                cold = {"clicks": cold_clicks, "pause": 0.5, "cold": True, "skip": 1}
                await measure(f"{kind}, cold, 1 watcher", env, watchers=1, **cold)
                await measure(f"{kind}, cold, 100 watchers", env, watchers=100, **cold)
    return rows


MEASUREMENTS: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "idle": idle,
    "latency": latency,
    "throughput": throughput,
    "memory": memory,
    "sse": sse,
    "visible": visible,
}


async def run(on: Bench, names: Sequence[str]) -> list[Row]:
    """The rows of the chosen measurements."""
    return [row for name in names for row in await MEASUREMENTS[name](on)]


def main() -> int:
    """Measure and print; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.live", description=__doc__)
    parser.add_argument("what", choices=(*MEASUREMENTS, "all"), nargs="?", default="all")
    chosen = parser.parse_args().what
    names = tuple(MEASUREMENTS) if chosen == "all" else (chosen,)
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-live-") as folder,
        bench(Path(folder)) as on,
    ):
        rows = uvloop.run(run(on, names))
    width = max(len(row.name) for row in rows)
    for row in rows:
        verdict = "" if not row.target else "ok" if row.met else "MISSED"
        print(f"{row.name:<{width}}  {row.measured:>22}  {row.target:>13}  {verdict}")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
