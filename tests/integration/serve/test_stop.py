"""A served host that is stopped, as a deploy or a container platform stops it.

No other host serves these job types here, so that the stopped one must have the jobs. The hosts of
`test_serve.py` have ended before this file begins.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.serve.test_serve import served
from tests.support.engine import ACME
from tests.support.patience import until
from tests.support.stacks import RunningStack

JOBS = 30
ENQUEUE = """
insert into public.jobs (workspace_id, job_type, payload)
select %s, 'served.slow', %s from generate_series(1, %s)
returning id
"""
#: Number of these jobs that have started, by the worker with their leases.
RUNNING = """
select workers.worker_id, count(*)
from queue.leases as leases
join queue.workers as workers using (worker)
join public.jobs as jobs on jobs.id = leases.job_id
where leases.job_id = any(%s) and jobs.progress ->> 'stage' = 'begun'
group by workers.worker_id
"""


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_stopped_host_releases_the_jobs_that_it_runs_unspent(
    stack: RunningStack, tmp_path: Path, send: Callable[[int, int], None]
) -> None:
    """After SIGTERM under load, to the host or its process group, the host waits for its worker.

    Every job is pending before the host has ended, and so has each of its processes.
    """
    with stack.connect() as connection, served(stack, tmp_path) as (_, process):
        slow = json.dumps({"seconds": 50})
        # the types of the host are published by its first run
        known = "select count(*) from queue.job_types where job_type = 'served.slow'"
        until(lambda: connection.execute(known).fetchone() == (1,))
        rows = connection.execute(ENQUEUE, (ACME, slow, JOBS)).fetchall()
        jobs = [job for (job,) in rows]
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
            left = connection.execute(
                "select status, attempts, lost_attempts, count(*) from public.jobs"
                " where id = any(%s) group by 1, 2, 3",
                (jobs,),
            ).fetchall()
            log = (tmp_path / "serve.log").read_text()
        finally:
            connection.execute("delete from public.jobs where id = any(%s)", (jobs,))

    assert worker in log, "another worker had the jobs"
    assert running == JOBS
    assert alive == []
    assert left == [("pending", 0, 0, JOBS)]
