"""Parts of a local stack: its state folder, its ports, its version."""

import socket
import stat
import subprocess
import tomllib
from pathlib import Path

from minutehand.terminal.connection import read_env_file
from supabase_local.postgres import Postgres
from supabase_local.state import StateFolder
from supabase_local.version import VERSION
from tests.support.paths import ROOT


def test_secrets_stay_and_only_the_owner_may_read_them(tmp_path: Path) -> None:
    """A stack's secrets stay after a restart, and only the owner can read the file."""
    state = StateFolder(tmp_path)

    made = state.secrets()
    state.write_env({"A": "b", "PLACE": "/My Projects/a"})

    assert StateFolder(tmp_path).secrets() == made
    assert "\nA=b\n" in state.env_file.read_text()
    assert read_env_file(state.env_file)["PLACE"] == "/My Projects/a"
    sourced = subprocess.run(
        ["sh", "-c", '. "$0"; echo "$PLACE"', state.env_file], capture_output=True, text=True
    )
    assert sourced.stdout == "/My Projects/a\n"
    for path in (state.env_file, tmp_path / "secrets.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_postgres_keeps_its_port_while_that_is_free(tmp_path: Path) -> None:
    """A stack's Postgres uses the same port at each start while the port is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    first = Postgres(tmp_path / "a", scratch=True, preferred_port=port)
    second = Postgres(tmp_path / "b", scratch=True, preferred_port=port)

    assert first.port == port
    assert second.port != port


def test_the_product_pins_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert f"supabase-local=={VERSION}" in project["optional-dependencies"]["dev"]
