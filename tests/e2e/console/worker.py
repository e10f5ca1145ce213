"""A worker moved by hand: tests say when a job is leased, reports, settles or is lost."""

from __future__ import annotations

import time
from base64 import b64encode
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


class HandWorker:
    """Leases jobs of one type, which nobody else has a processor for."""

    def __init__(
        self, stack: RunningStack, workspace_id: str, *, job_type: str | None = None
    ) -> None:
        self.job_type = job_type or f"by_hand_{uuid4().hex[:8]}"
        self.workspace_id = workspace_id
        self._stack = stack
        self._tick = str(uuid4())
        self._calls = 0
        self._code: dict[str, Any] = {}
        self._client = httpx.Client(
            base_url=f"{stack.supabase_url}/rest/v1/rpc/",
            headers=stack.headers(stack.token(None, role="job_worker")),
        )
        try:
            self._call("register_job_types", {"p_types": [{"job_type": self.job_type}]})
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        for table in ("public.jobs", "queue.job_types"):
            delete(self._stack, f"delete from {table} where job_type = %s", self.job_type)

    def _call(self, function: str, arguments: dict[str, Any]) -> Any:
        give_up = time.monotonic() + 30
        # as every client of the Data API: 503 while it reads a changed schema means once more
        while (answer := self._client.post(function, json=arguments)).status_code == 503:
            assert time.monotonic() < give_up, answer.text
            time.sleep(0.1)
        assert answer.is_success, answer.text
        return answer.json()

    def enqueue(self, payload: Any = None, **options: Any) -> str:
        """Add a job; returns its id."""
        return self.enqueue_many([{"payload": payload or {}, **options}])[0]

    def enqueue_many(self, jobs: list[dict[str, Any]]) -> list[str]:
        """Add jobs as Ada would, through the Data API."""
        token = self._stack.sign_in("ada@acme.test")
        answer = self._client.post(
            "enqueue_jobs",
            headers=self._stack.headers(token),
            json={
                "p_workspace_id": self.workspace_id,
                "p_jobs": [{"job_type": self.job_type, **job} for job in jobs],
            },
        )
        assert answer.is_success, answer.text
        return [made["job"]["id"] for made in answer.json()["jobs"]]

    def deploy(self, commit: str, source: str = "https://github.com/acme/app") -> None:
        """Run this commit from the next lease on."""
        self._code = {"version": "7", "origin": {"commit": commit, "source": source}}
        self._tick, self._calls = str(uuid4()), 0

    def lease(self, limit: int = 1, *, lease_seconds: int = 900) -> list[dict[str, Any]]:
        """Lease jobs, `limit` of them or all that are due; a lease is `{job, fence, …}`.

        What another worker is looking at is passed over, and what has just become due waits for
        maintenance: as a worker does, ask again, for a second, or as long as something is due.
        """
        leases: list[dict[str, Any]] = []
        began = time.monotonic()
        while True:
            self._calls += 1
            request = {
                "worker_id": "by-hand",
                "tick_id": self._tick,
                "call": self._calls,
                "limit": limit - len(leases),
                "job_types": [self.job_type],
                "lease_seconds": lease_seconds,
                **self._code,
            }
            answer = self._call("lease_jobs", {"p_request": request})
            leases += answer["leases"]
            waited = time.monotonic() - began
            if len(leases) == limit or waited > (60 if answer["next_due_in_ms"] == 0 else 1):
                return leases
            time.sleep(0.05)

    def lease_soon(self, seconds: float = 60) -> dict[str, Any]:
        """Lease one job, waiting for reclaims and promotions, which happen once a second."""
        give_up = time.monotonic() + seconds
        while not (leases := self.lease()):
            assert time.monotonic() < give_up, "no job became due"
            time.sleep(0.2)
        return leases[0]

    def report(
        self, lease: dict[str, Any], percentage: float | None = None, *logs: str, **more: Any
    ) -> str:
        """Report progress and log lines; returns ok, cancel or lost."""
        item: dict[str, Any] = {"job_id": lease["job"]["id"], "fence": lease["fence"], **more}
        if percentage is not None:
            item["progress"] = {"percentage": percentage, "stage": f"at {percentage}"}
        item["logs"] = [{"level": "info", "message": line} for line in logs] + more.get("logs", [])
        answer = self._call("report_jobs", {"p_request": {**self._me(), "items": [item]}})
        outcome: str = answer["results"][0]["outcome"]
        return outcome

    def settle(self, lease: dict[str, Any], outcome: str = "completed", **more: Any) -> str:
        """End the attempt; returns what became of that."""
        item = {"job_id": lease["job"]["id"], "fence": lease["fence"], "outcome": outcome, **more}
        answer = self._call("settle_jobs", {"p_request": {**self._me(), "items": [item]}})
        applied: str = answer["results"][0]["outcome"]
        return applied

    def store(self, lease: dict[str, Any], name: str, content: bytes, media_type: str) -> None:
        """Store a file of a leased job."""
        held = {"job_id": lease["job"]["id"], "fence": lease["fence"], "keep_seconds": 3600}
        file = {"name": name, "media_type": media_type, "content": b64encode(content).decode()}
        self._call("store_artefact", {"p_request": held | file})

    def database(self) -> psycopg.Connection[Any]:
        """Open a superuser's connection, for what a test plants."""
        return self._stack.connect()

    def run(self, outcome: str = "completed", **more: Any) -> str:
        """Lease the next job and end it at once; returns its id."""
        lease = self.lease_soon()
        self.settle(lease, outcome, **more)
        job_id: str = lease["job"]["id"]
        return job_id

    def spawn(self, lease: dict[str, Any], count: int, *, job_type: str | None = None) -> list[str]:
        """Make child jobs."""
        answer = self._call(
            "spawn_jobs",
            {
                "p_request": {
                    "job_id": lease["job"]["id"],
                    "fence": lease["fence"],
                    "name": "parts",
                    "children": [
                        {"job_type": job_type or self.job_type, "payload": {"part": part}}
                        for part in range(count)
                    ],
                }
            },
        )
        ids: list[str] = answer["job_ids"]
        return ids

    def _me(self) -> dict[str, Any]:
        return {"worker_id": "by-hand", "tick_id": self._tick}
