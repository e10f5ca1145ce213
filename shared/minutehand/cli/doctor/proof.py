"""Proves a project with one throw-away job, which every live topic must tell of.

What a step costs and what it fails of are reported in a person's words; what it leaves is removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from uuid import uuid4

import httpx
import psycopg

from minutehand.cli.doctor.findings import (
    Checks,
    Finding,
    Target,
    ok,
    refuse_transaction_pooler,
    skip,
)
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
#: Numbers as clients of other languages write them, and as Postgres gets them.
SPEC: Final = {"job_type": TYPE, "lease_seconds": 60.0, "timeout_seconds": 1.0, "max_attempts": 1.0}
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
    took = asyncio.run(Proof(target, *person).run())
    return ok(", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in took.items()))


class Proof:
    """One run: each step raises `CommandFailed` with its cause and its fix."""

    def __init__(self, target: Target, token: str, workspace: str) -> None:
        self._target = target
        self._values = target.values
        self._token = token
        self._workspace = workspace
        self._session = f"doctor-{uuid4().hex[:12]}"
        self._tick = str(uuid4())
        self._job: str | None = None
        self._migrate = how_to_migrate(self._values["SUPABASE_URL"], target.stage)
        self._sent_at = 0.0
        self.took: dict[str, float] = {}

    async def run(self) -> dict[str, float]:
        """Seconds by step, in their order."""
        try:
            await self._steps()
        except BaseException as failed:
            try:
                self._clean_up()
            except (CommandFailed, psycopg.Error, httpx.HTTPError) as error:
                if not isinstance(failed, CommandFailed):
                    raise failed from error
                said = f"{failed}; its job {self._job} was not deleted: {error}"
                raise CommandFailed(said, code=failed.code, fix=failed.fix) from failed
            raise
        self._clean_up()
        return self.took

    async def _steps(self) -> None:
        async with httpx.AsyncClient(timeout=JOIN_SECONDS) as http:
            options = AsyncClientOptions(httpx_client=http)
            key = self._values["SUPABASE_PUBLISHABLE_KEY"]
            supabase = AsyncClient(self._values["SUPABASE_URL"].rstrip("/"), key, options)
            schema = self._target.schemas.clients
            with self._step("registered", self._migrate):
                worker = WorkerFunctions(Settings.from_env(self._values))
            client = Client(supabase, schema=schema, token=self._token)
            access = Access(supabase, schema=schema, token=self._token)
            try:
                with self._step("registered", self._migrate):
                    await worker.call("register_job_types", {"p_types": [SPEC]})
                await self._enqueue(client)
                async with self._listening(access) as topics:
                    await self._run_job(worker)
                    await self._hear(topics)
            finally:
                for each in (worker, client, access):
                    await each.aclose()

    async def _enqueue(self, client: Client) -> None:
        fix = "the console's page Limits shows what the workspace may enqueue"
        with self._step("enqueued", fix):
            made = await client.enqueue(
                TYPE, {}, workspace_id=self._workspace, session_id=self._session
            )
        self._job = made.job.id

    async def _run_job(self, worker: WorkerFunctions) -> None:
        me = {"worker_id": "doctor", "tick_id": self._tick}
        self._sent_at = time.monotonic()
        with self._step("leased", f"minutehand explain {self._job}"):
            held = await self._lease(worker, {**me, "limit": 1, "job_types": [TYPE]})
        with self._step("settled", "minutehand doctor --only maintenance"):
            item = {"job_id": self._job, "fence": held["fence"], "outcome": "completed"}
            answer = await worker.call("settle_jobs", {"p_request": {**me, "items": [item]}})
            if answer["results"][0]["outcome"] != "applied":
                raise QueueError(f"the outcome was {answer['results'][0]['outcome']}")

    async def _lease(self, worker: WorkerFunctions, request: dict[str, Any]) -> dict[str, Any]:
        # what another worker looks at in this moment is passed over: ask again
        for call in range(1, LEASE_CALLS + 1):
            answer = await worker.call("lease_jobs", {"p_request": {**request, "call": call}})
            for lease in answer["leases"]:
                if lease["job"]["id"] == self._job:
                    held: dict[str, Any] = lease
                    return held
            await asyncio.sleep(LEASE_PAUSE_SECONDS)
        raise QueueError("the job is due, and no lease was given")

    @asynccontextmanager
    async def _listening(self, access: Access) -> AsyncIterator[list[Listener]]:
        """Join the job's, the workspace's and the session's topic."""
        subjects = {"job": self._job, "workspace": self._workspace, "session": self._session}
        topics = [
            Listener(access, kind, f"{kind}:{subject}", self._job)
            for kind, subject in subjects.items()
        ]
        tasks = [asyncio.create_task(each.topic.run()) for each in topics]
        try:
            for name, event, seconds in (
                ("joined", "joined", JOIN_SECONDS),
                ("replication", "ready", READY_SECONDS),
            ):
                with self._step(name, fix_of(name)):
                    for each in topics:
                        await each.wait(event, seconds)
            yield topics
        finally:
            await end_tasks(tasks)

    async def _hear(self, topics: list[Listener]) -> None:
        fix = "minutehand doctor --only messages, and the project's Realtime logs"
        for each in topics:
            with self._step(f"message on {each.kind}", fix):
                await each.wait("message", MESSAGE_SECONDS)
            self.took[f"message on {each.kind}"] = each.heard_at - self._sent_at

    @contextmanager
    def _step(self, name: str, fix: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except (QueueError, ConfigurationError, TimeoutError) as error:
            cause = str(error) or "no answer in time"
            raise CommandFailed(f"not {name}: {cause}", code="proof_failed", fix=fix) from error
        self.took[name] = time.monotonic() - began

    def _clean_up(self) -> None:
        """Delete the job, live or not, if the values give the right to; else let it not run."""
        url, secret = self._values.get("DATABASE_URL"), self._values.get("SUPABASE_SECRET_KEY")
        if url:
            refuse_transaction_pooler(url)
            with psycopg.connect(url, connect_timeout=int(JOIN_SECONDS)) as owner:
                for sql, value in ((LEFT, self._job), (LEFT_TYPE, TYPE)):
                    owner.execute(rewrite(sql, self._target.schemas).encode(), [value])
        elif secret and self._job is not None:
            headers = {**secret_headers(secret), "content-profile": self._target.schemas.clients}
            address = f"{self._values['SUPABASE_URL'].rstrip('/')}/rest/v1/jobs?id=eq.{self._job}"
            httpx.delete(address, headers=headers, timeout=JOIN_SECONDS).raise_for_status()
        elif self._job is not None and "settled" not in self.took:
            self._target.person.rpc("cancel_job", {"p_job_id": self._job})


def fix_of(reason: str) -> str:
    """What to do about what Realtime says."""
    fixes = [fix for word, fix in REFUSALS if word.lower() in reason.lower()]
    return fixes[0] if fixes else "see the project's Realtime logs, and its status page"


class Listener:
    """One topic, and when it was joined, became ready and brought the job's first message."""

    def __init__(self, access: Access, kind: str, name: str, job_id: str | None) -> None:
        self.kind = kind
        self.heard_at = 0.0
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
            self.heard_at = self.heard_at or time.monotonic()
            self._set("message")
