"""`explain` names the cause of an incident, and its printed steps resolve the incident.

Each test causes one incident in the running stack. The incidents are those that
tests/sql/test_explain.py cannot resolve.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from minutehand.local.users import ADA
from tests.e2e.console.worker import HandWorker, delete
from tests.support.command import Run
from tests.support.patience import until
from tests.support.stacks import RunningStack


@dataclass
class Night:
    """A new workspace, managed by Ada, with its own workers and open database sessions."""

    stack: RunningStack
    workspace_id: str
    ends: ExitStack

    @property
    def run(self) -> Run:
        """A function that runs a command as Ada in this workspace."""
        return Run(env={**self.stack.values, "MINUTEHAND_WORKSPACE_ID": self.workspace_id})

    def worker(self, **policy: Any) -> HandWorker:
        """Start a worker of a new job type with these options."""
        return self.ends.enter_context(HandWorker(self.stack, self.workspace_id, **policy))

    def session(self) -> psycopg.Connection[Any]:
        """Open another database session."""
        session = self.stack.connect(autocommit=False)
        self.ends.callback(session.close)  # works even if the session was terminated
        return session

    def resolve(
        self, job_id: str, reason: str, kind: str, fix: Callable[[], object] = lambda: None
    ) -> None:
        """Run the steps that `explain` prints, for each job that it names, and then `fix`."""
        until(lambda: self.run.json("explain", job_id)["reason"] == reason)
        explanation = first = self.run.json("explain", job_id)
        assert first["held_by"]["kind"] == kind
        assert first["held_by"]["holder"].get("job_id", "") in first["sentence"]
        while True:
            step = explanation["next"][0]
            for statement in re.findall(r"`(select pg_[^`]+)`", step["words"]):
                with self.stack.connect() as editor:
                    editor.execute(statement)
            words = shlex.split(step.get("command", ""))[1:]
            if words[:1] != ["explain"] or words[1] == explanation["job_id"]:
                break
            explanation = self.run.json(*words)
        self.run(*("yes" if word == "ANSWER" else word for word in words))
        fix()
        until(
            lambda: (
                (now := self.run.json("explain", job_id))["status"] != first["status"]
                or now["reason"] != reason
            )
        )


@pytest.fixture
def night(stack: RunningStack) -> Iterator[Night]:
    """A new workspace, which is deleted after the test."""
    workspace = str(uuid4())
    with stack.connect() as connection:
        connection.execute(
            "insert into public.workspaces (id, name) values (%s, 'Night')", [workspace]
        )
        connection.execute(
            "insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%s, %s, 'manager')",
            [workspace, ADA.id],
        )
    with ExitStack() as ends:
        yield Night(stack, workspace, ends)
    delete(stack, "delete from public.workspaces where id = %s", workspace)


def test_the_holder_of_a_key_is_cancelled(night: Night) -> None:
    """A job waits for its concurrency key.

    The printed command cancels the job that uses the key.
    """
    worker = night.worker(key_concurrency=1)
    worker.enqueue(concurrency_key="k")
    lease = worker.lease_one()

    night.resolve(
        worker.enqueue(concurrency_key="k"),
        *("key_limit", "key"),
        lambda: worker.settle(lease, "cancelled"),
    )


def test_the_root_of_a_chain_of_sessions_is_ended(night: Night) -> None:
    """A session that locks a job's row waits for another session.

    The printed statement ends the other session.
    """
    job_id = night.worker().enqueue()
    root, between = night.session(), night.session()
    root.execute("select pg_advisory_xact_lock(4711)")
    between.execute("select from public.jobs where id = %s for update", [job_id])

    def wait() -> None:
        with suppress(psycopg.Error):  # `explain` terminates one of the sessions
            between.execute("select pg_advisory_xact_lock(4711)")
            between.rollback()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(wait)
        night.resolve(job_id, "locked", "lock")


def test_the_question_of_a_grandchild_is_answered(night: Night) -> None:
    """A job waits for a grandchild's question.

    The printed commands lead to the grandchild and answer it.
    """
    worker = night.worker()
    top = worker.enqueue()
    for level in range(2):
        lease = worker.lease_one()
        child = {"job_type": worker.job_type, "payload": {}}
        ids = worker.spawn(lease, f"s{level}", [child])
        worker.settle(lease, "waiting", wait={"kind": "children", "name": "g", "job_ids": ids})
    wait = {"kind": "ask", "name": "n", "question": "Go on?"}
    worker.settle(worker.lease_one(), "waiting", wait=wait)

    def go_on() -> None:
        for _ in range(2):
            worker.settle(worker.lease_one(), "completed", result={})

    night.resolve(top, "waiting_for_children", "child", go_on)
