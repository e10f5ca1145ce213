"""A worker key is rotated by one command, and the stolen one opens nothing any more."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY, scratch_settings
from minutehand.cli.tokens import replace_values
from minutehand.queue.errors import TokenRefused
from minutehand.queue.models import JobTypeSpec
from minutehand.queue.worker_client import WorkerQueue
from minutehand.terminal.connection import CommandFailed, read_env_file
from tests.support.command import app
from tests.support.renewed import Renewed


@pytest.fixture
def env_file(renewed: Renewed, tmp_path: Path) -> Path:
    """Addresses and the operator's keys."""
    path = tmp_path / "prod.env"
    path.write_text(
        f"SUPABASE_URL={renewed.gateway.url}\nSUPABASE_PUBLISHABLE_KEY={PUBLISHABLE_KEY}\n"
        f"SUPABASE_SECRET_KEY={SECRET_KEY}\nSUPABASE_JWT_SECRET={JWT_SECRET}\n"
    )
    return path


async def works(renewed: Renewed, key: str, *, version: int = 1) -> bool:
    """Whether a worker with this key may publish its types."""
    settings = scratch_settings(renewed.gateway.url).model_copy(
        update={"supabase_worker_key": key, "supabase_jwt_secret": None}
    )
    queue = WorkerQueue(settings)
    try:
        spec = JobTypeSpec(job_type="work", schema_version=version)
        return await queue.register_job_types([spec]) == 1
    except TokenRefused:
        return False
    finally:
        await queue.aclose()


async def test_one_command_rotates_the_workers_key(
    renewed: Renewed, env_file: Path, tmp_path: Path
) -> None:
    """The old key is refused at once, the new one works, and what a thief registered is gone."""
    runner = CliRunner()
    secrets = tmp_path / "secrets.env"
    secrets.write_text("WORKER_SECRET_TOKEN=keep-me\nSUPABASE_WORKER_KEY=\n")
    common = ["rotate", "--env-file", str(env_file), "--secrets", str(secrets), "--json"]
    first = runner.invoke(app, common)
    assert first.exit_code == 0, first.output
    stolen = read_env_file(secrets)["SUPABASE_WORKER_KEY"]
    assert await works(renewed, stolen, version=9)
    aged = replace_issued_at(stolen)

    second = runner.invoke(app, [*common, "--now"])

    assert second.exit_code == 0, second.output
    fresh = read_env_file(secrets)
    assert fresh["WORKER_SECRET_TOKEN"] == "keep-me"
    assert fresh["SUPABASE_WORKER_KEY"] != stolen
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert stolen not in second.output
    assert fresh["SUPABASE_WORKER_KEY"] not in second.output
    assert not await works(renewed, aged)
    assert await works(renewed, fresh["SUPABASE_WORKER_KEY"], version=2)


def replace_issued_at(key: str) -> str:
    """The same key, issued an hour earlier: a test has no hour to wait."""
    claims = jwt.decode(key, JWT_SECRET, ["HS256"], options={"verify_aud": False})
    return jwt.encode({**claims, "iat": claims["iat"] - 3600}, JWT_SECRET, "HS256")


def test_without_a_file_the_key_is_printed(env_file: Path) -> None:
    """For whoever keeps secrets elsewhere."""
    done = CliRunner().invoke(app, ["rotate", "--env-file", str(env_file), "--json"])

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.strip().splitlines()[-1])["worker_key"].count(".") == 2


def test_a_value_is_replaced_and_no_other(tmp_path: Path) -> None:
    """A backslash in a secret is no reference to a group."""
    path = tmp_path / "env"
    path.write_text("A=1\nKEY=old\nKEY_ID=2\n")

    replace_values(path, {"KEY": r"new\1"})
    replace_values(path, {"MORE": "x"})

    assert path.read_text() == "A=1\nKEY=new\\1\nKEY_ID=2\nMORE=x\n"
    with pytest.raises(CommandFailed):
        replace_values(tmp_path / "missing", {"KEY": "x"})
