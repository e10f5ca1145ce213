"""A worker that a test controls: when it leases, reports, settles or loses a job."""

from __future__ import annotations

import time
from typing import Any, Self
from uuid import uuid4

import httpx
import psycopg

from tests.e2e.console.people import ADA
from tests.support.stacks import RunningStack


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


#: Timeout of a wait, which ends as soon as its condition holds.
PATIENCE_SECONDS = 60.0


class HandWorker:
    """Leases jobs of one type that no other worker serves."""

    def __init__(
        self, stack: RunningStack, workspace_id: str, *, job_type: str | None = None, **policy: Any
    ) -> None:
        self.job_type = job_type or f"by_hand_{uuid4().hex[:8]}"
        self.workspace_id = workspace_id
        self._stack = stack
        self._tick = str(uuid4())
        self._calls = 0
        self._client = httpx.Client(base_url=f"{stack.supabase_url}/rest/v1/rpc/")
        try:
            self.register(**policy)
        except BaseException:
            self._client.close()
            raise

    def register(self, **policy: Any) -> None:
        """Register the type, as a deploy does."""
        self._call("register_job_types", {"p_types": [{"job_type": self.job_type, **policy}]})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        for table in ("public.jobs", "queue.job_types"):
            delete(self._stack, f"delete from {table} where job_type = %s", self.job_type)

    def _call(
        self, function: str, arguments: dict[str, Any], headers: dict[str, str] | None = None
    ) -> Any:
        give_up = time.monotonic() + PATIENCE_SECONDS
        # a thousand histories take longer than the life of a token
        headers = headers or self._stack.headers(self._stack.token(None, role="job_worker"))
        # repeat on 503, because the Data API is loading a changed schema
        while True:
            answer = self._client.post(function, json=arguments, headers=headers)
            if answer.status_code != 503:
                break
            assert time.monotonic() < give_up, answer.text
            time.sleep(0.1)
        assert answer.is_success, answer.text
        return answer.json()

    def enqueue(self, payload: Any = None, **options: Any) -> str:
        """Add a job and return its id."""
        return self.enqueue_many([{"payload": payload or {}, **options}])[0]

    def enqueue_many(self, jobs: list[dict[str, Any]]) -> list[str]:
        """Add jobs as Ada would, through the Data API."""
        made = self._call(
            "enqueue_jobs",
            {
                "p_workspace_id": self.workspace_id,
                "p_jobs": [{"job_type": self.job_type, **job} for job in jobs],
            },
            self._stack.headers(self._stack.sign_in("ada@acme.test")),
        )
        return [one["job"]["id"] for one in made["jobs"]]

    def lease(self, limit: int = 1) -> list[dict[str, Any]]:
        """Lease `limit` jobs. A lease is `{job, fence, …}`.

        Call again like a worker if jobs are missing, because rows that another worker has locked
        are skipped, and reclaims and promotions happen once per second.
        """
        leases: list[dict[str, Any]] = []
        give_up = time.monotonic() + PATIENCE_SECONDS
        while len(leases) < limit:
            leases += self._ask(limit - len(leases))
            if len(leases) < limit:
                assert time.monotonic() < give_up, f"{len(leases)} of {limit} jobs became due"
                time.sleep(0.05)
        return leases

    def lease_soon(self) -> dict[str, Any]:
        """Lease one job."""
        return self.lease()[0]

    def _ask(self, limit: int) -> list[dict[str, Any]]:
        self._calls += 1
        request = {
            "worker_id": "by-hand",
            "tick_id": self._tick,
            "call": self._calls,
            "limit": limit,
            "job_types": [self.job_type],
            "lease_seconds": 900,
        }
        return list(self._call("lease_jobs", {"p_request": request})["leases"])

    def report(
        self, lease: dict[str, Any], percentage: float | None = None, *logs: str, **more: Any
    ) -> str:
        """Report progress and log lines. Returns ok, cancel or lost."""
        item: dict[str, Any] = {"job_id": lease["job"]["id"], "fence": lease["fence"], **more}
        if percentage is not None:
            item["progress"] = {"percentage": percentage, "stage": f"at {percentage}"}
        item["logs"] = [{"level": "info", "message": line} for line in logs] + more.get("logs", [])
        answer = self._call("report_jobs", {"p_request": {**self._me(), "items": [item]}})
        return str(answer["results"][0]["outcome"])

    def settle(self, lease: dict[str, Any], outcome: str = "completed", **more: Any) -> str:
        """End the attempt and return the database's result."""
        item = {"job_id": lease["job"]["id"], "fence": lease["fence"], "outcome": outcome, **more}
        answer = self._call("settle_jobs", {"p_request": {**self._me(), "items": [item]}})
        return str(answer["results"][0]["outcome"])

    def _me(self) -> dict[str, Any]:
        return {"worker_id": "by-hand", "tick_id": self._tick}


def write_chat(
    stack: RunningStack, workspace: dict[str, str], session: str, job: str, **contents: str
) -> None:
    """Store the messages of a new session, by type."""
    with stack.connect() as connection:
        connection.execute(
            "insert into public.async_session_state (session_id, workspace_id, title, created_by)"
            " values (%s, %s, 'How', %s)",
            (session, workspace["id"], ADA.id),
        )
        for kind, content in contents.items():
            connection.execute(
                "insert into public.async_messages (session_id, workspace_id, job_id, type,"
                " content) values (%s, %s, %s, %s, %s)",
                (session, workspace["id"], job, kind, content),
            )
