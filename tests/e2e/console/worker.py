"""A worker that a test controls: when it leases, reports, settles or loses a job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import uuid4

import psycopg

from tests.e2e.console.people import ADA
from tests.support.engine import Engine, Json
from tests.support.patience import until
from tests.support.stacks import RunningStack

if TYPE_CHECKING:
    from tests.support.databases import Database


def delete(stack: RunningStack, statement: str, *values: Any) -> None:
    """Delete the rows of a test while the stack's own workers may still run some of its jobs.

    A deletion waits for running jobs. A job that is leased later locks its row before the app's
    rows, and the deletion locks them in the other order. One of the two then fails with a deadlock,
    so the deletion is repeated.
    """
    with stack.connect() as connection:
        while True:
            try:
                connection.execute(statement.encode(), values)
                return
            except psycopg.errors.DeadlockDetected:
                time.sleep(0.05)


class HandWorker(Engine):
    """A worker that a test controls. No other worker serves its job type."""

    def __init__(
        self, stack: RunningStack, workspace_id: str, *, job_type: str | None = None
    ) -> None:
        # this engine opens no other session
        super().__init__(cast("Database", stack), stack.connect())
        self._stack = stack
        self.job_type = job_type or f"by_hand_{uuid4().hex[:8]}"
        self.workspace_id = workspace_id
        self.register(self.job_type)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        for table in ("public.jobs", "queue.job_types"):
            delete(self._stack, f"delete from {table} where job_type = %s", self.job_type)

    def enqueue(self, payload: Json | None = None, **options: Any) -> str:
        """Add a job and return its id."""
        return self.enqueue_all([{"payload": payload or {}, **options}])[0]

    def enqueue_all(self, items: list[Json], _: str = "") -> list[str]:
        """Enqueue several jobs in one call."""
        jobs = [{**job, "job_type": self.job_type} for job in items]
        return super().enqueue_all(jobs, self.workspace_id)

    def lease(self, limit: int = 1, **request: Any) -> list[Json]:
        """Lease `limit` jobs.

        The call is repeated, because it skips rows that others have locked.
        """
        leases: list[Json] = []
        request |= {"job_types": [self.job_type], "lease_seconds": 900}

        def has_all() -> bool:
            leases.extend(super(HandWorker, self).lease(limit - len(leases), **request))
            return len(leases) == limit

        until(has_all)
        return leases

    def report(self, lease: Json, percentage: float | None = None, *logs: str, **news: Any) -> str:
        """Report progress and log lines. Returns ok, cancel or lost."""
        if percentage is not None:
            news["progress"] = {"percentage": percentage, "stage": f"at {percentage}"}
        lines = [{"level": "info", "message": line} for line in logs]
        return super().report(lease, **{"logs": lines, **news})

    def write_chat(self, session: str, job: str, **contents: str) -> None:
        """Store messages of a new chat session, by type."""
        self.run(
            "insert into async_session_state (session_id, workspace_id, title, created_by)"
            " values (%s, %s, 'How', %s)",
            *(session, self.workspace_id, ADA.id),
        )
        for kind, content in contents.items():
            self.run(
                "insert into async_messages (session_id, workspace_id, job_id, type,"
                " content) values (%s, %s, %s, %s, %s)",
                *(session, self.workspace_id, job, kind, content),
            )
