"""Proves a project with one throw-away job, which every live topic must tell of.

What a step costs and what it fails of are reported in a person's words; what it leaves is removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

import httpx
import psycopg

from minutehand.cli.doctor.findings import Checks, Finding, Target, ok, skip
from minutehand.cli.supabase_cli import how_to_migrate
from minutehand.client.access import Access
from minutehand.client.client import Client
from minutehand.client.topic import Topic
from minutehand.config import ConfigurationError, Settings
from minutehand.install.rewrite import rewrite
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.keys import secret_headers
from minutehand.queue.realtime import READY_SECONDS
from minutehand.tasks import end_tasks
from minutehand.terminal.connection import CommandFailed
from supabase import AsyncClient, AsyncClientOptions

CHECKS = Checks()
#: One name for every run, so that a project holds one such type at most.
TYPE: Final = "minutehand.doctor"
JOIN_SECONDS: Final = 15.0
MESSAGE_SECONDS: Final = 10.0
LEASE_CALLS: Final = 20
LEASE_PAUSE_SECONDS: Final = 0.2
SPEC: Final = {"job_type": TYPE, "lease_seconds": 60, "timeout_seconds": 30, "max_attempts": 1}
POLICIES = "as the database's owner run the policies of the last migration in the SQL editor"
#: A word of what Realtime says → what to do about it.
REFUSALS: Final = (
    ("Unauthorized", POLICIES),
    ("MissingPartition", "restart the project: Realtime makes its partitions when it connects"),
    ("IncreaseConnectionPool", "Realtime → Settings: raise the database connection pool size"),
    ("RateLimit", "wait a minute, or raise the plan's limit under Realtime → Settings"),
    (
        "Replication",
        "end the open transactions that pg_stat_activity lists with a backend_xid, and see "
        "pg_replication_slots for a free slot",
    ),
)
LEFT = "delete from public.jobs where id = %s"
LEFT_TYPE = """
  delete from queue.job_types as t where t.job_type = %s
  and not exists (select from public.jobs as j where j.job_type = t.job_type)
"""


@CHECKS.add(
    "proof",
    needs=("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY"),
    after=("migrations", "worker-key"),
    deployed=True,
    held_by_aws=True,
)
def proof(target: Target) -> Finding:
    """A job goes all the way, and each kind of topic tells of it."""
    try:
        person = target.person.token, target.person.workspace
    except CommandFailed as failed:
        if failed.code == "not_signed_in":
            return skip("no MINUTEHAND_EMAIL and MINUTEHAND_PASSWORD to enqueue as")
        raise
    took: dict[str, float] = {}
    asyncio.run(_prove(target, *person, took))
    return ok(", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in took.items()))


async def _prove(target: Target, token: str, workspace: str, took: dict[str, float]) -> None:
    """Run the steps, with seconds by step into `took`; what they made is removed."""
    values, schema = target.values, target.schemas.clients
    migrate = how_to_migrate(values["SUPABASE_URL"], target.stage)
    me = {"worker_id": "doctor", "tick_id": str(uuid4())}
    session, job = f"doctor-{uuid4().hex[:12]}", None
    with _step(took, "registered", migrate):
        worker = WorkerFunctions(Settings.from_env(values))
    try:
        async with httpx.AsyncClient(timeout=JOIN_SECONDS) as http:
            address, key = values["SUPABASE_URL"].rstrip("/"), values["SUPABASE_PUBLISHABLE_KEY"]
            supabase = AsyncClient(address, key, AsyncClientOptions(httpx_client=http))
            with _step(took, "registered", migrate):
                await worker.call("register_job_types", {"p_types": [SPEC]})
            with _step(took, "enqueued", "Limits of the workspace say what it may enqueue"):
                async with Client(supabase, schema=schema, token=token) as client:
                    made = await client.enqueue(
                        TYPE, {}, workspace_id=workspace, session_id=session
                    )
                job = str(made.job.id)
            access = Access(supabase, schema=schema, token=token)
            subjects = {"job": job, "workspace": workspace, "session": session}
            topics = [Listener(access, kind, f"{kind}:{of}", job) for kind, of in subjects.items()]
            tasks = [asyncio.create_task(each.topic.run()) for each in topics]
            try:
                for name, event, most in (
                    ("joined", "joined", JOIN_SECONDS),
                    ("replication", "ready", READY_SECONDS),
                ):
                    with _step(took, name, fix_of(name)):
                        for each in topics:
                            await each.wait(event, most)
                with _step(took, "leased", f"minutehand explain {job}"):
                    fence = await _lease(worker, {**me, "limit": 1, "job_types": [TYPE]}, job)
                with _step(took, "settled", "minutehand doctor --only schedule"):
                    item = {"job_id": job, "fence": fence, "outcome": "completed"}
                    await worker.call("settle_jobs", {"p_request": {**me, "items": [item]}})
                for each in topics:
                    with _step(took, f"message on {each.kind}", "see the project's Realtime logs"):
                        await each.wait("message", MESSAGE_SECONDS)
            finally:
                await end_tasks(tasks)
                await access.aclose()
                await asyncio.sleep(0.1)  # a socket is closed in the loop's next rounds
    finally:
        await worker.aclose()
        _clean_up(target, job, settled="settled" in took)


async def _lease(worker: WorkerFunctions, request: dict[str, Any], job: str) -> int:
    # what another worker looks at in this moment is passed over: ask again
    for call in range(1, LEASE_CALLS + 1):
        answer = await worker.call("lease_jobs", {"p_request": {**request, "call": call}})
        for lease in answer["leases"]:
            if lease["job"]["id"] == job:
                return int(lease["fence"])
        await asyncio.sleep(LEASE_PAUSE_SECONDS)
    raise QueueError("the job is due, and no lease was given")


@contextmanager
def _step(took: dict[str, float], name: str, fix: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except (QueueError, ConfigurationError, TimeoutError) as error:
        cause = str(error) or "no answer in time"
        raise CommandFailed(f"not {name}: {cause}", code="proof_failed", fix=fix) from error
    took[name] = time.monotonic() - began


def _clean_up(target: Target, job: str | None, *, settled: bool) -> None:
    """Delete the job, live or not, if the values give the right to; else let it not run."""
    url, secret = target.values.get("DATABASE_URL"), target.values.get("SUPABASE_SECRET_KEY")
    if url:
        with psycopg.connect(url, connect_timeout=int(JOIN_SECONDS)) as owner:
            for sql, value in ((LEFT, job), (LEFT_TYPE, TYPE)):
                owner.execute(rewrite(sql, target.schemas).encode(), [value])
    elif secret and job is not None:
        headers = {**secret_headers(secret), "content-profile": target.schemas.clients}
        address = f"{target.values['SUPABASE_URL'].rstrip('/')}/rest/v1/jobs?id=eq.{job}"
        httpx.delete(address, headers=headers, timeout=JOIN_SECONDS).raise_for_status()
    elif job is not None and not settled:
        target.person.rpc("cancel_job", {"p_job_id": job})


def fix_of(reason: str) -> str:
    """What to do about what Realtime says."""
    fixes = [fix for word, fix in REFUSALS if word.lower() in reason.lower()]
    return fixes[0] if fixes else "see the project's Realtime logs, and its status page"


class Listener:
    """One topic, and when it was joined, became ready and brought the job's first message."""

    def __init__(self, access: Access, kind: str, name: str, job_id: str | None) -> None:
        self.kind = kind
        self._job_id = job_id
        loop = asyncio.get_running_loop()
        self._events: dict[str, asyncio.Future[None]] = {
            event: loop.create_future() for event in ("joined", "ready", "message")
        }
        self.topic = Topic(
            access,
            name,
            timeout=JOIN_SECONDS,
            joined=lambda _: self._set("joined"),
            ready=lambda: self._set("ready"),
            lost=self._lost,
            message=self._heard,
        )

    async def wait(self, event: str, seconds: float) -> None:
        """Return once it has happened.

        Raises:
            TimeoutError: It has not.
            CommandFailed: Realtime refused the topic, or ended it.
        """
        async with asyncio.timeout(seconds):
            await asyncio.shield(self._events[event])

    def _set(self, event: str) -> None:
        if not self._events[event].done():
            self._events[event].set_result(None)

    def _lost(self, reason: str) -> None:
        fix = fix_of(reason)
        said = f"Realtime does not serve the {self.kind}'s topic: {reason}"
        for event in self._events.values():
            if not event.done():
                event.set_exception(CommandFailed(said, code="proof_failed", fix=fix))
                event.exception()  # raised where it is waited for; elsewhere it may stay unseen

    def _heard(self, message: Any) -> None:
        if isinstance(message, dict) and self._job_id in {
            message.get("job_id"), *(message.get("job_ids") or ())
        }:  # fmt: skip
            self._set("message")
