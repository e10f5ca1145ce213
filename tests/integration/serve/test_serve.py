"""`minutehand serve` without AWS: a host that the database invokes.

The command and the database are real. pg_net, pg_cron and the Vault are stand-ins whose recorded
calls `performed` makes.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from supabase_local.ports import reserve_port
from tests.support.engine import ACME
from tests.support.extensions import PG_CRON, PG_NET, VAULT, create, drop
from tests.support.paths import ROOT
from tests.support.patience import responds, until
from tests.support.stacks import RunningStack

TOKEN = "a-worker-secret-of-this-test-alone"
COMMIT = "c0ffee" * 6 + "c0de"


ENQUEUE = """
insert into jobs (workspace_id, job_type, payload, concurrency_key, scheduled_for)
select %s, %s, %s, %s, now() + n * make_interval(secs => %s) from generate_series(1, %s) as n
returning id
"""


@dataclass
class Served:
    """A process of `minutehand serve`, and its database."""

    connection: psycopg.Connection[Any]
    log: Path
    url: str
    process: subprocess.Popen[bytes]

    def one(self, query: str, *values: Any) -> Any:
        """Return the first column of the row that a statement returns."""
        row = self.connection.execute(query.encode(), values or None).fetchone()
        assert row is not None
        return row[0]

    def wait_for_types(self) -> None:
        """Wait until the first worker run has registered the job types.

        Fail if the worker cannot reach the queue.
        """
        known = "select count(*) from queue.job_types where job_type = 'served.greet'"

        def are_known() -> bool:
            self.assert_alive()
            log = self.log.read_text()
            assert log.count("worker.unavailable") < 3, log
            return self.one(known)

        until(are_known)

    def assert_alive(self) -> None:
        """Fail with the log if the process has ended."""
        assert self.process.poll() is None, self.log.read_text()[-4000:]

    def enqueue(
        self,
        job_type: str,
        count: int = 1,
        *,
        workspace: str = ACME,
        key: str | None = None,
        every: float | None = None,
        **payload: Any,
    ) -> list[str]:
        """Insert jobs with plain SQL, as an application does. `every` schedules them by seconds."""
        values = (workspace, job_type, json.dumps(payload), key, every, count)
        return [str(job) for (job,) in self.connection.execute(ENQUEUE, values).fetchall()]

    def rows(self, columns: str, ids: Sequence[str]) -> list[Any]:
        """Return the distinct values of these columns of some jobs."""
        query = f"select distinct {columns} from jobs where id = any(%s::uuid[])"
        return self.connection.execute(query.encode(), (list(ids),)).fetchall()

    def has_ended(self, ids: Sequence[str]) -> bool:
        """Return whether all of these jobs have ended. Fail if the process has ended before."""
        self.assert_alive()
        return self.rows("finished_at is not null", ids) == [(True,)]


@contextmanager
def served(
    stack: RunningStack, folder: Path, *options: str | Path, **environ: str
) -> Iterator[Served]:
    """Run `minutehand serve` on a free port, as a container does."""
    port = reserve_port()
    names = ("URL", "PUBLISHABLE_KEY", "JWT_SECRET")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'shared'}",
        "MINUTEHAND_PROJECT": str(folder),
        "MINUTEHAND_APPS": "tests.integration.serve.greeter",
        "WORKER_SECRET_TOKEN": TOKEN,
        "MINUTEHAND_COMMIT": COMMIT,
        **{f"SUPABASE_{name}": stack.values[f"SUPABASE_{name}"] for name in names},
        **environ,
    }
    command = [sys.executable, "-m", "minutehand.cli", "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), *map(str, options)]
    log_file = folder / "serve.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:

        def is_alive() -> bool:
            assert process.poll() is None, log_file.read_text()
            return responds(f"{url}/health")

        until(is_alive)
        with stack.connect() as connection:
            yield Served(connection, log_file, url, process)
    finally:
        process.terminate()
        process.wait(120)


@contextmanager
def performed(stack: RunningStack) -> Iterator[None]:
    """Make the HTTP calls that pg_net's stand-in has recorded."""
    stopping = threading.Event()

    def run() -> None:
        with stack.connect() as connection, httpx.Client() as client:
            while not stopping.wait(0.02):
                for number, url, headers, body in connection.execute(
                    "delete from net.http_request_queue returning id, url, headers, body"
                ).fetchall():
                    answer = client.post(url, headers=headers, content=body)
                    connection.execute(
                        "insert into net._http_response (id, status_code, content)"
                        " values (%s, %s, %s)",
                        (number, answer.status_code, answer.text),
                    )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@pytest.fixture(scope="module")
def host(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A process of `minutehand serve` that the database invokes."""
    folder = tmp_path_factory.mktemp("serve")
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'shared'}"}
    command = [sys.executable, "-m", "minutehand.deploy.console", str(folder / "console")]
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    with served(stack, folder, "--console", folder / "console") as made:
        connection = made.connection
        create(connection, PG_NET, VAULT, PG_CRON)
        try:
            worker = f"{made.url}/api/jobs/worker"
            made.one("select connect_worker(%s, %s)", worker, TOKEN)
            with performed(stack):
                # Make pg_cron's call of each minute as its owner. This worker run registers the job
                # types.
                minute = "select username, command from cron.job where schedule = '* * * * *'"
                [(owner, command)] = connection.execute(minute).fetchall()
                with stack.connect(options=f"-c role={owner}") as session:
                    session.execute(command)
                made.wait_for_types()
                yield made
        finally:
            drop(connection)
            connection.execute("delete from queue.settings where name like 'worker_%'")


def samples_of(host: Served) -> dict[tuple[str, ...], float]:
    """Return the samples of `/metrics` by name and labels."""
    response = httpx.get(f"{host.url}/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_prometheus_reads_the_whole_queue(host: Served) -> None:
    """`/metrics` returns OpenMetrics samples of the queue. A caller needs the worker's secret.

    When an INSERT of a job commits, the database calls the worker, which runs the job.
    """
    counted = ("minutehand_jobs_last_hour", "served.greet", "completed")

    def another_is_counted() -> float | None:
        # Maintenance of later worker runs updates the statistics.
        job = host.enqueue("served.greet", name="Ada")
        until(lambda: host.rows("status", job) == [("completed",)])
        return samples_of(host).get(counted)

    others: Any = ({}, {"authorization": "Bearer another"}, {"authorization": f"Basic {TOKEN}"})
    refused = [httpx.get(f"{host.url}/metrics", headers=given) for given in others]
    until(another_is_counted)
    samples = samples_of(host)

    assert {answer.status_code for answer in refused} == {401}
    assert "served.greet" not in "".join(answer.text for answer in refused)
    assert samples[counted] >= 1
    assert samples["minutehand_run_seconds", "served.greet", "0.95"] > 0
    assert samples["minutehand_process_deaths", "served.greet"] == 0
    assert samples["minutehand_due_jobs", "unserved"] >= 0
    assert ("minutehand_oldest_due_seconds",) in samples
    assert ("minutehand_worker_seen_seconds",) in samples


def test_the_api_accepts_and_runs(host: Served, stack: RunningStack) -> None:
    """The API's routes on the served host accept a job, which then runs.

    Unknown routes return 404.
    """
    headers = {"Authorization": f"Bearer {stack.sign_in(stack.demo_email)}"}
    body = {"workspace_id": ACME, "job_type": "served.greet", "payload": {"name": "Eve"}}
    with httpx.Client(base_url=host.url, headers=headers) as client:
        made = client.post("/api/jobs", json=body)
        assert made.status_code == 201, made.text
        job = made.json()["id"]

        until(lambda: client.get(f"/api/jobs/{job}").json()["status"] == "completed")
        ready = client.get("/api/health/ready")
        nothing = client.get("/api/nowhere")
        odd = [(b"authorization", "Bearer é".encode()), (b"host", b"[")]
        stranger = client.post("/api/jobs/worker", headers=odd)

    assert (stranger.status_code, stranger.json()["error"]) == (401, "Unauthorized")
    assert ready.status_code == 200, ready.text
    assert (nothing.status_code, nothing.json()["code"]) == (404, "route_not_found")


def test_the_console_is_served_beside_the_api(host: Served, stack: RunningStack) -> None:
    """The served host also serves the console's files, with a strict content security policy."""
    with httpx.Client(base_url=host.url) as client:
        page, deep, config, script = (
            client.get(path) for path in ("/", "/jobs/1", "/config.json", "/app.js")
        )
        # A console page of version 0.5.1 that is still open may request these files.
        missing = {client.get(f"/{name}.js").status_code for name in ("parts/when", "lib/ui")}

    assert page.text == deep.text
    policy = page.headers["content-security-policy"]
    assert ("script-src 'self'" in policy, "default-src 'none'" in policy) == (True, True)
    assert ("unsafe" in policy, missing) == (False, {404})
    assert config.json()["supabaseUrl"] == stack.supabase_url
    assert "secret" not in config.text.lower()
    assert stack.supabase_jwt_secret not in config.text
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["content-encoding"] == "gzip"
