"""The library outside the console: somebody else's Node program with the official client."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

SCRIPT = Path(__file__).resolve().parent / "js/outside.mjs"
JOBS, WATCHERS = 10, 40


def test_forty_watchers_of_ten_jobs_receive_exactly_what_the_log_holds(
    stack: RunningStack, worker: HandWorker
) -> None:
    """In order, none twice, none missed; and a session's watch the same without log lines."""
    session_id = f"session-{uuid4()}"
    jobs = worker.enqueue_many([{"session_id": session_id}] * JOBS)
    order = {
        "url": stack.supabase_url,
        "key": stack.supabase_publishable_key,
        "token": stack.sign_in(ADA.email),
        "jobs": jobs,
        "sessionId": session_id,
        "watchers": WATCHERS,
    }
    with subprocess.Popen(
        [node_binary(), str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(order))
        program.stdin.close()
        assert program.stdout.readline().strip() == "ready"

        for lease in worker.lease(limit=JOBS):
            for step in range(1, 6):
                worker.report(lease, step * 15, f"step {step}")
            worker.settle(lease, "failed" if step % 2 else "completed")
        told = json.loads(program.stdout.readline())

    log = events_of(stack, jobs)
    for watch in told["watches"]:
        assert watch["told"] == [[seq, kind] for seq, kind in log[watch["jobId"]]]
        assert watch["status"] == "failed"
    for job_id in jobs:
        heard = [[seq, kind] for told_of, seq, kind in told["session"] if told_of == job_id]
        assert heard == [[seq, kind] for seq, kind in log[job_id] if kind != "job.log"]


def events_of(stack: RunningStack, jobs: list[str]) -> dict[str, list[tuple[int, str]]]:
    """What the database holds, by job and in order."""
    log: dict[str, list[tuple[int, str]]] = {}
    with stack.connect() as connection:
        rows: list[Any] = connection.execute(
            "select job_id::text, seq, type from public.job_events where job_id = any(%s::uuid[])"
            " order by job_id, seq",
            (jobs,),
        ).fetchall()
    for job_id, seq, kind in rows:
        log.setdefault(job_id, []).append((seq, kind))
    return log
