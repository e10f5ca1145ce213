"""The page on deploying, walked command by command: the real CLIs against stand-ins of the clouds.

A first deploy, a second release with live jobs, and each limit that an account can meet. What the
page tells a person to click is not walked, and what it installs already exists.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
import yaml

from infra.bench.scratch import PUBLISHABLE_KEY, SECRET_KEY, Gateway
from infra.release.wheels import checkout_copy
from minutehand.deploy.parameters import parameter_name
from minutehand.local import migrations
from minutehand.local.ports import reserve_port
from minutehand.local.postgres import Postgres
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from tests.artefact.conftest import Package
from tests.support.auth_mail import Auth, serving
from tests.support.aws_account import Account, aws_account
from tests.support.databases import HOSTED, create_clone, drop
from tests.support.hosted_project import LOGIN_ROLE, PASSWORD, HostedProject, hosted_project
from tests.support.paths import ROOT
from tests.support.payloads import Nothing
from tests.support.project import settings_at
from tests.support.supabase_cli import supabase_program

# moto says what it cannot make, and makes the rest
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
REF = "abcdefghijklmnopqrst"
PAGE = ROOT / "infra" / "aws" / "README.md"
DATABASE = "walked_to"
#: Checks of what is here: the rest would ask Supabase's own address.
LOOKED_AT = (
    "settings", "publishable-key", "tokens", "tokens-differ", "cors", "sealing", "mock-vendors",
    "placeholders", "stage-settings", "aws-account", "account-limits", "parameters",
    "aws-functions", "failure-queues",
)  # fmt: skip
#: What the page installs or signs in to; here it already exists.
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
    auth: Auth
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
        if command.startswith("minutehand workspaces") or command.endswith("--finish"):
            # the project's own address is not on this machine
            command = command.replace("prod.env", "reachable.env")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,  # a package, on a machine that has other work
            stdin=subprocess.DEVNULL,
        )
        self.said.append(done.stdout + done.stderr)
        return done

    def walk(self, section: str) -> None:
        """Every command of a section, each of which must succeed."""
        for command in commands(section):
            if command in PREPARED:
                continue
            if command.startswith("minutehand doctor"):
                self.look(command)
                continue
            done = self.run(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            if command.endswith("--dry-run"):
                assert f"project {REF}, Supabase CLI 3." in self.said[-1]
                assert (self.versions(), self.hosted.asked) == ([], [])

    def look(self, command: str) -> None:
        """What can be looked at here is as it should be; Supabase's own address is not here."""
        found = json.loads(self.run(f"{command} --json").stdout.splitlines()[-1])
        verdicts = {finding["check"]: finding for finding in found}
        wrong = [verdicts[name] for name in LOOKED_AT if verdicts[name]["verdict"] == "fail"]
        assert wrong == []

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
            f"STAGE=prod\nSUPABASE_URL={self.auth.url}\nAPI_URL=https://console.example\n"
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
def place(postgres: Postgres, package: Package, tmp_path: Path) -> Iterator[Place]:
    """A fresh clone with its tools and the zips of its sources, a fresh project and account."""
    root, programs = checkout_copy(tmp_path / "clone"), tmp_path / "bin"
    programs.mkdir()
    for name in ("requirements.lock", "requirements-dev.lock", "serverless.yml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(
        ROOT / "functions",
        root / "functions",
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
    )
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    shutil.copytree(package.folder, root / "build" / "aws")
    python = f"PYTHONPATH={root}/shared exec {sys.executable}"
    wrapper(programs / "minutehand", f'#!/bin/sh\n{python} -m minutehand.cli "$@"\n')
    wrapper(programs / "aws", AWS.format(python=sys.executable))
    (programs / "supabase").symlink_to(supabase_program(3))
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        create_clone(connection, DATABASE, template=HOSTED)
        url = postgres.url(database=DATABASE)
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
            with (
                hosted_project(REF, owner, standins) as hosted,
                aws_account() as account,
                serving(Auth(behind=gateway.url)) as auth,
            ):
                urllib.request.urlopen(
                    urllib.request.Request(f"{account.url}/moto-api/reset", method="POST")
                ).close()
                yield Place(root, hosted, account, gateway, auth, programs)
        finally:
            gateway.stop()
            drop(connection, DATABASE)
            # roles are the server's, which the tests after this one share
            migrations.set_project_owner(postgres.url(), postgres.password)
            connection.execute(f"drop role {LOGIN_ROLE}".encode())


def registry_of(gate: asyncio.Event | None = None) -> Registry:
    """One type, whose jobs run until the gate opens."""
    registry = Registry()

    @registry.processor("work", payload=Nothing, timeout=2_900)  # as long as a release may take
    async def work(job: Job[Nothing], ctx: JobContext) -> None:
        if gate is not None:
            await gate.wait()

    return registry


def one_tick(place: Place) -> Any:
    """What the deployed worker would do when it is invoked."""

    async def tick() -> Any:
        worker = Worker(settings_at(place.gateway.url), registry=registry_of())
        try:
            return (await worker.tick(budget_seconds=30)).as_dict()
        finally:
            await worker.aclose()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(tick())).result()


def secret_of(place: Place, function: str) -> dict[str, str]:
    """What a function of the stack reads."""
    ssm = boto3.client(
        "ssm",
        region_name="us-east-1",
        endpoint_url=place.account.url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    found = ssm.get_parameter(Name=parameter_name("prod", function), WithDecryption=True)
    ssm.close()
    values: dict[str, str] = json.loads(found["Parameter"]["Value"])
    return values


@pytest.fixture
def live(place: Place) -> Iterator[Place]:
    """The place, where invoking the worker runs a real tick against the pushed schema."""
    # a process ends with the thread that started it, so this one lives as long as the test
    with ThreadPoolExecutor(1) as keeper:

        def invoke(name: str) -> Any:
            if place.gateway.process is None:
                keeper.submit(place.gateway.start).result()
            return one_tick(place)

        place.account.on_invoke = invoke
        yield place


@pytest.mark.timeout(3000)  # three packages and three stacks
async def test_the_page_leads_from_nothing_to_a_second_release(live: Place) -> None:
    """Command by command; jobs that run during the second release end as if nothing had been."""
    place = live
    place.fill()
    steps = commands("Deploy")
    assert [step for step in steps if step.startswith("minutehand deploy")]

    await asyncio.to_thread(place.walk, "Deploy")

    first = place.versions()
    assert first == sorted(first)
    assert len(first) > 30
    assert place.account.invoked == ["minutehand-prod-worker"]
    assert place.account.invalidated == 1
    [(workspace, name)] = place.rows("select id::text, name from public.workspaces")
    assert name == "Mine"
    [(mailed, query, _)] = place.auth.asked
    assert mailed == {"email": "you@example.com"}
    assert query == {"redirect_to": ["https://console.example"]}
    assert place.rows("select job_type from queue.job_types where job_type = 'work'")
    assert (place.root / "secrets.env").stat().st_mode & 0o077 == 0
    assert (place.root / "key.json").stat().st_mode & 0o077 == 0

    # live jobs: five run, twenty wait
    gate = asyncio.Event()
    worker = Worker(
        settings_at(place.gateway.url),
        registry=registry_of(gate),
        options=TickOptions(concurrency=5, linger_seconds=0),
    )
    place.rows(f"select public.enqueue_job('{workspace}', 'work') from generate_series(1, 25)")
    running = asyncio.create_task(worker.tick(budget_seconds=2_900))
    async with asyncio.timeout(120):
        while place.rows("select count(*) from queue.leases") != [(5,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    following = place.root / "supabase" / "migrations" / "20991231235959_next_release.sql"
    following.write_text("create table queue.of_the_next_release (id bigint primary key);\n")

    released = await asyncio.to_thread(place.run, "minutehand deploy prod --secrets secrets.env")

    assert released.returncode == 0, released.stderr
    assert place.versions() == [*first, "20991231235959"]
    gate.set()
    summary = await running
    await worker.aclose()
    while place.rows("select 1 from public.jobs where status = 'pending' limit 1"):
        await asyncio.to_thread(one_tick, place)  # the minute's, for what a slow release left
    ended = place.rows("select status::text, count(*) from public.jobs group by 1")
    assert ended == [("completed", 25)]
    assert (summary.lost, summary.failed) == (0, 0)

    begin, finish = commands("Keys and tokens")
    assert (await asyncio.to_thread(place.run, begin)).returncode == 0
    tokens = secret_of(place, "worker")["WORKER_SECRET_TOKEN"].split(",")
    assert (await asyncio.to_thread(place.run, finish)).returncode == 0
    assert secret_of(place, "worker")["WORKER_SECRET_TOKEN"] == tokens[0]
    assert len(tokens) == 2
    assert place.rows("select name from queue.settings where name = 'worker_keys_revoked'")


def test_a_limit_of_an_account_stops_the_deploy_before_it_changes_anything(place: Place) -> None:
    """With the number and the request; no schema is pushed and no stack is made.

    The sentence of each limit is in `integration/cli/test_account_limits.py`.
    """
    place.fill(workerReservedConcurrency=10)
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
        assert "10 must stay unreserved" in flat
        assert "L-B99A9384" in flat
    assert place.versions() == []
    assert place.hosted.asked == []
    assert not [asked for asked in place.account.asked if asked.startswith(("PUT", "DELETE"))]
