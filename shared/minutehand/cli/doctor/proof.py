"""Proves that a project works by one temporary job, which Realtime must announce on each topic.

The result shows the duration of each step, or the step that failed and the reason. The job is
deleted at the end.
"""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from realtime import AsyncRealtimeClient
from websockets.exceptions import WebSocketException

from minutehand.cli.doctor.results import CheckResult, Target, check, fail, ok
from minutehand.install.rewrite import rewrite
from minutehand.queue.client import QueueClient
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions
from minutehand.terminal.connection import CommandFailed

# The library logs some harmless errors, so the proof reports the errors that matter itself.
logging.getLogger("realtime").setLevel(logging.CRITICAL)

#: Job type of all temporary jobs, so that a project gets at most one such type.
TYPE = "minutehand.doctor"
SPEC = {"job_type": TYPE, "lease_seconds": 60, "timeout_seconds": 30, "max_attempts": 1}
TIMEOUT_SECONDS = 15
#: Realtime sends this message when it receives the database's messages, after a join with
#: `replication_ready`. Realtime accepts the join before it sends the message. Realtime loses the
#: messages of transactions that commit between the join and the message `READY`.
READY = "Replication connection established"
#: Maximum wait for the message READY. Realtime gives up after 60 s. Realtime servers from before
#: 2026 never send the message.
READY_SECONDS = 65.0
PRIVATE: Any = {
    "config": {
        "private": True,
        "broadcast": {"ack": False, "self": False, "replication_ready": True},
        "presence": {"enabled": False, "key": ""},
    }
}
ATTACH = (
    "grant usage on schema realtime to authenticated; grant select, insert on realtime.messages"
    " to authenticated; select {}.attach_extensions()"
    "  -- if this does not help, see the Realtime logs"
)
#: Query of whether a person has the rights that `ATTACH` grants.
ATTACHED = """
    select 1
    where has_schema_privilege('authenticated', 'realtime', 'usage')
      and has_table_privilege('authenticated', 'realtime.messages', 'select')
      and has_table_privilege('authenticated', 'realtime.messages', 'insert')
"""
LEFT = "delete from public.jobs where id = %s"
LEFT_TYPE = """
  delete from queue.job_types as t where t.job_type = %s
  and not exists (select from public.jobs as j where j.job_type = t.job_type)
"""


@check("realtime", "supabase", "engine")
def realtime(target: Target) -> CheckResult:
    """Join the topic of the workspace as a web page does."""
    workspace = target.person.workspace

    async def join() -> None:
        socket = _connect(target)
        try:
            topic = Topic(socket, f"workspace:{workspace}", "")
            await topic.join()
            await topic.wait(topic.joined, READY_SECONDS)
        finally:
            await socket.close()

    try:
        with _step({}, "joined", _join_fix(target)):
            asyncio.run(join())
    except CommandFailed:
        # an invalid token fails here with a better reason
        own = [row["id"] for row in target.person.rpc("list_workspaces", {})["workspaces"]]
        if not own or workspace in own:
            raise
        problem = f"the account is not a member of the workspace {workspace}"
        return fail(problem, f"MINUTEHAND_WORKSPACE_ID={own[0]}")
    return ok()


def _join_fix(target: Target) -> str:
    if target.values.get("DATABASE_URL") and target.query(ATTACHED):
        return target.restart("SUPABASE_URL", is_silent=True)
    return ATTACH.format(target.schemas.clients)


def _connect(target: Target) -> AsyncRealtimeClient:
    need = target.person.need
    socket = AsyncRealtimeClient(
        f"{need('SUPABASE_URL').rstrip('/')}/realtime/v1",
        need("SUPABASE_PUBLISHABLE_KEY"),
        auto_reconnect=False,
        timeout=TIMEOUT_SECONDS,
    )
    socket.access_token = target.person.token
    return socket


@check("proof", "migrations", "worker-key", staged=True)
def proof(target: Target) -> CheckResult:
    """Run a job from enqueue to settlement, and check that Realtime announces it on each topic."""
    duration: dict[str, float] = {}
    asyncio.run(_prove(target, target.person.workspace, duration))
    return ok(", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in duration.items()))


async def _prove(target: Target, workspace: str, duration: dict[str, float]) -> None:
    """Run the steps of the proof, and store their duration in seconds by name.

    Delete what the steps created.
    """
    me = {"worker_id": "doctor", "tick_id": str(uuid4())}
    session, job = f"doctor-{uuid4().hex[:12]}", None
    settings, socket = target.settings, _connect(target)
    try:
        async with AsyncExitStack() as stack:
            api = QueueClient(settings)
            stack.push_async_callback(api.aclose)
            queue = api.acting_as(target.person.token)
            client = WorkerFunctions(settings)
            stack.push_async_callback(client.aclose)
            with _step(duration, "registered", target.migrate):
                await client.call("register_job_types", {"p_types": [SPEC]})
            with _step(duration, "enqueued", "check the workspace's limits for enqueues"):
                enqueued = await queue.enqueue(TYPE, {}, workspace_id=workspace, session_id=session)
                job = str(enqueued.job.id)
            stack.push_async_callback(socket.close)
            topics = {
                kind: Topic(socket, f"{kind}:{topic_id}", job)
                for kind, topic_id in (("job", job), ("workspace", workspace), ("session", session))
            }
            with _step(duration, "joined", _join_fix(target)):
                for topic in topics.values():
                    # Realtime sends messages on a job's or session's topic only while a client
                    # follows the topic
                    await queue.call("follow_topic", topic=topic.name, follower_id=str(uuid4()))
                    await topic.join()
                for topic in topics.values():
                    await topic.wait(topic.joined, READY_SECONDS)
            with _step(duration, "leased", f"minutehand explain {job}"):
                fence = await _lease(client, {**me, "limit": 1, "job_types": [TYPE]}, job)
            with _step(duration, "settled", "minutehand doctor --only schedule"):
                item = {"job_id": job, "fence": fence, "outcome": "completed"}
                await client.call("settle_jobs", {"p_request": {**me, "items": [item]}})
            for kind, topic in topics.items():
                with _step(duration, f"message on {kind}", "see the project's Realtime logs"):
                    await topic.wait(topic.message, TIMEOUT_SECONDS)
    finally:
        _clean_up(target, job, settled="settled" in duration)


async def _lease(client: WorkerFunctions, request: dict[str, Any], job: str) -> int:
    # repeat the lease request, because a lease skips a job whose row is locked at the moment
    for call in range(1, 21):
        result = await client.call("lease_jobs", {"p_request": {**request, "call": call}})
        for lease in result["leases"]:
            if lease["job"]["id"] == job:
                return int(lease["fence"])
        await asyncio.sleep(0.2)
    raise QueueError("the job is due, but no lease returned it")


@contextmanager
def _step(duration: dict[str, float], name: str, fix: str) -> Iterator[None]:
    started_at = time.monotonic()
    try:
        yield
    except (QueueError, TimeoutError) as error:
        cause = str(error) or "timed out"
        raise CommandFailed(f"not {name}: {cause}", fix=fix) from error
    duration[name] = time.monotonic() - started_at


def _clean_up(target: Target, job: str | None, *, settled: bool) -> None:
    """Delete the job as the owner of the database. Without DATABASE_URL, cancel the job."""
    if url := target.values.get("DATABASE_URL"):
        with psycopg.connect(url, connect_timeout=TIMEOUT_SECONDS) as owner:
            for sql, value in ((LEFT, job), (LEFT_TYPE, TYPE)):
                owner.execute(rewrite(sql, target.schemas).encode(), [value])
    elif job is not None and not settled:
        target.person.rpc("cancel_job", {"p_job_id": job})


class Topic:
    """A Realtime topic. One event is set at the join, one at the first message about the job."""

    def __init__(self, socket: AsyncRealtimeClient, name: str, job_id: str) -> None:
        self.name = name
        self.joined, self.message = asyncio.Event(), asyncio.Event()
        self._job_id = job_id
        self._lost = ""
        self._channel = socket.channel(name, PRIVATE)
        self._channel.on_broadcast("*", self._on_message)
        self._channel.on_system(self._on_system)

    async def join(self) -> None:
        """Join the topic. Raise an error if Realtime cannot be reached."""
        try:
            await self._channel.subscribe(self._on_state)
        except (OSError, WebSocketException) as error:
            raise QueueError(f"Realtime does not respond: {error}") from error
        # stop the timer of a rejected join, which would otherwise run longer than the proof
        self._channel.rejoin_timer.reset()

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event. Raise an error if Realtime rejects or closes the topic."""
        async with asyncio.timeout(seconds):
            await event.wait()
        if self._lost:
            raise QueueError(self._lost)

    def _on_system(self, message: Any) -> None:
        if message.message == READY:
            self.joined.set()

    def _on_message(self, message: Any) -> None:
        # the message may be about this job, or about several jobs
        if self._job_id in json.dumps(message):
            self.message.set()

    def _on_state(self, state: str, error: Exception | None) -> None:
        if state != "SUBSCRIBED":  # SUBSCRIBED does not set `joined`, see READY
            reason = f"{state} {error or ''}".strip()
            self._lost = f"Realtime does not serve {self.name}: {reason}"
            self.joined.set()
            self.message.set()
