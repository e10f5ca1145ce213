"""Table of incidents that block or fail a job.

A worker that the test controls, or plain SQL, causes each incident in the running product. The test
then runs the printed steps, which must resolve the incident.
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

#: Values that only a person knows, by their placeholder in a command.
PERSONAL_VALUES = {"ANSWER": "yes", "@payload.json": '{"fits": true}'}


@dataclass
class IncidentSetup:
    """Resources of one incident: a workspace, its workers and its open database sessions."""

    stack: RunningStack
    workspace_id: str
    run: Run
    ends: ExitStack = field(default_factory=ExitStack)
    leases: list[tuple[HandWorker, dict[str, Any]]] = field(default_factory=list)
    #: Number of commands and SQL statements that were run.
    command_count: int = 0
    #: What a person fixes in addition to the command: a deploy, a service or a trigger.
    fix: Callable[[], object] = lambda: None

    def worker(self, **policy: Any) -> HandWorker:
        """Start a worker of a new job type with this policy."""
        return self.ends.enter_context(HandWorker(self.stack, self.workspace_id, **policy))

    def session(self) -> psycopg.Connection[Any]:
        """Open another session of the database."""
        session = self.stack.connect(autocommit=False)
        self.ends.callback(session.close)  # the incident may have closed it
        return session

    def one(self, statement: str, *values: Any) -> Any:
        """Run a statement as the operator, as in the SQL editor."""
        with self.stack.connect() as connection:
            row = connection.execute(statement.encode(), values or None).fetchone()
        return row and row[0]

    def explain(self, job_id: str) -> dict[str, Any]:
        """Return the command's explanation of a job."""
        response: dict[str, Any] = self.run.json("explain", job_id)
        return response

    def act(self, step: dict[str, str], job_id: str) -> None:
        """Run a printed step: the SQL in its text, and its command."""
        for statement in re.findall(r"`(select pg_[^`]+)`", step["words"]):
            self.one(statement)
            self.command_count += 1
        words = shlex.split(step.get("command", ""))[1:]
        if words and words[0] not in {"watch"}:
            self.run(*(PERSONAL_VALUES.get(word, word) for word in words))
            self.command_count += words != ["explain", job_id]  # explain only checks the result

    def settle_cancelled(self) -> None:
        """Settle jobs whose cancel was requested, as a worker does within five seconds."""
        for worker, lease in self.leases:
            asked = "select cancel_requested_at is not null from public.jobs where id = %s"
            if self.one(asked, lease["job"]["id"]):
                worker.settle(lease, "cancelled")


Plant = Callable[[IncidentSetup], str]


@dataclass(frozen=True)
class Incident:
    """An incident, the reason that must be found, and the kind of its holder."""

    name: str
    reason: str
    kind: str | None
    plant: Plant


def blocked_by_its_key(setup: IncidentSetup) -> str:
    """Plant a job that waits for a running job of its key."""
    worker = setup.worker(key_concurrency=1)
    worker.enqueue(concurrency_key="k")
    setup.leases.append((worker, worker.lease_soon()))
    return worker.enqueue(concurrency_key="k")


def paused(setup: IncidentSetup) -> str:
    """Plant a job whose queue is paused."""
    queue = f"q-{setup.workspace_id[:8]}"
    request = {"kind": "queue", "name": queue, "reason": "moving"}
    setup.one("select public.pause_jobs(%s)", Jsonb(request))
    return setup.worker(queue=queue).enqueue()


def locked_in_a_chain(setup: IncidentSetup) -> str:
    """Plant a job whose row is locked by a session that waits for a third one, the cause."""
    worker = setup.worker()
    job_id = worker.enqueue()
    root, between = setup.session(), setup.session()
    root.execute("select pg_advisory_xact_lock(4711)")
    between.execute("select from public.jobs where id = %s for update", [job_id])
    setup.ends.enter_context(waiting(between, "select pg_advisory_xact_lock(4711)"))
    return job_id


class waiting:
    """A statement that waits in a thread until another session ends."""

    def __init__(self, session: psycopg.Connection[Any], statement: str) -> None:
        def wait() -> None:
            with contextlib.suppress(psycopg.Error):  # the session was terminated
                session.execute(statement.encode())
                session.rollback()

        self._thread = threading.Thread(target=wait, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)


def waits_for_an_answer(setup: IncidentSetup) -> str:
    """Plant a job that waits for an answer."""
    worker = setup.worker()
    job_id = worker.enqueue()
    wait = {"kind": "ask", "name": "n", "question": "Which month?"}
    worker.settle(worker.lease_soon(), "waiting", wait=wait)
    return job_id


def waits_for_a_grandchild(setup: IncidentSetup) -> str:
    """Plant a job whose grandchild waits for an answer."""
    worker = setup.worker()
    top = worker.enqueue()
    for level in range(2):
        lease = worker.lease_soon()
        child = {"job_type": worker.job_type, "payload": {}}
        ids = worker.engine.spawn(lease, f"s{level}", [child])
        wait = {"kind": "children", "name": "g", "job_ids": ids}
        worker.settle(lease, "waiting", wait=wait)
    wait = {"kind": "ask", "name": "n", "question": "Go on?"}
    worker.settle(worker.lease_soon(), "waiting", wait=wait)

    def go_on() -> None:
        for _ in range(2):
            worker.settle(worker.lease_soon(), "completed", result={})

    setup.fix = go_on
    return top


def failed(setup: IncidentSetup) -> str:
    """Plant a dead letter. Its cause is fixed before the command runs."""
    worker = setup.worker()
    job_id = worker.enqueue()
    response = {"type": "app.Broken", "message": "it broke"}
    worker.settle(worker.lease_soon(), "failed", error=response)
    return job_id


#: One incident per kind of printed step. tests/sql/test_explain.py has every reason and step.
INCIDENTS = [
    Incident("a key", "key_limit", "key", blocked_by_its_key),
    Incident("a queue paused", "queue_paused", "pause", paused),
    Incident("a chain of sessions", "locked", "lock", locked_in_a_chain),
    Incident("an answer", "asking", "answer", waits_for_an_answer),
    Incident("a child of a child", "waiting_for_children", "child", waits_for_a_grandchild),
    Incident("an error", "failed", None, failed),
]


def steps_until(setup: IncidentSetup, response: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the first step of an explanation, then the first step of the job that it names."""
    for _ in range(3):
        step = response["next"][0]
        yield step
        words = shlex.split(step.get("command", ""))
        if words[1:2] != ["explain"] or words[2] == response["job_id"]:
            return
        response = setup.explain(words[2])
