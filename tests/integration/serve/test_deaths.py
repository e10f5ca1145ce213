"""The job that ends its worker's process spends an attempt, and no other job does.

The processes, signals and exit codes are real.
"""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.serve.test_serve import COMMIT, Served, served
from tests.support.engine import GLOBEX, Json
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.stacks import RunningStack


@pytest.fixture(scope="module")
def host(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("deaths")
    with served(
        stack,
        folder,
        DATABASE_URL=stack.database_url,
        # The API rejects this worker's tokens, as if the secret were revoked.
        SUPABASE_JWT_SECRET=secrets.token_hex(32),
        WORKER_CONCURRENCY="250",
        WORKER_THREADS="50",
    ) as made:
        made.wait_for_types()
        yield made


def logged_deaths(host: Served) -> list[Json]:
    """Return the log lines about worker processes that died."""
    lines = host.log.read_text().splitlines()
    return [json.loads(line) for line in lines if "worker.died" in line]


def wait_for_fates(host: Served, others: list[str], guilty: list[str]) -> None:
    """Wait until all jobs have ended. Check that only the guilty ones lost their two attempts."""
    until(lambda: host.has_ended([*others, *guilty]))
    spent = "status, attempts, lost_attempts"
    assert host.rows(spent, others) == [("completed", 1, 0)]
    assert host.rows(spent, guilty) == [("failed", 2, 2)]


def test_a_thousand_jobs_beside_one_that_ends_its_process_take_one_attempt(host: Served) -> None:
    """One of 1,021 jobs ends each process that runs it.

    That job fails after its two attempts, and all others complete with one.
    """
    ids = [
        *host.enqueue("served.slow", 500, seconds=0.05),
        *host.enqueue("served.plain", 20, seconds=0.05),
    ]
    [guilty] = host.enqueue("served.exit")
    ids += host.enqueue("served.slow", 500, seconds=0.05, workspace=GLOBEX)

    wait_for_fates(host, ids, [guilty])
    [(message, evidence)] = host.rows("error_message, error_data -> 'evidence'", [guilty])
    assert "while the job ran" in message
    assert "exit code 7" in message
    assert (evidence["exit_code"], evidence["jobs"]) == (7, [guilty])
    assert evidence["commit"] == COMMIT
    assert evidence["memory_mb"] > 1
    deaths = logged_deaths(host)
    assert [guilty] in [death.get("guilty") for death in deaths]
    # once with all jobs, and once alone in each attempt
    assert len(deaths) == 3


@pytest.mark.parametrize(("job_type", "code"), [("served.exit", 7), ("served.plain_exit", 0)])
def test_thirty_jobs_beside_one_of_their_type_that_ends_its_process_run_once_more(
    host: Served, job_type: str, code: int
) -> None:
    """One of 31 jobs of a type ends their process, which records whose code did.

    That job then runs alone. The 30 others complete with one attempt, in two processes.
    """
    before = len(logged_deaths(host))
    with host.connection.transaction():
        ids = host.enqueue(job_type, 30, seconds=2, ends_process=False)
        guilty = host.enqueue(job_type, seconds=1, code=code)

    wait_for_fates(host, ids, guilty)
    assert host.rows("error_data -> 'evidence' -> 'exit_code'", guilty) == [(code,)]
    assert [*host.rows("fence", ids), *host.rows("fence", guilty)] == [(2,), (3,)]
    until(lambda: len(logged_deaths(host)) == before + 3)  # logged after the report to the queue
    processes = "select count(distinct worker) from queue.attempts where job_id = any(%s::uuid[])"
    assert host.one(f"{processes} and outcome = 'completed'", ids) == 2


def test_a_job_that_blocks_its_process_is_named_by_the_stack(host: Served) -> None:
    """A job blocks its whole process, which then ends itself.

    The stack trace names that job, and the other job loses no attempt.
    """
    beside = host.enqueue("served.plain", seconds=30)
    until(lambda: host.rows("status", beside) == [("processing",)])
    guilty = host.enqueue("served.block")

    until(lambda: host.has_ended(guilty))
    assert host.rows("status, lost_attempts", guilty) == [("failed", 1)]
    assert host.rows("lost_attempts", beside) == [(0,)]
    [(evidence,)] = host.rows("error_data -> 'evidence'", guilty)
    # The recorded list of jobs may be older than the blocking job. The stack trace is not.
    assert {*beside} <= {*evidence["jobs"]} <= {*beside, *guilty}
    assert evidence["line"].endswith("in block")
    assert evidence["stack"].index(f"  {evidence['line']}") < 5
    assert (evidence["exit_code"], evidence["guilty_type"]) == (1, "served.block")
    host.connection.execute("select cancel_job(%s)", (beside[0],))


@pytest.mark.parametrize(
    ("job_type", "count", "how", "error", "signal_name"),
    [
        ("served.batch", 9, "SIGKILL", "WorkerLost", "SIGKILL"),
        ("served.batch", 9, "SIGSTOP", "WorkerLost", "SIGSTOP"),
        ("served.plain_batch", 1, "hangs", "AttemptTimeout", None),
    ],
)
def test_a_batch_that_fails_costs_only_the_item_that_made_it_fail(
    host: Served, job_type: str, count: int, how: str, error: str, signal_name: str | None
) -> None:
    """If one job ends or stops its batch's process, or hangs in a thread, that job fails.

    The other jobs of the batch complete.
    """
    with host.connection.transaction():  # one call then gets all jobs of the batch
        beside, guilty = host.enqueue(job_type, count), host.enqueue(job_type, how=how)

    until(lambda: host.has_ended([*beside, *guilty]))
    assert host.rows("status, attempts, lost_attempts", beside) == [("completed", 1, 0)]
    ending = "status, attempts, error_data ->> 'type', error_data -> 'evidence' ->> 'signal'"
    assert host.rows(ending, guilty) == [("failed", 1, error, signal_name)]


def test_a_worker_that_is_killed_from_outside_costs_no_attempt(host: Served) -> None:
    """A worker's process is killed from outside.

    All its 250 jobs complete with one attempt within two minutes, and no word of the dead attempts
    stays.
    """
    talks = host.enqueue("served.talk", 3, seconds=2)
    ids = [*talks, *host.enqueue("served.slow", 247, seconds=2)]
    running = "select count(*) from queue.leases where job_id = any(%s::uuid[])"
    until(lambda: host.connection.execute(running, (ids,)).fetchone() == (250,))
    words = "select count(*) from queue.output where job_id = any(%s::uuid[]) and text = 'one '"
    until(lambda: host.connection.execute(words, (talks,)).fetchone() == (3,))

    [fork_server] = psutil.Process(host.process.pid).children()
    for worker in fork_server.children():
        os.kill(worker.pid, signal.SIGKILL)

    until(lambda: host.has_ended(ids))
    assert host.rows("status, attempts, lost_attempts", ids) == [("completed", 1, 0)]
    output = host.one("select job_output(%s)", talks[0])
    assert [stream["text"] for stream in output["streams"]] == ["one two"]
    until(lambda: len(fork_server.children()) == 1)


@pytest.mark.weekly(only=True)
@pytest.mark.parametrize("release", ["0.4.4", "0.5.1"])
def test_deaths_beside_a_worker_of_an_earlier_release_cost_no_other_job_an_attempt(
    host: Served, stack: RunningStack, tmp_path: Path, release: str
) -> None:
    """Jobs end processes of this release and of an earlier release, which has its own host.

    The other jobs of both workers complete with one attempt.
    """
    history = ["git", "-C", str(ROOT)]
    found = [*history, "log", "-1", "--format=%H", f"--grep=^release: {release}$"]
    commit = subprocess.check_output(found, text=True).strip()
    archive = subprocess.check_output([*history, "archive", commit, "shared"])
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive, check=True)
    paths = f"{tmp_path / 'shared'}:{ROOT}"
    guilty: list[str] = []
    with served(stack, tmp_path, DATABASE_URL=stack.database_url, PYTHONPATH=paths) as old:
        before = len(logged_deaths(host))
        ids = host.enqueue("served.slow", 200, every=0.1, seconds=1)

        def have_both_died() -> bool:
            guilty.extend(host.enqueue("served.exit", every=1))
            return len(logged_deaths(host)) > before and bool(logged_deaths(old))

        until(have_both_died, every=2)
        wait_for_fates(host, ids, guilty)
