"""Proves a project with one throw-away job, which every live topic must tell of.

What a step costs and what it fails of are reported in a person's words; what it leaves is removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final
from uuid import uuid4

import httpx
import psycopg

from minutehand.cli.doctor.findings import Finding, Target, check, ok, skip
from minutehand.client.access import Access
from minutehand.client.client import Client
from minutehand.client.topic import Topic
from minutehand.config import ConfigurationError, Settings
from minutehand.install.rewrite import rewrite
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.realtime import READY_SECONDS
from minutehand.tasks import end_tasks
from minutehand.terminal.connection import CommandFailed
from supabase import AsyncClient, AsyncClientOptions

#: One name for every run, so that a project holds one such type at most.
TYPE: Final = "minutehand.doctor"
SPEC: Final = {"job_type": TYPE, "lease_seconds": 60, "timeout_seconds": 30, "max_attempts": 1}
JOIN_SECONDS: Final = 15.0
MESSAGE_SECONDS: Final = 10.0
LEASE_CALLS: Final = 20
LEASE_PAUSE_SECONDS: Final = 0.2
LOGS: Final = "see the project's Realtime logs, and its status page"
#: A word of what Realtime says → what to do about it.
REFUSALS: Final = (
    ("Unauthorized", "in the SQL editor, as the owner: select attach_extensions()"),
    ("MissingPartition", "restart the project: Realtime makes its partitions when it connects"),
    ("IncreaseConnectionPool", "Realtime → Settings: raise the database connection pool size"),
    ("RateLimit", "wait a minute, or raise the plan's limit under Realtime → Settings"),
    ("replication", "end the open transactions that pg_stat_activity lists with a backend_xid"),
)
LEFT = "delete from public.jobs where id = %s"
LEFT_TYPE = """
  delete from queue.job_types as t where t.job_type = %s
  and not exists (select from public.jobs as j where j.job_type = t.job_type)
"""


@check(
    "proof",
    needs=("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY"),
    after=("migrations", "worker-key"),
    staged=True,
    as_worker=True,
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
    address = target.values["SUPABASE_URL"].rstrip("/")
    key, schema = target.values["SUPABASE_PUBLISHABLE_KEY"], target.schemas.clients
    me = {"worker_id": "doctor", "tick_id": str(uuid4())}
    session, job = f"doctor-{uuid4().hex[:12]}", None
    try:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=JOIN_SECONDS))
            supabase = AsyncClient(address, key, AsyncClientOptions(httpx_client=http))
            with _step(took, "registered", target.migrate):
                worker = WorkerFunctions(Settings.from_env(target.values))
                stack.push_async_callback(worker.aclose)
                await worker.call("register_job_types", {"p_types": [SPEC]})
            with _step(took, "enqueued", "the workspace's limits say what it may enqueue"):
                client = await stack.enter_async_context(
                    Client(supabase, schema=schema, token=token)
                )
                made = await client.enqueue(TYPE, {}, workspace_id=workspace, session_id=session)
                job = str(made.job.id)
            access = Access(supabase, schema=schema, token=token)
            stack.push_async_callback(access.aclose)
            topics = {
                kind: Heard(access, f"{kind}:{of}", job)
                for kind, of in (("job", job), ("workspace", workspace), ("session", session))
            }
            tasks = [asyncio.create_task(each.topic.run()) for each in topics.values()]
            stack.push_async_callback(end_tasks, tasks)
            for event, seconds in (("joined", JOIN_SECONDS), ("replication", READY_SECONDS)):
                with _step(took, event, _fix_of(event)):
                    for heard in topics.values():
                        await heard.wait(event, seconds)
            with _step(took, "leased", f"minutehand explain {job}"):
                fence = await _lease(worker, {**me, "limit": 1, "job_types": [TYPE]}, job)
            with _step(took, "settled", "minutehand doctor --only schedule"):
                item = {"job_id": job, "fence": fence, "outcome": "completed"}
                await worker.call("settle_jobs", {"p_request": {**me, "items": [item]}})
            for kind, heard in topics.items():
                with _step(took, f"message on {kind}", LOGS):
                    await heard.wait("message", MESSAGE_SECONDS)
    finally:
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
    """Delete the job, live or not, as the database's owner; else let it not run."""
    if url := target.values.get("DATABASE_URL"):
        with psycopg.connect(url, connect_timeout=int(JOIN_SECONDS)) as owner:
            for sql, value in ((LEFT, job), (LEFT_TYPE, TYPE)):
                owner.execute(rewrite(sql, target.schemas).encode(), [value])
    elif job is not None and not settled:
        target.person.rpc("cancel_job", {"p_job_id": job})


def _fix_of(reason: str) -> str:
    """What to do about what Realtime says."""
    fixes = [fix for word, fix in REFUSALS if word.lower() in reason.lower()]
    return fixes[0] if fixes else LOGS


class Heard:
    """A topic, and what was heard of it: that it was joined, is replicated, told of the job."""

    def __init__(self, access: Access, name: str, job_id: str) -> None:
        loop = asyncio.get_running_loop()
        self._heard = {it: loop.create_future() for it in ("joined", "replication", "message")}

        def message(event: Any) -> None:
            if event.get("job_id") == job_id:
                self._set("message")

        self.topic = Topic(
            access,
            name,
            timeout=JOIN_SECONDS,
            joined=lambda _: self._set("joined"),
            ready=lambda: self._set("replication"),
            lost=lambda reason: self._set(*self._heard, reason=f"{name}: {reason}"),
            message=message,
        )

    async def wait(self, event: str, seconds: float) -> None:
        """Return once it was heard; raise what Realtime says where it refuses or ends the topic."""
        async with asyncio.timeout(seconds):
            if reason := await asyncio.shield(self._heard[event]):
                said = f"Realtime does not serve {reason}"
                raise CommandFailed(said, code="proof_failed", fix=_fix_of(reason))

    def _set(self, *events: str, reason: str = "") -> None:
        for heard in (self._heard[event] for event in events):
            if not heard.done():
                heard.set_result(reason)
