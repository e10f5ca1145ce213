"""A host of `minutehand serve` that is stopped, as by a deploy or a container platform.

No other host serves these job types at the time.
"""

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.serve.test_serve import Served, served
from tests.support.patience import until
from tests.support.stacks import RunningStack

#: A query of the workers of the started jobs in a list.
WORKERS = """
select workers.worker_id
from queue.leases as leases
join queue.workers as workers using (worker)
join jobs on jobs.id = leases.job_id
where leases.job_id = any(%s::uuid[]) and jobs.progress ->> 'stage' = 'begun'
"""


@pytest.fixture
def delete_jobs(stack: RunningStack) -> Iterator[None]:
    """Delete the jobs of the test at its end, because no other host may run them."""
    yield
    stack.run("delete from jobs where job_type like 'served.%'")


pytestmark = pytest.mark.usefixtures("delete_jobs")


def wait_for_start(host: Served, jobs: list[str], seconds: float = 240) -> set[str]:
    """Wait until all of these jobs have started, and return their workers."""
    find = host.connection.execute
    until(lambda: find(WORKERS, (jobs,)).rowcount == len(jobs), seconds=seconds)
    return {worker for (worker,) in find(WORKERS, (jobs,))}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_host_releases_the_jobs_that_it_runs_unspent(
    stack: RunningStack, tmp_path: Path, number: int
) -> None:
    """A host that gets SIGTERM waits for its worker to release all jobs.

    If the host is killed, its worker releases the jobs and ends. The jobs are pending again without
    a spent attempt.
    """
    with served(stack, tmp_path) as host:
        host.wait_for_types()
        jobs = host.enqueue("served.slow", 30, seconds=50)
        [worker] = wait_for_start(host, jobs)
        children = psutil.Process(host.process.pid).children(recursive=True)
        os.kill(host.process.pid, number)
        host.process.wait(120)
        ended = "select ended_at is not null from queue.workers where worker_id = %s"
        if number == signal.SIGKILL:  # the worker reports its end after it has released the jobs
            released = [("pending",)]
            until(lambda: host.rows("status", jobs) == released and host.one(ended, worker))
        else:
            assert [child for child in children if child.is_running()] == []

        assert worker in host.log.read_text(), "a worker of another host leased the jobs"
        assert host.rows("status, attempts, lost_attempts", jobs) == [("pending", 0, 0)]
        assert host.one(ended, worker)


def test_a_host_reports_a_process_that_dies_while_the_host_stops(
    stack: RunningStack, tmp_path: Path
) -> None:
    """A worker's process ends while its host stops.

    The host reports it. The jobs are pending again immediately, without a spent attempt.
    """
    with served(stack, tmp_path, DATABASE_URL=stack.database_url) as host:
        host.wait_for_types()
        jobs = host.enqueue("served.stubborn", 2, seconds=50)
        wait_for_start(host, jobs)
        host.process.terminate()
        host.process.wait(120)

        left = host.rows("status, attempts, error_data ->> 'reason'", jobs)
        assert left == [("pending", 0, "process_died")]


def test_suspects_that_a_host_finds_at_its_start_run_at_the_same_time(
    stack: RunningStack, tmp_path: Path
) -> None:
    """Each job is alone in its group, and runs until after the worker's next poll."""
    with served(stack, tmp_path) as host:
        host.wait_for_types()
    with stack.connect() as host.connection:
        jobs = host.enqueue("served.slow", 3, seconds=3600)
        request = {"worker_id": "dies", "limit": 3, "job_types": ["served.slow"]}

        def lease() -> Any:  # another session may be opening the turn of the jobs
            call = {**request, "tick_id": str(uuid.uuid4())}
            return host.one("select lease_jobs(%s) -> 'leases'", json.dumps(call))

        until(lease)
        died = {"worker_id": "dies", "evidence": {"signal": "SIGKILL", "companies": 3}}
        assert host.one("select tick_finished(%s)", json.dumps(died))["suspects"] == 3
        with served(stack, tmp_path):
            wait_for_start(host, jobs, seconds=55)
