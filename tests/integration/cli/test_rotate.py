"""A worker key is rotated by one command, and the stolen one opens nothing any more."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY, scratch_settings
from minutehand.cli.tokens import replace_values
from minutehand.queue.errors import TokenRefused
from minutehand.queue.models import JobTypeSpec
from minutehand.queue.worker_client import WorkerQueue
from minutehand.terminal.connection import CommandFailed, read_env_file
from tests.support.command import Run
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


run = Run(first=("rotate", "--json"))


def rotated(*arguments: str) -> tuple[Any, str]:
    """What a rotation answers, and all that it printed."""
    done = run(*arguments)
    return json.loads(done.stdout.splitlines()[-1]), done.output


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A file of secrets with a first worker key."""
    path = tmp_path / "secrets.env"
    path.touch(mode=0o600)
    path.write_text("WORKER_SECRET_TOKEN=keep-me\nSUPABASE_WORKER_KEY=\n")
    return path


def is_private(path: Path) -> bool:
    """Whether its owner alone may read it."""
    return stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("steps", [["--now"], ["", "--finish"]], ids=["stolen", "in-two-steps"])
async def test_the_key_before_opens_nothing_after_a_rotation(
    renewed: Renewed, env_file: Path, secrets: Path, steps: list[str]
) -> None:
    """The old key is refused, the new one works, and what a thief registered is gone."""
    common = ["--env-file", str(env_file), "--secrets", str(secrets), "--only", "key"]
    run(*common)
    stolen = read_env_file(secrets)["SUPABASE_WORKER_KEY"]
    assert await works(renewed, stolen, version=9)
    aged = replace_issued_at(stolen)

    told = [rotated(*common, *step.split()) for step in steps]

    fresh = read_env_file(secrets)
    assert fresh["WORKER_SECRET_TOKEN"] == "keep-me"
    assert fresh["SUPABASE_WORKER_KEY"] != stolen
    assert is_private(secrets)
    for said, output in told:
        assert stolen not in output
        assert fresh["SUPABASE_WORKER_KEY"] not in output
        assert (said["refused"] is None) == (said is not told[-1][0])
    grace = datetime.fromisoformat(told[-1][0]["refused"]["from"]) - datetime.now(UTC)
    if "--finish" in steps:  # running functions may read their secrets five minutes late
        assert timedelta(minutes=5) < grace
        with renewed.database.connect() as connection:
            connection.execute(
                "update queue.settings set value = jsonb_set(value, '{from}', '0')"
                " where name = 'worker_keys_revoked'"
            )
    assert not await works(renewed, aged)
    assert await works(renewed, fresh["SUPABASE_WORKER_KEY"], version=2)


def replace_issued_at(key: str) -> str:
    """The same key, issued an hour earlier: a test has no hour to wait."""
    claims = jwt.decode(key, JWT_SECRET, ["HS256"], options={"verify_aud": False})
    return jwt.encode({**claims, "iat": claims["iat"] - 3600}, JWT_SECRET, "HS256")


def test_without_a_file_the_new_values_are_printed(env_file: Path) -> None:
    """For secrets that are kept elsewhere."""
    said, _ = rotated("--env-file", str(env_file))

    assert said["values"]["SUPABASE_WORKER_KEY"].count(".") == 2
    assert set(said["values"]) == {*said["changed"]}
    assert len(said["changed"]) == 3


def test_a_wrong_operators_key_is_named_as_such(env_file: Path, secrets: Path) -> None:
    """Not as a wrong password."""
    env_file.write_text(env_file.read_text().replace(SECRET_KEY, "sb_secret_wrong"))
    refused = run.refused("--now", "-e", str(env_file), "--secrets", str(secrets))

    assert "SUPABASE_SECRET_KEY" in refused["error"]


def test_a_value_is_replaced_and_no_other(tmp_path: Path) -> None:
    """A backslash in a secret is no reference to a group."""
    path = tmp_path / "env"
    path.write_text("A=1\nexport KEY=old\nKEY_ID=2\n")

    replace_values(path, {"KEY": r"new\1"})
    replace_values(path, {"MORE": "x"})

    assert path.read_text() == "A=1\nKEY=new\\1\nKEY_ID=2\nMORE=x\n"
    with pytest.raises(CommandFailed):
        replace_values(tmp_path / "missing", {"KEY": "x"})
