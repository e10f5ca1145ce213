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


def behind_a_rate(night: Night) -> str:
    """A job behind a rate that is used up. A deploy raises it."""
    limit = {"limit": 1, "per_seconds": 600}
    worker = night.worker(rate_limit=limit)
    worker.enqueue()
    night.lease(worker)
    job_id = worker.enqueue()
    night.mend = lambda: worker.register(rate_limit={"limit": 600, "per_seconds": 1})
    return job_id


def paused(kind: str) -> Plant:
    """A job whose type or queue was paused."""

    def plant(night: Night) -> str:
        queue = f"q-{night.workspace_id[:8]}"
        worker = night.worker(queue=queue)
        request = {"kind": kind, "name": queue, "reason": "moving"}
        if kind == "workspace_type":
            request |= {"name": worker.job_type, "workspace_id": night.workspace_id}
        night.one("select public.pause_jobs(%s)", Jsonb(request))
        return worker.enqueue()

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


def asks(night: Night) -> str:
    """A job that waits for an answer."""
    worker = night.worker()
    job_id = worker.enqueue()
    wait = {"kind": "ask", "name": "n", "question": "Which month?"}
    worker.settle(worker.lease_soon(), "waiting", wait=wait)
    return job_id


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


def waits_for_a_grandchild(night: Night) -> str:
    """A job whose child has a child that asks."""
    worker = night.worker()
    top = worker.enqueue()
    for level in range(2):
        lease = worker.lease_soon()
        child = {"job_type": worker.job_type, "payload": {}}
        request = {"job_id": lease["job"]["id"], "fence": lease["fence"]}
        request |= {"name": f"s{level}", "children": [child]}
        ids = worker._call("spawn_jobs", {"p_request": request})["job_ids"]
        wait = {"kind": "children", "name": "g", "job_ids": ids}
        worker.settle(lease, "waiting", wait=wait)
    wait = {"kind": "ask", "name": "n", "question": "Go on?"}
    worker.settle(worker.lease_soon(), "waiting", wait=wait)

    def go_on() -> None:
        for _ in range(2):
            worker.settle(worker.lease_soon(), "completed", result={})

    night.mend = go_on
    return top


def failed(night: Night) -> str:
    """A dead letter. Its cause is gone when its command is typed."""
    worker = night.worker()
    job_id = worker.enqueue()
    said = {"type": "app.Broken", "message": "it broke"}
    worker.settle(worker.lease_soon(), "failed", error=said)
    return job_id


def scheduled(night: Night) -> str:
    """A job that starts later, and is to start now."""
    return night.worker().enqueue(delay_seconds=3600)


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


#: One of each kind of holder. tests/sql/test_explain.py has every reason and every advice.
INCIDENTS = [
    Incident("a key", "key_limit", "key", behind(key_concurrency=1)),
    Incident("a type's limit", "type_limit", "limit", behind(max_concurrency=1)),
    Incident("a rate", "rate_limited", "rate", behind_a_rate),
    Incident("a type paused here", "workspace_type_paused", "pause", paused("workspace_type")),
    Incident("a queue paused", "queue_paused", "pause", paused("queue")),
    Incident("a chain of sessions", "locked", "lock", locked_in_a_chain),
    Incident("an answer", "asking", "answer", asks),
    Incident("an event", "waiting_for_event", "event", waits_for_an_event),
    Incident("a child of a child", "waiting_for_children", "child", waits_for_a_grandchild),
    Incident("a trigger", "refused", "refusal", refused),
    Incident("a misspelt type", "no_processor", "no_worker", misspelt),
    Incident("a delay", "scheduled", None, scheduled),
    Incident("an error", "failed", None, failed),
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
