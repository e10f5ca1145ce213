"""The whole service on the local stack: what a newcomer tries, what a crash must not cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from tests.support.stacks import RunningStack

pytestmark = pytest.mark.usefixtures("acme_key")

ACCOUNT = "ac000000-0000-4000-8000-000000000001"
ENDED = {"completed", "failed", "cancelled"}


def until(read: Callable[[], Any], wanted: Callable[[Any], bool], *, seconds: float = 120) -> Any:
    """Read until it is as wanted; returns what was read last."""
    deadline = time.monotonic() + seconds
    while not wanted(value := read()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def job_of(stack: RunningStack, job_id: str) -> dict[str, Any]:
    """Read a job as its owner, past the API, which may be down."""
    answer = httpx.get(
        f"{stack.supabase_url}/rest/v1/jobs?id=eq.{job_id}&select=status,attempts,progress",
        headers=stack.headers(stack.sign_in(stack.demo_email)),
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()[0]
    return found


def enqueue(stack: RunningStack) -> str:
    """Enqueue an enrichment through the API."""
    answer = httpx.post(
        f"{stack.api_url}/api/jobs",
        headers={"Authorization": f"Bearer {stack.sign_in(stack.demo_email)}"},
        json={
            "workspace_id": stack.demo_workspace_id,
            "job_type": "enrich_account",
            "payload": {"account_id": ACCOUNT, "domain": "example.com"},
        },
    )
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


@pytest.mark.stack
def test_a_job_whose_api_is_killed_is_finished_by_the_next_one(doomed: RunningStack) -> None:
    """Kill -9 in the middle of a job costs an attempt and nothing else."""
    [api] = [
        process
        for process in psutil.Process(doomed.launcher.pid).children()
        if "minutehand.local.api" in process.cmdline()
    ]

    def workers() -> list[psutil.Process]:
        return [each for each in api.children() if "minutehand.local.worker" in each.cmdline()]

    [worker] = until(workers, bool)  # a test before may have killed the API too
    with doomed.connect(autocommit=False) as holder:
        # the job reads them first, so it is in the middle until it is killed
        holder.execute("lock table public.workspace_settings in access exclusive mode")
        job_id = enqueue(doomed)
        until(lambda: job_of(doomed, job_id), lambda job: job["status"] == "processing")
        with doomed.connect() as connection:
            fence = connection.execute(
                "select fence from queue.leases where job_id = %s", (job_id,)
            ).fetchone()
        assert fence is not None
        worker.suspend()  # it would hand the job back when the API's end reaches it
        api.kill()
        worker.kill()
        holder.rollback()

    assert job_of(doomed, job_id)["status"] == "processing"
    with doomed.connect() as connection:

        def expire_first() -> dict[str, Any]:
            # again and again: a report of the dead worker may still be on its way, and renew it
            connection.execute(
                "update queue.leases set expires_at = now() - interval '1 second'"
                " where job_id = %s and fence = %s",
                (job_id, *fence),
            )
            return job_of(doomed, job_id)

        job = until(expire_first, lambda job: job["status"] in ENDED)
        types = [
            row[0]
            for row in connection.execute(
                "select type from public.job_events where job_id = %s order by seq", (job_id,)
            ).fetchall()
        ]
    assert (job["status"], job["attempts"]) == ("completed", 2)
    assert types.count("job.completed") == 1
    assert types.count("job.reclaimed") == 1
