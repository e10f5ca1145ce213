"""Planted faults: one table of what a stranger must find, and the product that runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from minutehand.local.users import ADA, BOB
from supabase_local.ports import reserve_port
from tests.e2e.console import faulty
from tests.e2e.console.worker import delete
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack

SOURCE = Path(faulty.__file__).parent / "processors.py"


@dataclass(frozen=True)
class Fault:
    """One way to go wrong, and the words of cause and remedy."""

    name: str
    #: The job type, without the app's name.
    kind: str
    cause: tuple[str, ...]
    remedy: str
    #: Of the type whose line is at fault; "" where none is.
    line: str = ""
    #: What a job is waited for in; "" where the fault makes none.
    state: str = "failed"
    #: How it is found from the list of jobs: links and buttons by name; "job" is its row,
    #: "remedy" what to do first.
    way: tuple[str, ...] = ("job",)
    #: What plants it, and takes it away again; `{workspace}` is the host's.
    sql: str = ""
    undo: str = ""

    @property
    def place(self) -> str:
        """The line at fault, as file:line."""
        lines = SOURCE.read_text().splitlines()
        [at] = [n for n, line in enumerate(lines, 1) if line.endswith(f"# {self.line}")]
        return f"{SOURCE.name}:{at}"

    @property
    def words(self) -> list[str]:
        """What must be there to be read: cause, line and remedy."""
        return [*self.cause, *([self.place] if self.line else []), self.remedy]


PAUSE = (
    'select public.pause_jobs(\'{{"kind": "workspace_type", "name": "faulty.strict", "paused": %s,'
    ' "workspace_id": "{workspace}", "reason": "we move the ledger"}}\')'
)

#: One of each place where a page shows a cause; why a job waits is held by SQL's tests.
FAULTS = [
    Fault("killed", "die", ("was lost", "stopped answering"), "SIGKILL usually means"),
    Fault("result too large", "returns", ("the result is too long",), "return a reference"),
    Fault("step", "step", ("KeyError", "of October"), "Finished steps are kept", line="step"),
    Fault(
        "child", "whole", ("ValueError", "has no customer"), "Fix the cause", way=("job", "remedy")
    ),
    Fault("timeout", "slow", ("stopped after 1 s",), "a longer", line="slow"),
    Fault(
        "service down",
        "service",
        ("ConnectError", "retried at"),
        "Run now",
        line="service",
        state="retrying",
    ),
    Fault("waits for a person", "asks", ("Which month?",), "October", state="suspended"),
    Fault(
        "type paused",
        "strict",
        ("faulty.strict has been paused", "we move the ledger"),
        "Resume",
        state="",
        way=("A manager of the workspace can resume the type.",),
        sql=PAUSE % "true",
        undo=PAUSE % "false",
    ),
    Fault(
        "bad cron in code",
        "never",
        ("The type faulty.never was rejected", "0 0 30 2 *"),
        "Refused",
        state="",
        way=("Fix it in code, and deploy.",),
    ),
]


class FaultyHost(RunningStack):
    """The stack as seen through a host whose worker runs the faulty app.

    Its API and its console are that host's; `folder` holds the env file.

    Attributes:
        workspace: Its own, where Ada manages and Bob is a member.
    """

    def __init__(self, folder: Path, stack: RunningStack, changed: dict[str, str]) -> None:
        super().__init__(folder, stack.launcher, {**stack.values, **changed})
        self.workspace = {"id": changed["MINUTEHAND_WORKSPACE_ID"], "name": "Faults"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API as Ada."""
        headers = self.headers(self.sign_in(ADA.email))
        url = httpx.URL(self.api_url).join(path)
        answer = httpx.request(method, url, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def enqueue(self, job_type: str, payload: dict[str, Any], **options: Any) -> str:
        """Add a job as Ada; returns its id."""
        body = {"job_type": f"faulty.{job_type}", "payload": payload, **options}
        return str(
            self.call("POST", "/api/jobs", {**body, "workspace_id": self.workspace["id"]})["id"]
        )

    def wait(self, job_id: str, *states: str) -> None:
        """Wait until a job is in one of the states."""
        give_up = time.monotonic() + 120
        while (state := self.call("GET", f"/api/jobs/{job_id}")["state"]) not in states:
            assert time.monotonic() < give_up, (state, states)
            time.sleep(0.2)  # most faults take seconds to strike

    @contextmanager
    def planted(self, fault: Fault) -> Iterator[str]:
        """Plant a fault and wait until it has struck; gives the job's id, "" without a job."""
        self._run(fault.sql)
        job_id = self.enqueue(fault.kind, {}) if fault.state else ""
        if job_id:
            self.wait(job_id, fault.state)
        try:
            yield job_id
        finally:
            if job_id and self.call("GET", f"/api/jobs/{job_id}")["finished_at"] is None:
                self.call("POST", f"/api/jobs/{job_id}/cancel")
            self._run(fault.undo)

    def _run(self, sql: str) -> None:
        with self.connect() as connection:
            for statement in filter(None, sql.split("; ")):
                connection.execute(statement.format(workspace=self.workspace["id"]).encode())


@contextmanager
def faulty_host(stack: RunningStack, folder: Path) -> Iterator[FaultyHost]:
    """Run a second API with its worker beside the stack, as `make run` does.

    What hangs or dies here is not the worker that other tests share.
    """
    port = reserve_port()
    url = f"http://127.0.0.1:{port}"
    changed = {
        "API_URL": url,
        "CONSOLE_URL": f"{url}/",
        "CORS_ORIGINS": url,
        "MINUTEHAND_APPS": faulty.__name__,
        "MINUTEHAND_WORKSPACE_ID": str(uuid4()),
    }
    host = FaultyHost(folder, stack, changed)
    (folder / "env").write_text("".join(f"{key}={host.values[key]}\n" for key in host.values))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'shared'}",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "API_PORT": str(port),
        "HOME": str(folder),
        **host.values,
    }
    with stack.connect() as connection:
        connection.execute(
            "insert into public.workspaces (id, name) values (%s, %s)",
            (host.workspace["id"], host.workspace["name"]),
        )
        connection.execute(
            "insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%(id)s, %(ada)s, 'manager'), (%(id)s, %(bob)s, 'member')",
            {"id": host.workspace["id"], "ada": ADA.id, "bob": BOB.id},
        )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "minutehand.local.api"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        give_up = time.monotonic() + 60
        served = "select from queue.job_types where job_type like 'faulty.%'"
        with stack.connect() as connection:
            while connection.execute(served).fetchone() is None:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < give_up, (folder / "log").read_text()
                time.sleep(0.05)
        yield host
    finally:
        process.terminate()
        process.wait(60)
        delete(stack, "delete from public.jobs where job_type like 'faulty.%%'")
        delete(stack, "delete from public.workspaces where id = %s", host.workspace["id"])
        delete(stack, "delete from queue.job_types where job_type like 'faulty.%%'")
