"""Proves a project with one throw-away job, which every live topic must announce.

What a step costs and what it fails of are reported in a person's words; what it leaves is removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final
from uuid import uuid4

import psycopg

from minutehand.cli.doctor.findings import Finding, Target, check, ok
from minutehand.client.access import Access
from minutehand.client.topic import Topic
from minutehand.config import Settings
from minutehand.install.rewrite import rewrite
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.realtime import READY_SECONDS
from minutehand.tasks import end_tasks
from minutehand.terminal.connection import CommandFailed
from supabase import AsyncClient

#: One name for every run, so that a project holds one such type at most.
TYPE: Final = "minutehand.doctor"
SPEC: Final = {"job_type": TYPE, "lease_seconds": 60, "timeout_seconds": 30, "max_attempts": 1}
TIMEOUT_SECONDS: Final = 15.0
ATTACH: Final = "in the SQL editor: select {}.attach_extensions(); else see the Realtime logs"
LEFT: Final = "delete from public.jobs where id = %s"
LEFT_TYPE: Final = """
  delete from queue.job_types as t where t.job_type = %s
  and not exists (select from public.jobs as j where j.job_type = t.job_type)
"""


@check("proof", "migrations", "worker-key", staged=True)
def proof(target: Target) -> Finding:
    """A job goes all the way, and each kind of topic announces it."""
    duration: dict[str, float] = {}
    asyncio.run(_prove(target, target.person.token, target.person.workspace, duration))
    return ok(", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in duration.items()))


async def _prove(target: Target, token: str, workspace: str, duration: dict[str, float]) -> None:
    """Run the steps, with seconds by step into `duration`; what they made is removed."""
    me = {"worker_id": "doctor", "tick_id": str(uuid4())}
    session, job = f"doctor-{uuid4().hex[:12]}", None
    need = target.person.need
    supabase = AsyncClient(need("SUPABASE_URL").rstrip("/"), need("SUPABASE_PUBLISHABLE_KEY"))
    try:
        async with AsyncExitStack() as stack:
            access = Access(supabase, schema=target.schemas.clients, token=token)
            stack.push_async_callback(access.api.aclose)
            worker = WorkerFunctions(Settings.from_env(target.values))
            stack.push_async_callback(worker.aclose)
            with _step(duration, "registered", target.migrate):
                await worker.call("register_job_types", {"p_types": [SPEC]})
            with _step(duration, "enqueued", "the workspace's limits say what it may enqueue"):
                made = await access.reader.enqueue(
                    TYPE, {}, workspace_id=workspace, session_id=session
                )
                job = str(made.job.id)
            topics = {
                kind: Received(access, f"{kind}:{of}", job)
                for kind, of in (("job", job), ("workspace", workspace), ("session", session))
            }
            tasks = [asyncio.create_task(each.topic.run()) for each in topics.values()]
            stack.push_async_callback(end_tasks, tasks)
            with _step(duration, "joined", ATTACH.format(target.schemas.clients)):
                for received in topics.values():
                    await received.wait(received.joined, READY_SECONDS)
            with _step(duration, "leased", f"minutehand explain {job}"):
                fence = await _lease(worker, {**me, "limit": 1, "job_types": [TYPE]}, job)
            with _step(duration, "settled", "minutehand doctor --only schedule"):
                item = {"job_id": job, "fence": fence, "outcome": "completed"}
                await worker.call("settle_jobs", {"p_request": {**me, "items": [item]}})
            for kind, received in topics.items():
                with _step(duration, f"message on {kind}", "see the project's Realtime logs"):
                    await received.wait(received.message, TIMEOUT_SECONDS)
    finally:
        _clean_up(target, job, settled="settled" in duration)


async def _lease(worker: WorkerFunctions, request: dict[str, Any], job: str) -> int:
    # what another worker looks at in this moment is passed over: ask again
    for call in range(1, 21):
        answer = await worker.call("lease_jobs", {"p_request": {**request, "call": call}})
        for lease in answer["leases"]:
            if lease["job"]["id"] == job:
                return int(lease["fence"])
        await asyncio.sleep(0.2)
    raise QueueError("the job is due, and no lease was given")


@contextmanager
def _step(duration: dict[str, float], name: str, fix: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except (QueueError, TimeoutError) as error:
        cause = str(error) or "no answer in time"
        raise CommandFailed(f"not {name}: {cause}", fix=fix) from error
    duration[name] = time.monotonic() - began


def _clean_up(target: Target, job: str | None, *, settled: bool) -> None:
    """Delete the job, live or not, as the database's owner; else let it not run."""
    if url := target.values.get("DATABASE_URL"):
        with psycopg.connect(url, connect_timeout=int(TIMEOUT_SECONDS)) as owner:
            for sql, value in ((LEFT, job), (LEFT_TYPE, TYPE)):
                owner.execute(rewrite(sql, target.schemas).encode(), [value])
    elif job is not None and not settled:
        target.person.rpc("cancel_job", {"p_job_id": job})


class Received:
    """A topic, and what arrived of it: that it was joined for good, and of the job."""

    def __init__(self, access: Access, name: str, job_id: str) -> None:
        self.joined, self.message = asyncio.Event(), asyncio.Event()
        self._lost = ""

        def message(event: Any) -> None:
            if event.get("job_id") == job_id:
                self.message.set()

        def lost(reason: str) -> None:
            self._lost = f"Realtime does not serve {name}: {reason}"
            self.joined.set()
            self.message.set()

        self.topic = Topic(
            access,
            name,
            timeout=TIMEOUT_SECONDS,
            joined=lambda _: None,  # what is sent before it is ready is lost
            ready=self.joined.set,
            lost=lost,
            message=message,
        )

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return once it arrived; raise what Realtime says where it refuses or ends the topic."""
        async with asyncio.timeout(seconds):
            await event.wait()
        if self._lost:
            raise QueueError(self._lost)
