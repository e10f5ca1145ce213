"""The command `supabase-local` from its wheel, without Minutehand."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from infra.release.wheels import Environment
from minutehand.terminal.connection import read_env_file
from minutehand.version import VERSION
from tests.support.patience import until
from tests.support.shared import made_once

MIGRATION = """
create table notes (id int primary key, body text);
grant select on notes to anon;
"""


@pytest.fixture
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A Python environment with the wheel of supabase-local and no other package of ours."""

    def make(folder: Path) -> None:
        [built] = (wheel / VERSION).glob("supabase_local*")
        (folder / "wheels").mkdir()
        (folder / "wheels" / built.name).symlink_to(built)
        Environment.make(folder / "venv", folder / "wheels")

    return Environment(made_once(tmp_path_factory, "supabase-local", make) / "venv")


@contextmanager
def started(installed: Environment, folder: Path) -> Iterator[httpx.Client]:
    """Run the command in a folder, and stop it with Ctrl-C.

    Yield a client with the publishable key.
    """
    known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    running = subprocess.Popen(
        [installed.python.with_name("supabase-local"), "--any-ports", "--scratch"],
        cwd=folder,
        env=known,
        stdout=sys.stderr,
    )
    children: list[psutil.Process] = []
    try:
        state = folder / ".local"
        until(lambda: (state / "ready").exists() or running.poll() is not None)
        values = read_env_file(state / "env")
        headers = {"apikey": values["SUPABASE_PUBLISHABLE_KEY"]}
        with httpx.Client(base_url=values["SUPABASE_URL"], headers=headers) as client:
            yield client
        children = psutil.Process(running.pid).children(recursive=True)
    finally:
        running.send_signal(signal.SIGINT)
        code = running.wait(60)
    assert code == 0
    assert len(children) > 3
    assert not any(child.is_running() for child in children)


def test_it_starts_in_a_folder_and_stops_clean(installed: Environment, tmp_path: Path) -> None:
    """The command starts in an empty folder. Its next start applies migrations and a seed.

    The Data API, Auth and Realtime respond, and Ctrl-C leaves no process.
    """
    installed.run(tmp_path, "-c", "import minutehand", code=1)
    account = {"email": "ada@example.com", "password": "a long password"}
    with started(installed, tmp_path) as client:
        assert client.post("/auth/v1/signup", json=account).status_code == 200
        assert client.get("/rest/v1/notes").status_code == 404

    supabase = tmp_path / "supabase"
    (supabase / "migrations").mkdir(parents=True)
    (supabase / "migrations" / "20250101000000_notes.sql").write_text(MIGRATION)
    (supabase / "seed.sql").write_text("insert into notes values (1, 'first');")
    with started(installed, tmp_path) as client:
        assert client.get("/rest/v1/notes").json() == [{"id": 1, "body": "first"}]
