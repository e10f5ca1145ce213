"""Whole local stacks for tests, each with its own launcher, folder and ports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from minutehand.terminal.connection import read_env_file
from supabase_local.launcher import reset
from tests.support.databases import SuperuserAccess, prepared_server
from tests.support.paths import ROOT
from tests.support.patience import until

if TYPE_CHECKING:  # few tests need the wheel
    from infra.release.wheels import Environment

#: The URL of a real project with which tests compare, see infra/truth. It is empty for local tests.
TRUTH_URL = os.environ.get("TRUTH_URL", "")


class RunningStack(SuperuserAccess):
    def __init__(
        self, folder: Path, launcher: subprocess.Popen[bytes], values: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.launcher = launcher
        self.values = dict(values)
        self._sessions: dict[str, dict[str, Any]] = {}

    def __getattr__(self, name: str) -> str:
        try:
            return self.__dict__["values"][name.upper()]
        except KeyError:
            raise AttributeError(name) from None

    def start_again(self) -> None:
        """Start a launcher after the previous one has ended."""
        self.launcher = launch(self.folder, "--no-demo")
        self.values = wait_ready(self.folder, self.launcher).values
        self._sessions.clear()

    def sign_in(self, email: str) -> str:
        return self.session_of(email)["access_token"]

    def session_of(self, email: str) -> dict[str, Any]:
        """Return a demo user's session of an hour. It is reused, because sign-in is slow."""
        if email not in self._sessions:
            answer = httpx.post(
                f"{self.supabase_url}/auth/v1/token?grant_type=password",
                headers={"apikey": self.supabase_publishable_key},
                json={"email": email, "password": self.demo_password},
            )
            self._sessions[email] = answer.raise_for_status().json()
        return self._sessions[email]


def launch(
    folder: Path,
    *arguments: str,
    python: str | Path = sys.executable,
    root: str | Path = ROOT,
    **environment: str,
) -> subprocess.Popen[bytes]:
    """Start a stack's launcher in a project.

    The output goes to launcher.out in the folder. A new stack of this checkout starts on a copy of
    the prepared database.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if TRUTH_URL:
        arguments += ("--supabase-url", TRUTH_URL)
    elif not environment.setdefault("DATABASE_URL", ""):
        ours = root == ROOT and "--supabase-url" not in arguments
        if ours and not (folder / "postgres.password").exists():
            server = prepared_server(folder)
            (server.data_dir / "postgresql.auto.conf").write_text("")  # switch autovacuum on again
    command = [python, "-m", "minutehand.local", "--any-ports", "--scratch"]
    command += ["--with-parent", "--state", str(folder), *arguments]
    with (folder / "launcher.out").open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_ready(folder: Path, launcher: subprocess.Popen[bytes]) -> RunningStack:
    note = folder / "ready"  # the file contains the launcher's pid

    def is_ready() -> bool:
        output = (folder / "launcher.out").read_text(errors="replace")
        assert launcher.poll() is None, output[-4000:]
        return note.exists() and note.read_text().strip() == str(launcher.pid)

    until(is_ready)
    return RunningStack(folder, launcher, read_env_file(folder / "env"))


def end(folder: Path, launcher: subprocess.Popen[bytes]) -> None:
    launcher.terminate()
    try:
        launcher.wait(120)
    finally:
        launcher.kill()
        launcher.wait(60)
        assert reset(folder) == 0


@contextmanager
def running_stack(folder: Path, **options: Any) -> Iterator[RunningStack]:
    """Run a stack with options of `launch` for the duration of the block."""
    running = RunningStack(folder, launch(folder, "--no-demo", **options), {})
    try:
        running.values = wait_ready(folder, running.launcher).values
        yield running
    finally:
        end(folder, running.launcher)


def children(stack: RunningStack) -> dict[str, psutil.Process]:
    """Find the processes of a stack's parts, by name of the part."""
    marks = {
        "postgres": "postgres",
        "gateway": "server.mjs",
        "realtime": "supabase_local.realtime",
        "api": "minutehand.local.api",
        "aws": "minutehand.local.aws",
    }
    found = {}
    for process in psutil.Process(stack.launcher.pid).children():
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:  # the process has ended
            continue
        for name, mark in marks.items():
            if any(word.endswith(mark) for word in words):
                found[name] = process
    return found


def project_stack(environment: Environment, folder: Path) -> AbstractContextManager[RunningStack]:
    """Return the stack of a user's project, run by the wheel's `minutehand dev`."""
    return running_stack(
        folder / ".local",
        python=environment.python,
        root=folder,
        PYTHONPATH="",
        XDG_CACHE_HOME=str(environment.cache),
        MINUTEHAND_PROJECT=str(folder),
    )
