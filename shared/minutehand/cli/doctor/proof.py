"""Proves a project with one throw-away job, which every live topic must announce.

What a step costs and what it fails of are reported in a person's words; what it leaves is removed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final
from uuid import uuid4

import psycopg
from realtime import AsyncRealtimeClient
from websockets.exceptions import WebSocketException

from minutehand.cli.doctor.findings import Finding, Target, check, ok
from minutehand.config import Settings
from minutehand.install.rewrite import rewrite
from minutehand.queue.client import QueueClient
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions
from minutehand.terminal.connection import CommandFailed

# what the library calls errors is said here, where it is known whether one matters
logging.getLogger("realtime").setLevel(logging.CRITICAL)

#: One name for every run, so that a project holds one such type at most.
TYPE: Final = "minutehand.doctor"
SPEC: Final = {"job_type": TYPE, "lease_seconds": 60, "timeout_seconds": 30, "max_attempts": 1}
TIMEOUT_SECONDS: Final = 15
#: What Realtime says to a join with `replication_ready` once the database's messages arrive: it
#: answers the join before that, and what is committed in between is lost.
READY: Final = "Replication connection established"
#: It gives up after 60 s; one that has said neither by then is from before 2026 and never will.
READY_SECONDS: Final = 65.0
PRIVATE: Final[Any] = {
    "config": {
        "private": True,
        "broadcast": {"ack": False, "self": False, "replication_ready": True},
        "presence": {"enabled": False, "key": ""},
    }
}
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
    need, settings = target.person.need, Settings.from_env(target.values)
    socket = AsyncRealtimeClient(
        f"{need('SUPABASE_URL').rstrip('/')}/realtime/v1",
        need("SUPABASE_PUBLISHABLE_KEY"),
        auto_reconnect=False,
        timeout=TIMEOUT_SECONDS,
    )
    socket.access_token = token
    try:
        async with AsyncExitStack() as stack:
            api = QueueClient(settings)
            stack.push_async_callback(api.aclose)
            queue = api.acting_as(token)
            worker = WorkerFunctions(settings)
            stack.push_async_callback(worker.aclose)
            with _step(duration, "registered", target.migrate):
                await worker.call("register_job_types", {"p_types": [SPEC]})
            with _step(duration, "enqueued", "the workspace's limits say what it may enqueue"):
                made = await queue.enqueue(TYPE, {}, workspace_id=workspace, session_id=session)
                job = str(made.job.id)
            stack.push_async_callback(socket.close)
            topics = {
                kind: Received(socket, f"{kind}:{of}", job)
                for kind, of in (("job", job), ("workspace", workspace), ("session", session))
            }
            with _step(duration, "joined", ATTACH.format(target.schemas.clients)):
                for received in topics.values():
                    # a job's and a session's topic carry messages only while someone follows
                    await queue.call("follow_topic", topic=received.name, follower_id=str(uuid4()))
                    await received.join()
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

    def __init__(self, socket: AsyncRealtimeClient, name: str, job_id: str) -> None:
        self.name = name
        self.joined, self.message = asyncio.Event(), asyncio.Event()
        self._job_id = job_id
        self._lost = ""
        self._channel = socket.channel(name, PRIVATE)
        self._channel.on_broadcast("*", self._on_message)
        self._channel.on_system(lambda said: self.joined.set() if said.message == READY else None)

    async def join(self) -> None:
        """Ask for the topic; raise if there is no Realtime to ask."""
        try:
            await self._channel.subscribe(self._on_state)
        except (OSError, WebSocketException) as error:
            raise QueueError(f"Realtime does not answer: {error}") from error
        # of a refused one, so that no task outlives the proof
        self._channel.rejoin_timer.reset()

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return once it arrived; raise what Realtime says where it refuses or ends the topic."""
        async with asyncio.timeout(seconds):
            await event.wait()
        if self._lost:
            raise QueueError(self._lost)

    def _on_message(self, message: Any) -> None:
        # the job's own, or one of a group that several jobs share
        if self._job_id in json.dumps(message):
            self.message.set()

    def _on_state(self, state: str, error: Exception | None) -> None:
        if state != "SUBSCRIBED":  # that alone is not yet joined: what is sent until then is lost
            said = f"{state} {error or ''}".strip()
            self._lost = f"Realtime does not serve {self.name}: {said}"
            self.joined.set()
            self.message.set()
