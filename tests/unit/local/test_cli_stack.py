"""Settings of a stack that `supabase start` runs. A script replaces the Supabase CLI."""

from pathlib import Path

import pytest

from minutehand.local.cli_stack import read_status
from minutehand.local.environment import remote_values
from minutehand.project import Project
from tests.support.http_server import http_server

PRINTED = {
    "API_URL": "http://127.0.0.1:54321",
    "DB_URL": "postgresql://postgres:postgres@127.0.0.1:54322/postgres",
    "PUBLISHABLE_KEY": "sb_publishable_x",
    "SECRET_KEY": "sb_secret_x",
}
#: For each kind of stack: the CLI's option that prints the values, and the values.
STACKS = {"containers": ("-o", {**PRINTED, "JWT_SECRET": "s" * 40}), "native": ("--env", PRINTED)}


def project_with_cli(folder: Path, port: int, option: str, values: dict[str, str]) -> Project:
    """Create a project whose node_modules contains a CLI that accepts one option."""
    (folder / "supabase").mkdir()
    (folder / "supabase/config.toml").write_text(f"[api]\nport = {port}\n")
    program = folder / "node_modules/.bin/supabase"
    program.parent.mkdir(parents=True)
    lines = "\n".join(f'{name}="{value}"' for name, value in values.items())
    program.write_text(
        f"#!/bin/sh\nif [ $1 = status ] && [ $2 = {option} ]; then cat <<'E'\n{lines}\nE\n"
        'else echo "Unrecognized flag: $2" >&2; exit 1; fi\n'
    )
    program.chmod(0o755)
    return Project(root=folder)


@pytest.mark.parametrize("kind", STACKS)
def test_a_running_stack_of_the_cli_is_found(tmp_path: Path, kind: str) -> None:
    """The settings of a running Supabase stack are found, with or without containers."""
    option, values = STACKS[kind]
    with http_server(lambda *_: (200, b"", {})) as url:  # acts as the stack's gateway
        project = project_with_cli(tmp_path, int(url.rpartition(":")[2]), option, values)
        printed = read_status(project, {"PATH": "/usr/bin:/bin"})

    assert printed == values
    found = remote_values(printed["API_URL"], printed)
    assert found["DATABASE_URL"] == PRINTED["DB_URL"]
    assert ("SUPABASE_JWT_SECRET" in found) == (kind == "containers")


def test_the_cli_is_not_asked_if_nothing_listens(tmp_path: Path) -> None:
    """The CLI is called only if the gateway's port is open.

    For stacks without Docker it is always called.
    """
    project = project_with_cli(tmp_path, 1, "--env", PRINTED)

    assert read_status(project, {"PATH": "/usr/bin:/bin"}) == {}
    native = {"PATH": "/usr/bin:/bin", "SUPABASE_EXPERIMENTAL_STACK": "1"}
    assert read_status(project, native) == PRINTED
