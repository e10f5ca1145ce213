"""The page on deploying, walked command by command: the real CLIs against stand-ins of the clouds.

Up to the deploy itself, and a deploy with each limit that an account can meet. What the page tells
a person to click is not walked, and what it installs is there already.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from infra.bench.scratch import PUBLISHABLE_KEY, SECRET_KEY, Gateway
from infra.release.wheels import checkout_copy
from minutehand.local import migrations
from minutehand.local.ports import reserve_port
from minutehand.local.postgres import Postgres
from tests.support.aws_account import Account, aws_account
from tests.support.databases import drop
from tests.support.hosted_project import LOGIN_ROLE, PASSWORD, HostedProject, hosted_project
from tests.support.paths import ROOT
from tests.support.supabase_cli import supabase_program

# moto says what it cannot make, and makes the rest
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
REF = "abcdefghijklmnopqrst"
PAGE = ROOT / "infra" / "aws" / "README.md"
DATABASE = "walked_to"
#: What the page installs or signs in to; here it is there already.
PREPARED = {"npm install --global supabase", "supabase login"}
#: In place of the AWS CLI, which no lock of ours brings.
AWS = """\
#!{python}
import boto3, json, sys
assert sys.argv[1:] == ["sts", "get-caller-identity"], sys.argv
print(json.dumps(boto3.client("sts").get_caller_identity(), default=str))
"""


def commands(section: str) -> list[str]:
    """The commands of a section's `sh` blocks, in order; one in parentheses may have lines."""
    text = PAGE.read_text("utf-8")
    [part] = [p for p in re.split(r"^## ", text, flags=re.M) if p.startswith(f"{section}\n")]
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```", part, flags=re.M | re.S)
    found: list[str] = []
    for indent, block in blocks:
        for line in block.splitlines():
            line = line.removeprefix(indent)
            if found and found[-1].count("(") > found[-1].count(")"):
                found[-1] += f"\n{line}"
            else:
                found.append(line)
    return found


@dataclass
class Place:
    """A checkout of one's own, a shell in it, and the two clouds."""

    root: Path
    hosted: HostedProject
    account: Account
    gateway: Gateway
    bin: Path
    said: list[str] = field(default_factory=list)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """One command of the page, in a shell that is signed in."""
        environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ},
            **self.hosted.environment(),
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.account.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SUPABASE_SECRET_KEY": SECRET_KEY,
        }
        if command.startswith("minutehand workspaces"):
            # the project's own address is not this machine's
            command = command.replace("prod.env", "reachable.env")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
            stdin=subprocess.DEVNULL,
        )
        self.said.append(done.stdout + done.stderr)
        return done

    def fill(self, **values: Any) -> None:
        """Fill the placeholders of the stage, as the page's second step says."""
        file = self.root / "infra" / "aws" / "stages.yml"
        stages = yaml.safe_load(file.read_text())
        stages["default"] = {
            "supabaseUrl": f"https://{REF}.supabase.co",
            "supabasePublishableKey": PUBLISHABLE_KEY,
            "alarmEmail": "on-call@example.com",
        }
        stages["prod"] |= {"corsOrigins": ["https://app.example.com"], **values}
        file.write_text(yaml.safe_dump(stages))
        (self.root / "prod.env").write_text(
            f"STAGE=prod\nSUPABASE_URL=https://{REF}.supabase.co\n"
            f"SUPABASE_PUBLISHABLE_KEY={PUBLISHABLE_KEY}\nAPI_URL=\nDATABASE_URL=\n"
        )
        (self.root / "reachable.env").write_text(
            f"STAGE=prod\nSUPABASE_URL={self.gateway.url}\n"
            f"SUPABASE_PUBLISHABLE_KEY={PUBLISHABLE_KEY}\n"
        )

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the hosted database as its owner."""
        with psycopg.connect(self.gateway.database_url, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def versions(self) -> list[str]:
        """The migrations that were applied."""
        found = self.rows("select version from supabase_migrations.schema_migrations order by 1")
        return [row[0] for row in found]


def wrapper(path: Path, text: str) -> None:
    """A program on the shell's path."""
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def place(postgres: Postgres, tmp_path: Path) -> Iterator[Place]:
    """A fresh clone with its tools, a fresh project, a fresh account."""
    root, programs = checkout_copy(tmp_path / "clone"), tmp_path / "bin"
    programs.mkdir()
    for name in ("requirements.lock", "requirements-dev.lock", "serverless.yml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(
        ROOT / "functions", root / "functions", ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    python = f"PYTHONPATH={root}/shared exec {sys.executable}"
    wrapper(programs / "minutehand", f'#!/bin/sh\n{python} -m minutehand.cli "$@"\n')
    wrapper(programs / "aws", AWS.format(python=sys.executable))
    (programs / "supabase").symlink_to(supabase_program(3))
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"create database {DATABASE}".encode())
        url = postgres.url(database=DATABASE)
        migrations.prepare_hosted(url)
        migrations.set_project_owner(url, PASSWORD)
        connection.execute(
            f"create role {LOGIN_ROLE} login noinherit in role postgres"
            f" password '{PASSWORD}'".encode()
        )
        gateway = Gateway(url, reserve_port())
        try:
            owner = postgres.url(database=DATABASE, user="postgres")
            standins = tmp_path / "standins"
            standins.mkdir()
            with hosted_project(REF, owner, standins) as hosted, aws_account() as account:
                urllib.request.urlopen(
                    urllib.request.Request(f"{account.url}/moto-api/reset", method="POST")
                ).close()
                yield Place(root, hosted, account, gateway, programs)
        finally:
            gateway.stop()
            drop(connection, DATABASE)
            # roles are the server's, which the tests after this one share
            migrations.set_project_owner(postgres.url(), postgres.password)
            connection.execute(f"drop role {LOGIN_ROLE}".encode())


def test_the_page_leads_from_nothing_to_a_package(place: Place) -> None:
    """Tools, key, secrets and the trial, command by command, up to the deploy itself."""
    place.fill()
    steps = commands("Deploy")
    deploy = steps.index("minutehand deploy prod --secrets secrets.env")

    for command in steps[:deploy]:
        if command not in PREPARED:
            done = place.run(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    assert steps[deploy - 1].endswith("--dry-run")
    assert f"project {REF}, Supabase CLI 3." in place.said[-1]
    assert (place.root / "build" / "aws" / "app.zip").is_file()
    for name in ("secrets.env", "key.json"):
        assert (place.root / name).stat().st_mode & 0o077 == 0
    assert place.versions() == []
    assert place.hosted.asked == []


LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "reserved": ({}, {"workerReservedConcurrency": 10}, "10 must stay unreserved", "L-B99A9384"),
    "workers": ({}, {"workersAtOnce": "8"}, "leave the API too little", "workersAtOnce: '5'"),
    "runtime": ({"runtimes": ("python3.9",)}, {}, "does not know python3.13", "--region"),
    "kms": ({"quotas": {"L-C2F1777E": 0.0, "L-24B04930": 200.0}}, {}, "of 0 keys", "L-C2F1777E"),
    "cloudfront": (
        {"quotas": {"L-C2F1777E": 9.0, "L-24B04930": 0.0}}, {},
        "of 0 CloudFront", "console: 'false'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_each_limit_of_an_account_stops_the_deploy_before_it_changes_anything(
    place: Place, limit: str
) -> None:
    """With the number and the request; no schema is pushed and no stack is made."""
    account, values, said, fix = LIMITS[limit]
    for name, value in account.items():
        setattr(place.account, name, value)
    place.fill(**values)
    (place.root / "secrets.env").touch(mode=0o600)
    (place.root / "secrets.env").write_text(
        f"WORKER_SECRET_TOKEN={'w' * 40}\nBACKGROUND_JOB_TOKEN={'b' * 40}\n"
        "SUPABASE_WORKER_KEY=a.b.c\n"
    )

    done = place.run("minutehand deploy prod --secrets secrets.env")
    doctor = place.run("minutehand doctor --stage prod --only account-limits")

    assert done.returncode == doctor.returncode == 1, done.stderr
    for words in (done.stderr, doctor.stdout):
        flat = " ".join(words.split())
        assert said in flat
        assert fix in flat
    assert place.versions() == []
    assert place.hosted.asked == []
    assert not [asked for asked in place.account.asked if asked.startswith(("PUT", "DELETE"))]
