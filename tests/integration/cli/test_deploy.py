"""`minutehand deploy` against moto's AWS: what is refused before, what is made, how it fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from minutehand.project import Project
from tests.support.aws_account import Account
from tests.support.stranger import Stranger

#: The first builds the wheel.
pytestmark = pytest.mark.timeout(300)

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
    """The stranger's project, called shop, and the command in it."""

    def __init__(self, project: Stranger, account: Account, name: str = "shop") -> None:
        self.project, self.folder, self.account = project, project.folder, account
        answers = self.folder / "minutehand.toml"
        was = f'name = "{Project.at(self.folder).name}"'
        answers.write_text(answers.read_text().replace(was, f'name = "{name}"'))
        (self.folder / "minutehand.stages.yml").write_text(STAGES)
        self.region = "us-east-1"
        self.secrets = self.folder / "secrets.env"
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
        environ = {
            "AWS_ENDPOINT_URL": self.account.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": self.region,
        }
        command = ("-m", "minutehand.cli.entry", *arguments, "--json")
        return self.project.environment.run(self.folder, *command, env=environ, code=None)

    def refused(self, *arguments: str) -> dict[str, Any]:
        """How it ends with exit code 1."""
        done = self.deploy(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        refusal: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
        return refusal

    def client(self, service: str) -> Any:
        """A boto3 client of the account."""
        who = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        about: Any = {"region_name": "us-east-1", "endpoint_url": self.account.url, **who}
        return boto3.client(service, **about)  # type: ignore[call-overload]


@pytest.fixture
def deployer(stranger: Stranger, tmp_path: Path, account: Account) -> Deployer:
    """A project that may be deployed."""
    return Deployer(stranger.copy(tmp_path / "shop"), account)


def test_what_is_not_filled_in_is_named_before_anything_is_built(deployer: Deployer) -> None:
    """Placeholders, unknown stages, missing secrets, a file that others may read."""
    assert "supabaseUrl" in deployer.refused("open")["error"]
    assert deployer.refused("prd")["code"] == "unknown_stage"
    deployer.secrets.chmod(0o644)
    assert deployer.refused("dev")["code"] == "secrets_exposed"
    deployer.write_secrets({"WORKER_SECRET_TOKEN": "w"})
    refusal = deployer.refused("dev")
    assert refusal["code"] == "secrets_missing"
    assert "BACKGROUND_JOB_TOKEN" in refusal["error"]
    deployer.write_secrets(SECRETS)
    deployer.region = ""
    refusal = deployer.refused("dev")
    assert (refusal["code"], "--region" in refusal["fix"]) == ("no_region", True)
    assert not deployer.account.asked

    # a reservation that the account cannot give: CloudFormation would find out after minutes
    deployer.region = "us-east-1"
    refusal = deployer.refused("greedy")

    assert refusal["code"] == "account_limit"
    assert "request-service-quota-increase" in refusal["fix"]


def test_a_stage_is_deployed_beside_another_and_deleted(
    deployer: Deployer, stranger: Stranger, tmp_path: Path
) -> None:
    """Stack, secrets by function, first tick; each project by its name."""
    done = deployer.deploy("dev")

    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["outputs"]["HttpApiUrl"]
    assert deployer.account.invoked == ["shop-dev-worker"]
    found = deployer.client("lambda").list_functions()["Functions"]
    names = ("jobs", "status", "worker", "health")
    assert {each["FunctionName"] for each in found} == {f"shop-dev-{n}" for n in names}
    ssm = deployer.client("ssm")
    held = [ssm.get_parameter(Name=f"/shop/dev/{name}", WithDecryption=True) for name in names]
    secrets = [json.loads(each["Parameter"]["Value"]) for each in held]
    assert secrets == [{}, READS, SECRETS, READS]

    assert deployer.run("doctor", "--stage", "dev", "--only", "aws").returncode == 0
    ssm.put_parameter(Name="/shop/dev/worker", Value="{}", Type="SecureString", Overwrite=True)
    doctor = deployer.run("doctor", "--stage", "dev", "--only", "aws")
    [finding] = json.loads(doctor.stdout)
    assert "/shop/dev/worker lacks WORKER_SECRET_TOKEN" in finding["detail"]
    assert finding["fix"] == "minutehand deploy dev --secrets-only"

    other = stranger.copy(tmp_path / "other")
    bakery = Deployer(other, deployer.account, "bakery")
    stages = bakery.folder / "minutehand.stages.yml"
    stages.write_text(STAGES.replace("abcdefghijklmnopqrst", "zyxwvutsrqponmlkjihg"))
    assert bakery.deploy("dev").returncode == 0
    assert deployer.account.invoked == ["shop-dev-worker", "bakery-dev-worker"]
    shop = Deployer(other, deployer.account, "shop")
    stages.write_text(STAGES.replace("abcdefghijklmnopqrst", "zyxwvutsrqponmlkjihg"))
    for refusal in (shop.refused("dev"), shop.refused("dev", "--secrets-only")):
        assert refusal["code"] == "another_project"
        assert "minutehand.toml" in refusal["fix"]

    check_deletion(deployer)


def check_deletion(deployer: Deployer) -> None:
    """With what CloudFormation leaves; without --yes nothing goes, and what stays is said."""
    s3, ssm = deployer.client("s3"), deployer.client("ssm")
    [bucket] = [each["Name"] for each in s3.list_buckets()["Buckets"] if "shop" in each["Name"]]
    said = json.loads(deployer.run("undeploy", "dev").stdout)
    assert said["deleted"] == []
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] > 0

    done = deployer.run("undeploy", "dev", "--yes")

    assert done.returncode == 0, done.stderr
    kept = "; ".join(json.loads(done.stdout)["kept"])
    assert "minutehand.connect_worker(null, null)" in kept
    assert "arn:aws:kms" in kept
    left = [
        each["FunctionName"] for each in deployer.client("lambda").list_functions()["Functions"]
    ]
    left += [each["Name"] for each in ssm.describe_parameters()["Parameters"]]
    left += [each["Name"] for each in s3.list_buckets()["Buckets"]]
    assert len(left) > 8
    assert [name for name in left if "shop" in name] == []
