"""Planted incidents: one table of what holds a job, for its page and for the command.

Each is planted in the running product by a worker that is moved by hand, or by plain SQL; what the
database says is to be done is then executed as it is printed, and the incident must be over.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.e2e.console.worker import HandWorker
from tests.support.command import Run
from tests.support.patience import until
from tests.support.stacks import RunningStack

#: A value that only a person knows, by its name in a command.
KNOWN_BY_PEOPLE = {"ANSWER": "yes", "@payload.json": '{"fits": true}'}


@dataclass
class Night:
    """One incident's place: a workspace, its workers, and the sessions that it has open."""

    stack: RunningStack
    workspace_id: str
    run: Run
    ends: ExitStack = field(default_factory=ExitStack)
    leases: list[tuple[HandWorker, dict[str, Any]]] = field(default_factory=list)
    #: How many commands were typed, and statements in the SQL editor.
    typed: int = 0
    #: What a person mends beside the command: a deploy, a service, a trigger.
    mend: Callable[[], object] = lambda: None

    def worker(self, **policy: Any) -> HandWorker:
        """One of a type of its own, with the type's policy."""
        return self.ends.enter_context(HandWorker(self.stack, self.workspace_id, **policy))

    def lease(self, worker: HandWorker) -> dict[str, Any]:
        """A job that runs from now on."""
        lease = worker.lease_soon()
        self.leases.append((worker, lease))
        return lease

    def session(self) -> psycopg.Connection[Any]:
        """Another's session of the database."""
        session = self.stack.connect(autocommit=False)
        self.ends.callback(session.close)  # it may have been ended
        return session

    def one(self, statement: str, *values: Any) -> Any:
        """Ask as the operator, in the SQL editor."""
        with self.stack.connect() as connection:
            row = connection.execute(statement.encode(), values or None).fetchone()
        return row and row[0]

    def explain(self, job_id: str) -> dict[str, Any]:
        """What the command says of a job."""
        said: dict[str, Any] = self.run.json("explain", job_id)
        return said

    def act(self, step: dict[str, str], job_id: str) -> None:
        """Do what is printed: the SQL in its words, and its command."""
        for statement in re.findall(r"`(select pg_[^`]+)`", step["words"]):
            self.one(statement)
            self.typed += 1
        words = shlex.split(step.get("command", ""))[1:]
        if words and words[0] not in {"watch"}:
            self.run(*(KNOWN_BY_PEOPLE.get(word, word) for word in words))
            self.typed += words != ["explain", job_id]  # which looks whether that has ended it

    def stop_what_is_cancelled(self) -> None:
        """End those whose cancel was requested, as their worker does within five seconds."""
        for worker, lease in self.leases:
            asked = "select cancel_requested_at is not null from public.jobs where id = %s"
            if self.one(asked, lease["job"]["id"]):
                worker.settle(lease, "cancelled")


Plant = Callable[[Night], str]


@dataclass(frozen=True)
class Incident:
    """What is planted, the reason that must be found, and the kind of its holder."""

    name: str
    reason: str
    kind: str | None
    plant: Plant


def behind(**policy: Any) -> Plant:
    """A job that waits for one that runs."""

    def plant(night: Night) -> str:
        options = {"concurrency_key": "k"} if "key_concurrency" in policy else {}
        worker = night.worker(**policy)
        worker.enqueue(**options)
        night.lease(worker)
        return worker.enqueue(**options)

    return plant


def behind_a_workspace_limit(night: Night) -> str:
    """A job of one type that waits for one of another."""
    limit = "select public.set_workspace_limits(%s, '{\"max_running\": 1}')"
    night.one(limit, night.workspace_id)
    first, second = night.worker(), night.worker()
    first.enqueue()
    night.lease(first)
    second._ask(0)
    return second.enqueue()


def behind_two(night: Night) -> str:
    """A limit of two that run: the one that has run longest is named."""
    worker = night.worker(max_concurrency=2)
    for _ in range(2):
        worker.enqueue()
        night.lease(worker)
    return worker.enqueue()


def behind_many(night: Night) -> str:
    """Two hundred that wait for one key."""
    worker = night.worker(key_concurrency=1)
    worker.enqueue(concurrency_key="k")
    night.lease(worker)
    return worker.enqueue_many([{"payload": {}, "concurrency_key": "k"}] * 200)[0]


def rate(**more: Any) -> Plant:
    """A job behind a rate that is used up; a deploy raises it."""

    def plant(night: Night) -> str:
        limit = {"limit": 1, "per_seconds": 600, **more}
        worker = night.worker(rate_limit=limit)
        worker.enqueue(concurrency_key="k")
        night.lease(worker)
        job_id = worker.enqueue(concurrency_key="k")
        night.mend = lambda: worker.register(rate_limit={**limit, "limit": 600, "per_seconds": 1})
        return job_id

    return plant


def paused(kind: str) -> Plant:
    """A job whose type, queue or workspace was paused."""

    def plant(night: Night) -> str:
        queue = {"queue": f"q-{night.workspace_id[:8]}"} if kind == "queue" else {}
        worker = night.worker(**queue)
        name = {"queue": queue.get("queue"), "workspace": night.workspace_id}.get(
            kind, worker.job_type
        )
        scope = {"workspace_id": night.workspace_id} if "workspace" in kind else {}
        request = Jsonb({"kind": kind, "name": name, **scope, "reason": "moving"})
        night.one("select public.pause_jobs(%s)", request)
        return worker.enqueue()

    return plant


def locked(state: str, statement: str) -> Plant:
    """A job whose row a session keeps."""

    def plant(night: Night) -> str:
        worker = night.worker()
        delay = {"delay_seconds": 1} if state == "delayed" else {}
        job_id = worker.enqueue(**delay)
        if state == "running":
            night.lease(worker)
        session = night.session()
        session.execute(statement.encode(), [job_id])
        return job_id

    return plant


def locked_in_a_chain(night: Night) -> str:
    """Who keeps the row waits for another session: that one is to end."""
    worker = night.worker()
    job_id = worker.enqueue()
    root, between = night.session(), night.session()
    root.execute("select pg_advisory_xact_lock(4711)")
    between.execute("select from public.jobs where id = %s for update", [job_id])
    night.ends.enter_context(waiting(between, "select pg_advisory_xact_lock(4711)"))
    return job_id


class waiting:
    """A statement of a session that waits in a thread, until another ends."""

    def __init__(self, session: psycopg.Connection[Any], statement: str) -> None:
        def wait() -> None:
            with contextlib.suppress(psycopg.Error):  # it was ended
                session.execute(statement.encode())
                session.rollback()

        self._thread = threading.Thread(target=wait, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)


def asks(days: int = 0) -> Plant:
    """A job that waits for an answer."""

    def plant(night: Night) -> str:
        worker = night.worker()
        job_id = worker.enqueue()
        wait = {"kind": "ask", "name": "n", "question": "Which month?"}
        worker.settle(worker.lease_soon(), "waiting", wait=wait)
        if days:
            night.one(
                "update queue.waits set created_at = created_at - make_interval(days => %s)"
                " where job_id = %s returning 1",
                days,
                job_id,
            )
        return job_id

    return plant


def waits_for_an_event(night: Night) -> str:
    """Which no one emits."""
    worker = night.worker()
    job_id = worker.enqueue()
    event = f"paid.{job_id}"
    worker.settle(
        worker.lease_soon(), "waiting", wait={"kind": "event", "name": "n", "event": event}
    )
    night.mend = lambda: night.one("select public.emit_event(%s, %s)", night.workspace_id, event)
    return job_id


def waits_for_a_child(levels: int) -> Plant:
    """Below which the last one asks."""

    def plant(night: Night) -> str:
        worker = night.worker()
        top = lease = None
        job_id = worker.enqueue()
        for level in range(levels):
            lease = worker.lease_soon()
            top = top or job_id
            child = {"job_type": worker.job_type, "payload": {}}
            request = {"job_id": lease["job"]["id"], "fence": lease["fence"]}
            request |= {"name": f"s{level}", "children": [child]}
            ids = worker._call("spawn_jobs", {"p_request": request})["job_ids"]
            wait = {"kind": "children", "name": "g", "job_ids": ids}
            worker.settle(lease, "waiting", wait=wait)
        wait = {"kind": "ask", "name": "n", "question": "Go on?"}
        worker.settle(worker.lease_soon(), "waiting", wait=wait)

        def go_on() -> None:
            for _ in range(levels):
                worker.settle(worker.lease_soon(), "completed", result={})

        night.mend = go_on
        return str(top)

    return plant


def failed(**error: Any) -> Plant:
    """A dead letter, whose cause is gone by the time that its command is typed."""

    def plant(night: Night) -> str:
        worker = night.worker()
        job_id = worker.enqueue()
        said = {"type": "app.Broken", "message": "it broke", **error}
        worker.settle(worker.lease_soon(), "failed", error=said)
        return job_id

    return plant


def killed(night: Night) -> str:
    """Its process was ended by the kernel, and its host said so."""
    worker = night.worker(max_attempts=1)
    job_id = worker.enqueue()
    worker.lease_soon()
    evidence = {"signal": "SIGKILL", "memory_mb": 812, "jobs": [job_id]}
    dead = {"worker_id": "by-hand", "evidence": evidence}
    worker._call("tick_finished", {"p_request": dead})
    until(lambda: night.one("select status from public.jobs where id = %s", job_id) == "failed")
    return job_id


def put_off(reason: str) -> Plant:
    """A job that starts later, and is to start now."""

    def plant(night: Night) -> str:
        worker = night.worker()
        job_id = worker.enqueue(**({"delay_seconds": 3600} if reason == "scheduled" else {}))
        if reason == "snoozed":
            worker.settle(worker.lease_soon(), "snoozed", delay_seconds=3600)
        if reason == "backing_off":
            error = {"type": "E", "message": "busy"}
            worker.settle(worker.lease_soon(), "retry", error=error, retry_after_seconds=3600)
        return job_id

    return plant


def misspelt(night: Night) -> str:
    """Of a type that no worker has."""
    worker = night.worker()
    return str(
        night.one(
            "select public.enqueue_job(%s, %s) #>> '{job,id}'",
            night.workspace_id,
            f"{worker.job_type}_",
        )
    )


def refused(night: Night) -> str:
    """By a trigger of the project's own, when a worker would start it."""
    worker = night.worker()
    job_id = worker.enqueue()
    name = f"refuse_{job_id.replace('-', '')}"

    def run(statement: str) -> None:
        with night.stack.connect() as connection:
            connection.execute(statement.encode())

    def drop() -> None:
        run(f"drop function if exists public.{name} cascade")

    def mend() -> None:
        drop()
        night.lease(worker)

    run(
        f"create function public.{name}() returns trigger language plpgsql"
        f" as $$ begin if old.id = '{job_id}' then raise 'no change'; end if; return new; end $$;"
        f"create trigger {name} before update on public.jobs"
        f" for each row execute function public.{name}()"
    )
    night.ends.callback(drop)
    night.mend = mend
    worker._ask(1)
    return job_id


ROW = "select from public.jobs where id = %s for update"
CHANGED = "update public.jobs set payload = '{\"a\": 1}' where id = %s"
INCIDENTS = [
    Incident("a key", "key_limit", "key", behind(key_concurrency=1)),
    Incident("a key of two hundred", "key_limit", "key", behind_many),
    Incident("a type's limit of two", "type_limit", "limit", behind_two),
    Incident("a type's limit", "type_limit", "limit", behind(max_concurrency=1)),
    Incident("a type here", "workspace_type_limit", "limit", behind(workspace_concurrency=1)),
    Incident("a workspace", "workspace_limit", "limit", behind_a_workspace_limit),
    Incident("a rate", "rate_limited", "rate", rate()),
    Incident("a rate per key", "rate_limited", "rate", rate(per="key")),
    Incident("a type paused", "job_type_paused", "pause", paused("job_type")),
    Incident("a type paused here", "workspace_type_paused", "pause", paused("workspace_type")),
    Incident("a queue paused", "queue_paused", "pause", paused("queue")),
    Incident("a workspace paused", "workspace_paused", "pause", paused("workspace")),
    Incident("a row of a running job", "locked", "lock", locked("running", ROW)),
    Incident("a row of a delayed job", "locked", "lock", locked("delayed", ROW)),
    Incident("a row of a ready job", "locked", "lock", locked("ready", ROW)),
    Incident("a change not committed", "locked", "lock", locked("ready", CHANGED)),
    Incident("a chain of sessions", "locked", "lock", locked_in_a_chain),
    Incident("an answer", "asking", "answer", asks()),
    Incident("an answer for four days", "asking", "answer", asks(4)),
    Incident("an event", "waiting_for_event", "event", waits_for_an_event),
    Incident("a child", "waiting_for_children", "child", waits_for_a_child(1)),
    Incident("a child of a child", "waiting_for_children", "child", waits_for_a_child(2)),
    Incident("a trigger", "refused", "refusal", refused),
    Incident("a misspelt type", "no_processor", "no_worker", misspelt),
    Incident("a delay", "scheduled", None, put_off("scheduled")),
    Incident("a snooze", "snoozed", None, put_off("snoozed")),
    Incident("a backoff", "backing_off", None, put_off("backing_off")),
    Incident("a killed process", "failed", None, killed),
    Incident("refused credentials", "failed", None, failed(status=401, response="key revoked")),
    Incident("a refused request", "failed", None, failed(status=422)),
    Incident("a vendor's rate", "failed", None, failed(status=429)),
    Incident("a vendor that is down", "failed", None, failed(status=503)),
    Incident("a refused connection", "failed", None, failed(errno="ECONNREFUSED")),
    Incident("a deadlock", "failed", None, failed(sqlstate="40P01")),
    Incident("a missing table", "failed", None, failed(sqlstate="42P01")),
    Incident("a full disk", "failed", None, failed(errno="ENOSPC")),
    Incident("a killed program", "failed", None, failed(signal="SIGKILL")),
    Incident("a time-out", "failed", None, failed(type="AttemptTimeout")),
    Incident("a deadline", "failed", None, failed(type="DeadlinePassed")),
    Incident("a payload", "failed", None, failed(type="PayloadRejected")),
    Incident("a result", "failed", None, failed(type="ResultRejected")),
    Incident("an error of its own", "failed", None, failed()),
]


def steps_until(night: Night, said: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The first step of what is said, and of the job that it leads to."""
    for _ in range(3):
        step = said["next"][0]
        yield step
        words = shlex.split(step.get("command", ""))
        if words[1:2] != ["explain"] or words[2] == said["job_id"]:
            return
        said = night.explain(words[2])
