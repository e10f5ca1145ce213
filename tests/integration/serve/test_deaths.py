"""The job that ends its worker's process spends an attempt, and no other job does.

The processes, signals and exit codes are real. One host serves these job types.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from tests.integration.serve.test_serve import COMMIT, Served, served
from tests.support.engine import GLOBEX
from tests.support.patience import until
from tests.support.stacks import RunningStack


@pytest.fixture(scope="module")
def host(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("deaths")
    with (
        stack.connect() as connection,
        served(
            stack,
            folder,
            DATABASE_URL=stack.database_url,
            # HTTPS rejects its tokens, as those of a machine with a wrong clock
            SUPABASE_JWT_SECRET=secrets.token_hex(32),
            WORKER_CONCURRENCY="250",
        ),
    ):
        made = Served(connection, folder / "serve.log")
        made.wait_for_types()
        yield made


def test_a_thousand_jobs_beside_one_that_ends_its_process_take_one_attempt(host: Served) -> None:
    """The other jobs are coroutines and threads of two tenants.

    The guilty job fails after its attempts.
    """
    ids = [
        *host.enqueue("served.slow", 500, seconds=0.05),
        *host.enqueue("served.plain", 20, seconds=0.05),
    ]
    [guilty] = host.enqueue("served.exit")
    ids += host.enqueue("served.slow", 500, seconds=0.05, workspace=GLOBEX)

    until(lambda: host.has_ended([*ids, guilty]), seconds=240)
    assert host.rows("status, attempts, lost_attempts", ids) == [("completed", 1, 0)]
    assert host.rows("status, attempts, lost_attempts", [guilty]) == [("failed", 2, 2)]
    [(message, evidence)] = host.rows("error_message, error_data -> 'evidence'", [guilty])
    assert "the job ended the process" in message
    assert "exit code 7" in message
    assert (evidence["exit_code"], evidence["jobs"]) == (7, [guilty])
    assert evidence["commit"] == COMMIT
    assert evidence["memory_mb"] > 1
    lines = [
        json.loads(line) for line in host.log.read_text().splitlines() if "worker.died" in line
    ]
    assert [guilty] in [line.get("guilty") for line in lines]
    # the first death, 10 that halve 1,021 jobs until one is alone, and that of its second attempt
    assert len(lines) <= 12


def test_a_job_that_blocks_its_process_is_named_by_the_stack(host: Served) -> None:
    """The process ends itself before its leases expire, and the other job runs again."""
    beside = host.enqueue("served.plain", seconds=30)
    until(lambda: host.rows("status", beside) == [("processing",)])
    guilty = host.enqueue("served.block")

    until(lambda: host.has_ended(guilty), seconds=240)
    assert host.rows("status, lost_attempts", guilty) == [("failed", 1)]
    assert host.rows("lost_attempts", beside) == [(0,)]
    [(evidence,)] = host.rows("error_data -> 'evidence'", guilty)
    # the list may be older than the start of the job that blocks, the stack is not
    assert {*beside} <= {*evidence["jobs"]} <= {*beside, *guilty}
    assert evidence["line"].endswith("in block")
    assert evidence["stack"].index(f"  {evidence['line']}") < 5
    assert (evidence["exit_code"], evidence["guilty_type"]) == (1, "served.block")
    host.connection.execute("select public.cancel_job(%s)", (beside[0],))


@pytest.mark.parametrize(
    ("job_type", "count", "error", "signal"),
    [
        ("served.batch", 9, "WorkerLost", "SIGKILL"),
        ("served.plain_batch", 1, "AttemptTimeout", None),
    ],
)
def test_a_batch_that_fails_costs_only_the_item_that_made_it_fail(
    host: Served, job_type: str, count: int, error: str, signal: str | None
) -> None:
    """The batch ends its process, or hangs in a thread. The other jobs complete."""
    with host.connection.transaction():  # so that one call gets all jobs of the batch
        beside = host.enqueue(job_type, count)
        guilty = host.enqueue(job_type, fails=True)

    until(lambda: host.has_ended([*beside, *guilty]), seconds=240)
    assert host.rows("status, attempts, lost_attempts", beside) == [("completed", 1, 0)]
    ending = "status, attempts, error_data ->> 'type', error_data -> 'evidence' ->> 'signal'"
    assert host.rows(ending, guilty) == [("failed", 1, error, signal)]
