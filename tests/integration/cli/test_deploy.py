"""`minutehand deploy` against moto's AWS: what is refused before, what is made, how it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support.aws_account import Account
from tests.support.paths import ROOT

SECRETS = {
    "WORKER_SECRET_TOKEN": "w" * 32,
    "BACKGROUND_JOB_TOKEN": "b" * 32,
    "SUPABASE_WORKER_KEY": "a.b.c",
}
READS = {name: SECRETS[name] for name in ("WORKER_SECRET_TOKEN", "SUPABASE_WORKER_KEY")}
STAGES = """
default: {alarmEmail: a@example.com, supabasePublishableKey: sb_publishable_x}
dev: {supabaseUrl: 'https://abcdefghijklmnopqrst.supabase.co'}
open: {}
greedy: {supabaseUrl: 'https://abcdefghijklmnopqrst.supabase.co', workerReservedConcurrency: 50}
"""


@pytest.fixture
def account() -> Iterator[Account]:
    """A new account: ten functions at once, nothing made."""
    with closing(Account()) as made:
        yield made


class Deployer:
    """A project of its own, and the command in it."""

    def __init__(self, folder: Path, account: Account) -> None:
        self.folder, self.account = folder, account
        shutil.copyfile(ROOT / "serverless.yml", folder / "serverless.yml")
        shutil.copyfile(ROOT / "requirements.lock", folder / "requirements.lock")
        (folder / "minutehand.toml").write_text("apps = []\n")
        (folder / "minutehand.stages.yml").write_text(STAGES)
        self.secrets = folder / "secrets.env"
        self.write_secrets(SECRETS)

    def write_secrets(self, values: dict[str, str]) -> None:
        """Write the file for --secrets."""
        self.secrets.write_text("".join(f"{k}={v}\n" for k, v in values.items()))
        self.secrets.chmod(0o600)

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `minutehand deploy`."""
        return self.run("deploy", *arguments, "--secrets", str(self.secrets), "--no-database")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command as someone who may use the account."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SUPABASE_"))}
        return subprocess.run(
            [sys.executable, "-m", "minutehand.cli.entry", *arguments, "--json"],
            cwd=self.folder,
            env={
                **environ,
                "PYTHONPATH": str(ROOT / "shared"),
                "AWS_ENDPOINT_URL": self.account.url,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def refused(self, *arguments: str) -> dict[str, Any]:
        """How it ends with exit code 1."""
        done = self.deploy(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        told: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
        return told

    def client(self, service: str) -> Any:
        """A boto3 client of the account."""
        return boto3.client(  # type: ignore[call-overload]
            service,
            region_name="us-east-1",
            endpoint_url=self.account.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@pytest.fixture
def deployer(tmp_path: Path, account: Account) -> Deployer:
    """A project that may be deployed."""
    return Deployer(tmp_path, account)


def test_what_is_not_filled_in_is_named_before_anything_is_built(deployer: Deployer) -> None:
    """Placeholders, unknown stages, missing secrets, a file that others may read."""
    assert "supabaseUrl" in deployer.refused("open")["error"]
    assert deployer.refused("prd")["code"] == "unknown_stage"
    deployer.secrets.chmod(0o644)
    assert deployer.refused("dev")["code"] == "secrets_exposed"
    deployer.write_secrets({"WORKER_SECRET_TOKEN": "w"})
    told = deployer.refused("dev")
    assert told["code"] == "secrets_missing"
    assert "BACKGROUND_JOB_TOKEN" in told["error"]
    assert not deployer.account.asked


def test_a_reservation_that_the_account_cannot_give_is_refused(deployer: Deployer) -> None:
    """CloudFormation finds out after minutes, and rolls all of it back."""
    told = deployer.refused("greedy")

    assert told["code"] == "account_limit"
    assert "request-service-quota-increase" in told["fix"]


def test_a_stage_is_deployed(deployer: Deployer) -> None:
    """Stack, secrets by function, first tick."""
    done = deployer.deploy("dev")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["outputs"]["HttpApiUrl"]
    assert deployer.account.invoked == ["minutehand-dev-worker"]
    found = deployer.client("lambda").list_functions()["Functions"]
    names = ("jobs", "status", "worker", "health")
    assert {each["FunctionName"] for each in found} == {f"minutehand-dev-{n}" for n in names}
    ssm = deployer.client("ssm")
    held = [
        ssm.get_parameter(Name=f"/minutehand/dev/{name}", WithDecryption=True) for name in names
    ]
    secrets = [json.loads(each["Parameter"]["Value"]) for each in held]
    assert secrets == [{}, READS, SECRETS, READS]

    assert deployer.run("doctor", "--stage", "dev", "--only", "aws").returncode == 0
    ssm.put_parameter(
        Name="/minutehand/dev/worker", Value="{}", Type="SecureString", Overwrite=True
    )
    doctor = deployer.run("doctor", "--stage", "dev", "--only", "aws")
    [finding] = json.loads(doctor.stdout)
    assert "/minutehand/dev/worker lacks WORKER_SECRET_TOKEN" in finding["detail"]
    assert finding["fix"] == "minutehand deploy dev --secrets-only"
