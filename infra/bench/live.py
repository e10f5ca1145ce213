"""`python -m infra.bench.live`: how fast live updates are, beside the figures to beat.

A durable Postgres and a Realtime server of its own without a plan's limit, and official JavaScript
clients: what is idle costs, and how long an insert takes to their callbacks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY
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


@dataclass
class Bench:
    """What is measured."""

    database_url: str
    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """CPU the server has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


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
            [sys.executable, "-m", "minutehand.local.realtime"],
            env={
                "DATABASE_URL": postgres.url(),
                "PORT": str(port),
                "SUPABASE_JWT_SECRET": JWT_SECRET,
                "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
                "SUPABASE_SECRET_KEY": SECRET_KEY,
            },
            output=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        _wait_ready(url)
        yield Bench(postgres.url(), url, psutil.Process(server.pid))
    finally:
        if server is not None:
            stop(server)
        postgres.destroy()


def _wait_ready(url: str, seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/realtime/v1/health", trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise RuntimeError(f"Realtime at {url} did not come up")


async def measure(on: Bench, *, clients: int, per_second: int, seconds: int) -> None:
    """Print what idle members cost, then the time from insert to callback."""
    topic, events = "bench:latency", per_second * seconds
    process = await asyncio.create_subprocess_exec(
        str(node_binary()),
        str(Path(__file__).with_name("live_clients.mjs")),
        *(on.url, SECRET_KEY, topic, str(clients), str(events), str(per_second)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["ready"] == clients
    before = on.cpu_seconds()
    await asyncio.sleep(5)
    idle = 100 * (on.cpu_seconds() - before) / 5
    print(f"idle CPU, {clients} clients: {idle:.1f} % (to beat: 5 %)", flush=True)
    async with await psycopg.AsyncConnection.connect(on.database_url, autocommit=True) as sql:
        began = time.monotonic()
        for n in range(events):
            await sql.execute(_SEND, [n, topic])
            await asyncio.sleep(max(0.0, began + (n + 1) / per_second - time.monotonic()))
    async with asyncio.timeout(60):
        seen = json.loads(await process.stdout.readline())
    await process.wait()
    print(f"insert to callback, {per_second} events/s to {clients} supabase-js clients:")
    print(f"p50 {seen['p50']:.1f} ms (to beat: 15), p99 {seen['p99']:.1f} ms (to beat: 100)")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--per-second", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-live-") as folder,
        bench(Path(folder)) as on,
    ):
        asyncio.run(
            measure(
                on,
                clients=options.clients,
                per_second=options.per_second,
                seconds=options.seconds,
            )
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
