# ruff: noqa: E501 - a fault a line reads as the table it is
"""Planted faults: one table of what a stranger must find, and the product that runs them.

Each line is read on the job's page (`e2e/console/test_faults.py`) and at the terminal
(`integration/cli/test_faults.py`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from minutehand.local.ports import reserve_port
from minutehand.local.users import ADA, BOB, EVE, OLGA, DemoUser
from tests.e2e.console.worker import delete
from tests.support import faulty
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack

SOURCE = Path(faulty.__file__).parent / "processors.py"


@dataclass(frozen=True)
class Fault:
    """One way to go wrong, and the words of cause and remedy."""

    name: str
    #: The job type, without the app's name.
    kind: str
    cause: tuple[str | re.Pattern[str], ...]
    remedy: str | re.Pattern[str]
    payload: dict[str, Any] = field(default_factory=dict)
    #: Of the type whose line is at fault; "" where none is.
    line: str = ""
    #: Where it is found: a job's state, "refused" at enqueue, "schedule" when that is set.
    state: str = "failed"
    #: Payloads of jobs of the same type that complete first.
    before: tuple[dict[str, Any], ...] = ()
    #: Where a job of the same type succeeds afterwards: "workspace", or "other".
    after: str = ""
    #: Statements that plant it and take it away; `{workspace}` is its id.
    sql: str = ""
    undo: str = ""
    who: DemoUser = ADA

    @property
    def place(self) -> str:
        """The line at fault, as file:line."""
        lines = SOURCE.read_text().splitlines()
        [at] = [n for n, line in enumerate(lines, 1) if line.endswith(f"# {self.line}")]
        return f"{SOURCE.name}:{at}"

    @property
    def words(self) -> list[str | re.Pattern[str]]:
        """What must be there to be read: cause, line and remedy."""
        return [*self.cause, *([self.place] if self.line else []), self.remedy]


def vendor(status: int, remedy: str) -> Fault:
    """A vendor that answers with a status."""
    cause = ("HTTPStatusError", str(status))
    given = {"status": status}
    return Fault(f"vendor {status}", "vendor", cause, remedy, given, "vendor", "retrying")


def system(name: str, remedy: str) -> Fault:
    """A resource of the machine that is used up."""
    return Fault(name, "system", ("OSError", name), remedy, {"errno": name}, "system")


def returned(what: str, cause: str, remedy: str) -> Fault:
    """A result that cannot be stored."""
    return Fault(f"returns {what}", "returns", (cause,), remedy, {"what": what})


JSON = "return what JSON can hold"
FAULTS = [
    Fault("hang in C", "hang", ("ran past 1 s", "blocked its worker"), "longer timeout", line="hang"),
    Fault("blocking sleep", "block", ("ran past 1 s", "blocked its worker"), "longer timeout", line="block"),
    Fault("late result", "late", ("ran past 1 s", "blocked its worker"), "longer timeout", line="late"),
    Fault("killed", "die", ("worker was killed", "want of memory"), "Look at that worker's log"),
    returned("object", "the result cannot be stored", JSON),
    returned("nan", "the result cannot be stored", JSON),
    returned("large", "the result exceeds", "return a reference"),
    Fault("recursion", "deep", ("RecursionError", "recursion"), "calls itself without an end", line="deep"),
    Fault(
        "one tenant only", "part", ("1 workspace", "no customer", "Others succeed"), "Correct ", {"number": 7},
        "part", who=OLGA,
        after="other",
    ),
    Fault(
        "slow vendor", "slow_vendor", (re.compile(r"ask vendor\.example\s*\d+(\.\d+)? s"),),
        re.compile(r"read the invoice\s*\d+(\.\d)? m?s"), state="completed",
    ),
    vendor(429, "asked to slow down (429)"),
    vendor(401, "check the key"),
    vendor(503, "failed (503)"),
    Fault("payload of an old version", "strict", ("month",), "month", state="refused"),
    system("ENOSPC", "disk of its worker is full"),
    system("ENOMEM", "ran out of memory"),
    system("EMFILE", "too many open files"),
    Fault("naive time", "naive", ("ValueError", "2099-01-01T00:00:00 has no time zone"), "Correct ", line="naive"),
    Fault("schedule that never fires", "step", ("0 0 30 2 * never comes due",), "no such date", state="schedule"),
    Fault(
        "one poison job", "part", ("ValueError", "invoice 7 has no customer", "Others succeed"), "Correct ",
        {"number": 7}, "part", after="workspace",
    ),
    Fault("step", "step", ("KeyError", "of October"), "finished steps are kept", line="step"),
    Fault("child", "whole", ("ChildrenFailed", "A child job failed at"), "Correct that first", line="part"),
    Fault("timeout", "slow", ("stopped after 1 s",), "longer timeout", line="slow"),
    Fault("deaf to its timeout", "deaf", ("stopped after 1 s",), "longer timeout", line="deaf"),
    Fault("plain function", "plain", ("stopped after 1 s",), "longer timeout", line="plain"),
    Fault("task group", "group", ("ValueError: invoice 7 has no customer", "1 more"), "Correct ", line="group"),
    Fault("crash", "crash", ("was ended by SIGSEGV",), "Native code crashed", line="crash"),
    Fault("unknown host", "unknown", ("ConnectError",), "does not resolve", line="unknown", state="retrying"),
    Fault("service down", "service", ("ConnectError", "tried again at"), "Run now", line="service", state="retrying"),
    Fault(
        "rate limit", "rated", ("rate limit of 1 starts per 3600 s",), "Raise the type's rate limit", state="queued",
        sql="delete from queue.buckets where job_type = 'faulty.rated'", before=({},),  # that another file used up
    ),
    Fault(
        "pause", "strict", ("we move the ledger",), "Resume the workspace", {"month": "2026-10"}, state="queued",
        sql="insert into queue.pauses (kind, workspace_id, name, reason) values ('workspace', '{workspace}', '{workspace}', 'we move the ledger')",
        undo="delete from queue.pauses where workspace_id = '{workspace}'",
    ),
    Fault(
        "no worker", "gone", ("none of them serves the job type", "minutehand types faulty.gone"), "Deploy a worker",
        state="queued", sql="insert into queue.job_types (job_type) values ('faulty.gone')",
    ),
    Fault(
        "quota", "step", ("already has 0 live jobs",), "higher quota", state="refused",
        sql="insert into queue.tenant_limits (workspace_id, max_pending) values ('{workspace}', 0)",
        undo="delete from queue.tenant_limits where workspace_id = '{workspace}'",
    ),
]  # fmt: skip


class FaultyHost(RunningStack):
    """The stack as seen through a host whose worker runs the faulty app.

    Its API and its console are that host's; `folder` holds the env file.

    Attributes:
        workspace: Its own, where Ada manages and Bob is a member.
    """

    def __init__(self, folder: Path, stack: RunningStack, changed: dict[str, str]) -> None:
        super().__init__(folder, stack.launcher, {**stack.values, **changed})
        self.workspace = {"id": changed["MINUTEHAND_WORKSPACE_ID"], "name": "Faults"}

    def call(self, method: str, path: str, body: Any = None, *, who: DemoUser = ADA) -> Any:
        """Call the API."""
        headers = self.headers(self.sign_in(who.email))
        url = httpx.URL(self.api_url).join(path)
        answer = httpx.request(method, url, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def enqueue(self, kind: str, payload: dict[str, Any]) -> str:
        """Add a job as Ada; returns its id."""
        body = {"job_type": f"faulty.{kind}", "payload": payload}
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
        names = {"workspace": self.workspace["id"], "other": str(EVE.workspace_id)}
        self._run(fault.sql.format(**names))
        try:
            if fault.state in {"refused", "schedule"}:
                yield ""
                return
            for payload in fault.before:
                self.wait(self.enqueue(fault.kind, payload), "completed")
            job_id = self.enqueue(fault.kind, fault.payload)
            self.wait(job_id, fault.state)
            if fault.after:
                self._succeed(fault.kind, names[fault.after])
            yield job_id
        finally:
            self._run(fault.undo.format(**names))

    def _succeed(self, kind: str, workspace_id: str) -> None:
        """Have a job of the type complete in a workspace."""
        with self.connect() as connection:
            made = connection.execute(
                "insert into public.jobs (workspace_id, job_type, payload)"
                " values (%s, %s, '{}') returning id",
                (workspace_id, f"faulty.{kind}"),
            ).fetchone()
            ended = "select from public.jobs where id = %s and status = 'completed'"
            give_up = time.monotonic() + 120
            while connection.execute(ended, made).fetchone() is None:
                assert time.monotonic() < give_up, (kind, workspace_id)
                time.sleep(0.05)

    def _run(self, statement: str) -> None:
        if statement:
            with self.connect() as connection:
                connection.execute(statement.encode())


@contextmanager
def faulty_host(stack: RunningStack, folder: Path, *command: str | Path) -> Iterator[FaultyHost]:
    """Run a second API with its worker beside the stack, as `make run` and `minutehand dev` do.

    What hangs or dies here is not the worker that other tests share.

    Args:
        command: Module and arguments; the host of `make run` when omitted.
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
        **{"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'shared'}"},
        **{"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"},
        **{"API_PORT": str(port), "HOME": str(folder), **host.values},
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
            [sys.executable, "-m", *(command or ["minutehand.local.api"])],
            cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
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
