"""A worker moved by hand: tests say when a job is leased, reports, settles or is lost."""

from __future__ import annotations

import time
from typing import Any, Self
from uuid import uuid4

import httpx
import psycopg

from tests.support.stacks import RunningStack


def delete(stack: RunningStack, statement: str, *values: Any) -> None:
    """Delete what a test has made, while the stack's own workers may still run some of it.

    A deletion waits for the jobs that run as it begins. A job that is leased after that is locked
    before the app's rows, which the deletion locks first: of a deadlock's two transactions one
    fails and is to be repeated.
    """
    with stack.connect() as connection:
        while True:
            try:
                connection.execute(statement.encode(), values)
                return
            except psycopg.errors.DeadlockDetected:
                time.sleep(0.05)


#: Until what must come; it ends as soon as it is there.
PATIENCE_SECONDS = 60.0


class HandWorker:
    """Leases jobs of one type, for which no one else has a processor."""

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
        """Publish the type, as a deploy does."""
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
        # a token lives as long as a test, and a thousand histories are longer than that
        headers = headers or self._stack.headers(self._stack.token(None, role="job_worker"))
        # as every client of the Data API: 503 while it reads a changed schema means once more
        while True:
            answer = self._client.post(function, json=arguments, headers=headers)
            if answer.status_code != 503:
                break
            assert time.monotonic() < give_up, answer.text
            time.sleep(0.1)
        assert answer.is_success, answer.text
        return answer.json()

    def enqueue(self, payload: Any = None, **options: Any) -> str:
        """Add a job; returns its id."""
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
        """Lease `limit` jobs; a lease is `{job, fence, …}`.

        What another worker is looking at is passed over, and reclaims and promotions happen once
        a second: as a worker does, ask again.
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
        """Report progress and log lines; returns ok, cancel or lost."""
        item: dict[str, Any] = {"job_id": lease["job"]["id"], "fence": lease["fence"], **more}
        if percentage is not None:
            item["progress"] = {"percentage": percentage, "stage": f"at {percentage}"}
        item["logs"] = [{"level": "info", "message": line} for line in logs] + more.get("logs", [])
        answer = self._call("report_jobs", {"p_request": {**self._me(), "items": [item]}})
        return str(answer["results"][0]["outcome"])

    def settle(self, lease: dict[str, Any], outcome: str = "completed", **more: Any) -> str:
        """End the attempt; returns what became of that."""
        item = {"job_id": lease["job"]["id"], "fence": lease["fence"], "outcome": outcome, **more}
        answer = self._call("settle_jobs", {"p_request": {**self._me(), "items": [item]}})
        return str(answer["results"][0]["outcome"])

    def _me(self) -> dict[str, Any]:
        return {"worker_id": "by-hand", "tick_id": self._tick}
