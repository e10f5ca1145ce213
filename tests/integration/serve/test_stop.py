"""A host of `minutehand serve` that is stopped, as by a deploy or a container platform.

No other host serves these job types at the time.
"""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.serve.test_serve import Served, served
from tests.support.patience import until
from tests.support.stacks import RunningStack

JOBS = 30
#: A query of the number of started jobs in a list, by worker.
RUNNING = """
select workers.worker_id, count(*)
from queue.leases as leases
join queue.workers as workers using (worker)
join public.jobs as jobs on jobs.id = leases.job_id
where leases.job_id = any(%s::uuid[]) and jobs.progress ->> 'stage' = 'begun'
group by workers.worker_id
"""


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_stopped_host_releases_the_jobs_that_it_runs_unspent(
    stack: RunningStack, tmp_path: Path, send: Callable[[int, int], None]
) -> None:
    """A host that gets SIGTERM waits for its worker to release all jobs.

    The jobs are pending again without a spent attempt.
    """
    with stack.connect() as connection, served(stack, tmp_path) as (_, process):
        host = Served(connection, tmp_path / "serve.log")
        host.wait_for_types()
        jobs = host.enqueue("served.slow", JOBS, seconds=50)
        try:
            [(worker, running)] = until(
                lambda: (
                    rows
                    if (rows := connection.execute(RUNNING, (jobs,)).fetchall())
                    and sum(count for _, count in rows) == JOBS
                    else None
                )
            )
            children = psutil.Process(process.pid).children(recursive=True)
            send(process.pid, signal.SIGTERM)
            process.wait(120)
            alive = [child for child in children if child.is_running()]
            left = host.rows("status, attempts, lost_attempts", jobs)
        finally:
            connection.execute("delete from public.jobs where id = any(%s::uuid[])", (jobs,))

    assert worker in host.log.read_text(), "a worker of another host leased the jobs"
    assert running == JOBS
    assert alive == []
    assert left == [("pending", 0, 0)]


def test_a_host_reports_a_process_that_dies_while_the_host_stops(
    stack: RunningStack, tmp_path: Path
) -> None:
    """If a worker's process dies while its host stops, the host reports it.

    The jobs are pending again immediately.
    """
    with (
        stack.connect() as connection,
        served(stack, tmp_path, DATABASE_URL=stack.database_url) as (_, process),
    ):
        host = Served(connection, tmp_path / "serve.log")
        host.wait_for_types()
        jobs = host.enqueue("served.stubborn", 2, seconds=50)
        try:
            until(lambda: sum(count for _, count in connection.execute(RUNNING, (jobs,))) == 2)
            process.terminate()
            process.wait(120)
            left = host.rows("status, attempts, error_data ->> 'reason'", jobs)
        finally:
            connection.execute("delete from public.jobs where id = any(%s::uuid[])", (jobs,))

    assert left == [("pending", 0, "process_died")]


def test_suspects_that_a_host_finds_at_its_start_run_at_the_same_time(
    stack: RunningStack, tmp_path: Path
) -> None:
    """Each job is alone in its group, and runs until after the worker's next poll."""
    with stack.connect() as connection:
        with served(stack, tmp_path):
            host = Served(connection, tmp_path / "serve.log")
            host.wait_for_types()
        jobs = host.enqueue("served.slow", 3, seconds=3600)
        try:
            request = {"worker_id": "dies", "limit": 3, "job_types": ["served.slow"]}
            request["tick_id"] = str(uuid.uuid4())
            host.one("select public.lease_jobs(%s)", json.dumps(request))
            died = {"worker_id": "dies", "evidence": {"signal": "SIGKILL", "companies": 3}}
            assert host.one("select public.tick_finished(%s)", json.dumps(died))["suspects"] == 3
            with served(stack, tmp_path):
                running = "select count(*) from queue.leases where job_id = any(%s::uuid[])"
                until(lambda: connection.execute(running, (jobs,)).fetchone() == (3,), seconds=55)
        finally:
            connection.execute("delete from public.jobs where id = any(%s::uuid[])", (jobs,))
