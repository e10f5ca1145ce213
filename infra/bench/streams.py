"""How many server-sent events the API delivers, over the whole stack as a developer runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg
from psycopg.types.json import Jsonb

from infra.bench.paths import ROOT
from minutehand.local.processes import spawn, stop
from minutehand.local.users import ACME, ADA
from minutehand.terminal.connection import read_env_file

_LOGS_PER_REPORT = 50


@contextlib.contextmanager
def stack(
    folder: Path, *arguments: str, plan: str = "pro", seconds: float = 120
) -> Iterator[Mapping[str, str]]:
    """A stack of its own for the length of the block; its env file, and its folder as STATE.

    Args:
        arguments: Further options of `python -m minutehand.local up`.
        plan: Whose limits its Realtime has; `peak` has none.
    """
    base = [sys.executable, "-m", "minutehand.local"]
    where = ["--state", str(folder)]
    with (folder / "launcher.out").open("wb") as output:
        launcher = spawn(
            [*base, "up", "--any-ports", "--no-demo", "--with-parent", *where, *arguments],
            cwd=ROOT,
            env={**os.environ, "REALTIME_PLAN": plan},
            output=output.fileno(),
        )
        try:
            give_up = time.monotonic() + seconds
            while not (folder / "ready").exists():
                if launcher.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError((folder / "launcher.out").read_text()[-2000:])
                time.sleep(0.1)
            yield {**read_env_file(folder / "env"), "STATE": str(folder)}
        finally:
            stop(launcher, seconds=30)
            subprocess.run([*base, "reset", *where], cwd=ROOT, check=True, capture_output=True)


class Stream:
    """One reader of a job's events that only counts them."""

    def __init__(self) -> None:
        self.events = 0

    async def run(self, url: str, token: str) -> None:
        """Read until cancelled."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        tail = b""
        try:
            while data := await reader.read(262_144):
                seen = tail + data
                self.events += seen.count(b"\nid:") + seen.startswith(b"id:")
                tail = seen[-3:]
        finally:
            writer.close()


async def server_sent_events(
    env: Mapping[str, str], *, streams: int = 50, reports: int = 40
) -> tuple[float, int]:
    """Events per second over all streams, and how many there were."""
    token = await sign_in(env)
    async with await psycopg.AsyncConnection.connect(env["DATABASE_URL"], autocommit=True) as sql:
        job_id, lease = await _running_job(sql)
        readers = [Stream() for _ in range(streams)]
        url = f"{env['API_URL']}/api/jobs/{job_id}/events"
        tasks = [asyncio.create_task(reader.run(url, token)) for reader in readers]
        try:
            before = await _settle(sql, job_id, readers)
            began = time.monotonic()
            for _ in range(reports):
                await _report(sql, lease)
            count = reports * _LOGS_PER_REPORT
            await _until(readers, before + count)
            return streams * count / (time.monotonic() - began), streams * count
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def sign_in(env: Mapping[str, str]) -> str:
    """Return Ada's access token."""
    async with httpx.AsyncClient(base_url=env["SUPABASE_URL"], trust_env=False) as client:
        answer = await client.post(
            "/auth/v1/token?grant_type=password",
            headers={"apikey": env["SUPABASE_PUBLISHABLE_KEY"]},
            json={"email": ADA.email, "password": env["DEMO_PASSWORD"]},
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])


async def _call(sql: psycopg.AsyncConnection[Any], function: str, argument: Any) -> Any:
    cursor = await sql.execute(f"select public.{function}(%s)".encode(), [Jsonb(argument)])
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def _running_job(sql: psycopg.AsyncConnection[Any]) -> tuple[str, dict[str, Any]]:
    job_type = f"bench_{uuid4().hex[:8]}"
    await _call(sql, "register_job_types", [{"job_type": job_type}])
    await sql.execute(
        "insert into public.jobs (workspace_id, user_id, job_type, payload, status)"
        " values (%s, %s, %s, '{}', 'pending')",
        [str(ACME), str(ADA.id), job_type],
    )
    request = {
        "worker_id": "bench",
        "tick_id": str(uuid4()),
        "call": 1,
        "limit": 1,
        "job_types": [job_type],
        "lease_seconds": 600,
    }
    [lease] = (await _call(sql, "lease_jobs", request))["leases"]
    job_id = lease["job"]["id"]
    return job_id, {"job_id": job_id, "fence": lease["fence"], "tick_id": request["tick_id"]}


async def _report(sql: psycopg.AsyncConnection[Any], lease: dict[str, Any]) -> None:
    logs = [{"level": "info", "message": "a line of the log"}] * _LOGS_PER_REPORT
    item = {"job_id": lease["job_id"], "fence": lease["fence"], "logs": logs}
    request = {"worker_id": "bench", "tick_id": lease["tick_id"], "items": [item]}
    await _call(sql, "report_jobs", request)


async def _settle(sql: psycopg.AsyncConnection[Any], job_id: str, readers: list[Stream]) -> int:
    """Wait until every reader has what there is; how much that is."""
    cursor = await sql.execute("select count(*) from public.job_events where job_id = %s", [job_id])
    row = await cursor.fetchone()
    assert row is not None
    await _until(readers, int(row[0]))
    await asyncio.sleep(1)
    return int(row[0])


async def _until(readers: list[Stream], count: int, seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        for reader in readers:
            while reader.events < count:  # noqa: ASYNC110 - an event per line would be the load
                await asyncio.sleep(0.005)
