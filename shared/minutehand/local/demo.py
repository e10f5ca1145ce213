"""Enqueues the demo jobs as a signed-in user, and prints how each job ends.

The module `demo` of an app has `async def enqueue(api, data, workspace_id) -> list[str]`, which
returns the ids of the jobs that it enqueues. `api` is an HTTP client of Minutehand's API, and
`data` is an HTTP client of Supabase's Data API. Both HTTP clients send the user's access token.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import httpx

from minutehand.app import find_apps
from minutehand.queue.data_api import profile_headers
from minutehand.queue.models import ENDED
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.output import COLOURS
from supabase_local.logs import Say

MAX_WAIT_SECONDS = 180.0


async def show(values: Mapping[str, str], echo: Say, *, started: float) -> bool:
    """Run the demo jobs of each app. Return whether all demo jobs completed."""
    apps = find_apps(values["MINUTEHAND_APPS"].split(","))
    modules = {app.name: module for app in apps if (module := app.module("demo")) is not None}
    if not modules:
        return True
    async with (
        httpx.AsyncClient(base_url=values["API_URL"], timeout=15) as api,
        httpx.AsyncClient(
            base_url=values["SUPABASE_URL"],
            timeout=15,
            headers=profile_headers(values.get("MINUTEHAND_SCHEMA") or "public"),
        ) as data,
    ):
        token = await asyncio.to_thread(
            Connection(values).sign_in, values["DEMO_EMAIL"], values["DEMO_PASSWORD"]
        )
        for client in (api, data):
            client.headers["Authorization"] = f"Bearer {token}"
        data.headers["apikey"] = values["SUPABASE_PUBLISHABLE_KEY"]
        ids: list[str] = []
        for name, module in modules.items():
            job_ids = await module.enqueue(api, data, values["DEMO_WORKSPACE_ID"])
            echo(f"demo: {len(job_ids)} {'job' if len(job_ids) == 1 else 'jobs'} of {name}")
            ids += job_ids
        return await follow(data, ids, echo, started=started)


def has_completed(job: Mapping[str, Any]) -> bool:
    """Return whether a job completed and its result is neither partial nor failed."""
    result = job.get("result")
    outcome = result.get("outcome") if isinstance(result, dict) else None
    return job["status"] == "completed" and outcome not in {"partial", "failed"}


async def follow(data: httpx.AsyncClient, ids: list[str], echo: Say, *, started: float) -> bool:
    """Print how each job ends, until all jobs have ended. Return whether all jobs completed."""
    ended: set[str] = set()
    # time at which the command started, in seconds since 1970
    command_start = time.time() - (time.monotonic() - started)
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while True:
        jobs = await read_jobs(data, ids)
        for job in jobs:
            if job["status"] in ENDED and job["id"] not in ended:
                if not ended:
                    seconds = datetime.fromisoformat(job["finished_at"]).timestamp() - command_start
                    echo(f"the first job ended {seconds:.1f} s after the start of the command")
                ended.add(job["id"])
                echo(f"{job['job_type']}: [{COLOURS[job['status']]}]{job['status']}[/]")
        if len(ended) == len(ids):
            return all(has_completed(job) for job in jobs)
        if time.monotonic() > deadline:
            echo(f"[red]not every job ended within {MAX_WAIT_SECONDS:.0f} s[/]")
            return False
        await asyncio.sleep(0.2)


async def read_jobs(data: httpx.AsyncClient, ids: list[str]) -> list[dict[str, Any]]:
    """Read jobs with the user's rights. Return an empty list while the database is unavailable."""
    columns = "id,job_type,status,finished_at,result"
    try:
        response = await data.get(f"/rest/v1/jobs?id=in.({','.join(ids)})&select={columns}")
    except httpx.TransportError:
        return []
    if response.status_code >= 500:
        return []
    if response.status_code != 200:
        raise CommandFailed(f"the demo jobs cannot be read: {response.text}")
    jobs: list[dict[str, Any]] = response.json()
    return jobs
