"""From a click to what others see: `POST /api/jobs` sent, until a subscriber's callback.

Over a whole stack on the Pro plan's limits: the API, the database, its trigger, Realtime, and
official JavaScript clients that follow the workspace as a signed-in user. With Lambda's runtime
the function that takes the job is warm, or is made cold before each click.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import psycopg
from psycopg.types.json import Jsonb

from infra.bench.streams import sign_in
from minutehand.local.users import ADA
from minutehand.node import node_binary

JOB_TYPE = "visible"


@dataclass(frozen=True)
class Visible:
    """Milliseconds from the click to each callback."""

    delays: Sequence[float]

    def at(self, share: float) -> float:
        """The delay that `share` of all stay within."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def __str__(self) -> str:
        return " / ".join(f"{self.at(share):.0f}" for share in (0.5, 0.95, 0.99)) + " ms"


async def click_to_visible(
    env: Mapping[str, str],
    *,
    watchers: int,
    clicks: int,
    pause: float,
    cold: bool = False,
    skip: int = 3,
) -> Visible:
    """Enqueue one job after the other and wait until every watcher has it.

    Args:
        pause: Seconds between a job that all watchers have seen and the next click: 100 watchers
        make each
            job 101 messages of the plan.
        cold: End the function's environments before each click.
        skip: First clicks that are not counted: they measure the compilers.
    """
    token = await sign_in(env)
    workspace = str(uuid4())
    async with await psycopg.AsyncConnection.connect(env["DATABASE_URL"], autocommit=True) as sql:
        await sql.execute("insert into public.workspaces (id, name) values (%s, 'V')", [workspace])
        await sql.execute(
            "insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%s, %s, 'manager')",
            [workspace, str(ADA.id)],
        )
        types = Jsonb([{"job_type": JOB_TYPE}])
        await sql.execute("select public.register_job_types(%s)", [types])
    delays: list[float] = []
    async with (
        httpx.AsyncClient(base_url=env["API_URL"], trust_env=False, timeout=60) as http,
        _watching(env, token, workspace, watchers) as seen,
    ):
        headers = {"Authorization": f"Bearer {token}"}
        body = {"workspace_id": workspace, "job_type": JOB_TYPE, "payload": {}}
        for n in range(clicks + skip):
            if cold:
                await _end_environments(env)
            clicked = time.time() * 1000
            answer = await http.post("/api/jobs", headers=headers, json=body)
            answer.raise_for_status()
            async with asyncio.timeout(30):
                at = await seen(answer.json()["id"])
            if n >= skip:
                delays += [each - clicked for each in at]
            await asyncio.sleep(pause)
    return Visible(delays)


@contextlib.asynccontextmanager
async def _watching(
    env: Mapping[str, str], token: str, workspace: str, count: int
) -> AsyncIterator[Any]:
    options = {
        "url": env["SUPABASE_URL"],
        "key": env["SUPABASE_PUBLISHABLE_KEY"],
        "token": token,
        "topic": f"workspace:{workspace}",
        "count": count,
    }
    script = str(Path(__file__).with_name("visible_clients.mjs"))
    process = await asyncio.create_subprocess_exec(
        str(node_binary()), script, json.dumps(options), stdout=asyncio.subprocess.PIPE, limit=2**20
    )
    stdout = process.stdout
    assert stdout is not None
    try:
        assert json.loads(await stdout.readline())["ready"] == count

        async def seen(job_id: str) -> list[float]:
            while True:
                told = json.loads(await stdout.readline())
                if told["job"] == job_id:
                    return list(told["at"])

        yield seen
    finally:
        process.kill()
        await process.wait()


async def _end_environments(env: Mapping[str, str]) -> None:
    """End the frozen environments of the function that takes jobs, which Lambda may do any time."""
    launcher = psutil.Process(int((Path(env["STATE"]) / "ready").read_text()))
    ended = []
    for process in launcher.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("AWS_LAMBDA_FUNCTION_NAME", "").endswith("jobs"):
                process.kill()
                ended.append(process)
    await asyncio.to_thread(psutil.wait_procs, ended, 5)
    await asyncio.sleep(0.3)  # until the runtime has noticed
