"""`minutehand deploy` to a fake AWS by moto: checks, resources, a job, and the deletion.

Two projects from the wheel, each with a database like a hosted one, share an AWS account.
tests/support/deployed.py runs routes and functions, which moto cannot run.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY, user_token
from infra.release.supabase_cli import CLI, supabase_cli
from minutehand.project import Project
from supabase_local.postgres import Postgres
from tests.install.projects import Api, HostedDatabase, data_api, hosted_database
from tests.support.aws_account import Account
from tests.support.deployed import Deployed
from tests.support.engine import ACME, ADA, Json
from tests.support.lambda_events import http_event
from tests.support.lambda_runtime import runtime_site
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.stranger import Stranger

# The time is enough for four deploys, the wheel and the Supabase CLI on a busy machine.
pytestmark = pytest.mark.timeout(1200)

SECRETS = {
    "WORKER_SECRET_TOKEN": "w" * 32,
    "BACKGROUND_JOB_TOKEN": "b" * 32,
    "SUPABASE_SECRET_KEY": SECRET_KEY,
    "SUPABASE_JWT_SECRET": JWT_SECRET,
}
STAGES = """
default: {alarmEmail: a@example.com, supabasePublishableKey: sb_publishable_x}
dev: {supabaseUrl: 'https://abcdefghijklmnopqrst.supabase.co'}
open: {}
greedy: {supabaseUrl: 'https://abcdefghijklmnopqrst.supabase.co', workerReservedConcurrency: 50}
"""
#: Values for the placeholders of the documentation, for a project with a local Data API.
PLACEHOLDERS = {
    "https://<project-ref>.supabase.co": "{url}\n  supabaseProject: {ref}",
    "sb_publishable_<key>": PUBLISHABLE_KEY,
    "<you>@example.com": "ada@acme.test",
    "<your-app-domain>": "app.acme.test",
}
#: Wrapper of the Supabase CLI. The CLI asks the Management API for the address of a project's
#: database. Tests cannot reach that API, so the wrapper passes the address. The wrapper also prints
#: the CLI's version, because the CLI takes long to do so.
WRAPPER = """#!/bin/sh
[ "$*" != --version ] || exec echo {version}
for word; do
  shift
  case $word in --remote={ref}) word="--remote={url}?sslmode=disable";; esac
  set -- "$@" "$word"
done
exec {cli} "$@"
"""


#: Processors of the project, some of which end their process.
PROCESSORS = ROOT / "tests/integration/serve/greeter/processors.py"
#: An event of the schedule that runs due jobs.
TICK = {"source": "minutehand.tick"}
INSERT = """
insert into minutehand.jobs (workspace_id, job_type, payload, max_attempts)
select %s, %s, %s, 2 from generate_series(1, %s) returning id
"""
#: SQL that lets the leases of a dead process expire, because on Lambda no host reports its end.
EXPIRE = """
update minutehand_engine.leases set expires_at = minutehand_engine.clock() - interval '1 second';
update minutehand_engine.tasks set done_at = '-infinity' where name = 'reclaim';
select minutehand.run_maintenance();
"""


@pytest.fixture
def account() -> Iterator[Account]:
    """A new AWS account that may run ten functions at once."""
    with closing(Account()) as account:
        yield account


class Deployer:
    """A user's project, and the command in its folder."""

    def __init__(self, project: Stranger, account: Account, name: str = "shop") -> None:
        self.project, self.folder, self.account = project, project.folder, account
        options = self.folder / "minutehand.toml"
        old_line = f'name = "{Project.at(self.folder).name}"'
        options.write_text(options.read_text().replace(old_line, f'name = "{name}"'))
        self.region = "us-east-1"
        self.secrets = self.folder / "secrets.env"

    def write_secrets(self, values: dict[str, str]) -> None:
        """Write the file that `--secrets` reads."""
        self.secrets.write_text("".join(f"{k}={v}\n" for k, v in values.items()))
        self.secrets.chmod(0o600)

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `minutehand deploy`."""
        return self.run("deploy", *arguments, "--secrets", str(self.secrets))

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that give access to the AWS account."""
        programs = self.project.environment.python.parent
        return {
            "PATH": f"{self.folder.parent}:{programs}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": self.account.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": self.region,
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `minutehand` command in the project's folder."""
        command = ("-m", "minutehand.cli.entry", *arguments, "--json")
        return self.project.environment.run(self.folder, *command, env=self.environ, code=None)

    def refused(self, *arguments: str) -> Json:
        """Run a deploy without migrations that must fail, and return its error."""
        done = self.deploy(*arguments, "--no-database")
        assert done.returncode == 1, done.stdout + done.stderr
        refusal: Json = json.loads(done.stderr.splitlines()[-1])
        return refusal


@pytest.fixture
def deployer(stranger: Stranger, tmp_path: Path, account: Account) -> Deployer:
    """A user's project that is ready for a deploy."""
    deployer = Deployer(stranger.copy(tmp_path / "shop"), account)
    (deployer.folder / "minutehand.stages.yml").write_text(STAGES)
    deployer.write_secrets(SECRETS)
    return deployer


def test_what_is_not_filled_in_is_named_before_anything_is_built(deployer: Deployer) -> None:
    """A deploy with a placeholder, an unknown stage or a missing secret fails before it calls AWS.

    The error names the value.
    """
    assert "supabaseUrl" in deployer.refused("open")["error"]
    assert deployer.refused("prd")["code"] == "unknown_stage"
    deployer.secrets.chmod(0o640)
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

    # The AWS account cannot reserve this concurrency. CloudFormation would report this only after
    # minutes.
    deployer.region = "us-east-1"
    refusal = deployer.refused("greedy")

    assert refusal["code"] == "account_limit"
    assert "request-service-quota-increase" in refusal["fix"]


class Live(Deployer):
    """A project whose stage `prod` has its own database, set up as the documentation describes."""

    def __init__(
        self, project: Stranger, deployed: Deployed, name: str, database: HostedDatabase, api: Api
    ) -> None:
        super().__init__(project, deployed.account, name)
        self.deployed, self.database, self.stack = deployed, database, f"{name}-prod"
        self.git("init", "--quiet")
        ref = (name * 20)[:20]
        cli = self.folder.parent / "supabase"
        version = CLI.partition("@")[2]
        text = WRAPPER.format(ref=ref, url=database.owner_url, cli=supabase_cli(), version=version)
        cli.write_text(text)
        cli.chmod(0o755)
        text = self.sh("minutehand docs aws")
        self.printed = blocks(text, "sh")
        self.run("deploy", "prod", "--dry-run")  # writes the stages file with placeholders
        stages = self.folder / "minutehand.stages.yml"
        for placeholder, value in PLACEHOLDERS.items():
            text = value.format(url=api.url, ref=ref)
            stages.write_text(stages.read_text().replace(placeholder, text))
        (self.folder / "prod.env").write_text(f"STAGE=prod\nSUPABASE_URL={api.url}\n")
        self.sh(self.block("gen signing-key"))
        self.sh(self.block("token worker"))
        # The local Data API uses the legacy JWT secret, for which the documentation has a line.
        text = self.secrets.read_text()
        legacy = f"SUPABASE_JWT_SECRET={JWT_SECRET}\nSUPABASE_SECRET_KEY={SECRET_KEY}\n"
        self.secrets.write_text(re.sub("SUPABASE_WORKER_KEY=.+\n", legacy, text))

    def block(self, text: str) -> str:
        """Return the only shell block of the documentation that contains a text."""
        [block] = [block for block in self.printed if text in block]
        return block

    def sh(self, script: str) -> str:
        """Run a shell script in the project's folder and return its output."""
        cache = str(self.project.environment.cache)
        compiled = os.environ["NODE_COMPILE_CACHE"]
        environ = {**self.environ, "XDG_CACHE_HOME": cache, "NODE_COMPILE_CACHE": compiled}
        return self.project.sh(script, **environ)

    def git(self, *arguments: str) -> str:
        """Run git in the project's folder as Ada."""
        author = ("-c", "user.name=Ada", "-c", "user.email=ada@acme.test")
        done = subprocess.run(
            ["git", *author, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self) -> str:
        """Commit all files that git does not ignore, and return the commit's id."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "As it is deployed")
        return self.git("rev-parse", "HEAD")

    def deployed_now(self, *arguments: str) -> Json:
        """Deploy the stage, and return the printed JSON."""
        done = self.deploy("prod", *arguments)
        assert done.returncode == 0, done.stderr
        output: Json = json.loads(done.stdout)
        return output

    def call(self, method: str, path: str, **body: Any) -> Any:
        """Call the deployed API as Ada, and return the response's body."""
        bearer = f"Bearer {user_token(ADA)}"
        text = json.dumps(body) if body else None
        event = http_event(method, path, body=text, authorization=bearer)
        # The recorded template shows the functions of all routes.
        function = "jobs" if method == "POST" else "status"
        response = self.deployed.invoke(f"{self.stack}-{function}", event)
        assert response["statusCode"] < 300, response
        return json.loads(response["body"])

    def greeting(self) -> Json:
        """Run a job through the API as Ada, and return its result."""
        body = {"workspace_id": ACME, "job_type": "work.hello", "payload": {"name": "Ada"}}
        job_id = self.call("POST", "/api/jobs", **body)["id"]

        def finished() -> Any:
            job = self.call("GET", f"/api/jobs/{job_id}")
            return job if job["finished_at"] else None

        result: Json = until(finished)["result"]
        return result

    def tick(self, seconds: float = 240) -> None:
        """Run the deployed worker until no job is due."""
        self.deployed.invoke(f"{self.stack}-worker", TICK, seconds)

    def insert(self, job_type: str, count: int = 1, **payload: Any) -> list[Any]:
        """Insert jobs with plain SQL, and return their ids."""
        values = ACME, job_type, json.dumps(payload), count
        return [job for (job,) in self.database.run(INSERT, *values)]

    def states(self, columns: str, ids: list[Any]) -> list[tuple[Any, ...]]:
        """Return the distinct values of these columns of some jobs."""
        query = f"select distinct {columns} from minutehand.jobs where id = any(%s)"
        return self.database.run(query, ids)

    def published(self) -> list[tuple[Any, ...]]:
        """Return the commits of the registered job types."""
        return self.database.run("select distinct commit from minutehand_engine.job_types")

    def holdings(self) -> list[str]:
        """List the AWS resources that have this project's name."""
        return [name for name in self.account.holdings() if self.stack.partition("-")[0] in name]


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    """A new AWS account that runs its Lambda functions."""
    site = runtime_site(tmp_path / "site")
    with closing(Deployed(site, tmp_path / "code")) as deployed:
        yield deployed


@pytest.fixture
def projects(
    deployed: Deployed, stranger: Stranger, postgres: Postgres, tmp_path: Path
) -> Iterator[list[Live]]:
    """Two projects in one AWS account, each with its own database and Data API."""
    with ExitStack() as ends:
        made = []
        for name in ("shop", "bakery"):
            database = ends.enter_context(hosted_database(postgres))
            api = ends.enter_context(data_api(database, "minutehand"))
            project = stranger.copy(tmp_path / name / "project")
            made.append(Live(project, deployed, name, database, api))
        yield made


@pytest.mark.weekly(only=True)
def test_a_project_is_deployed_beside_another_and_deleted(projects: list[Live]) -> None:
    """Two projects are deployed to one AWS account, and each runs jobs.

    All functions start from the zip alone. A new release, a roll-back and a deletion of one project
    do not affect the other.
    """
    shop, bakery = projects
    empty = shop.account.holdings()
    copy(PROCESSORS, shop.folder / "work/processors/served.py")
    first = shop.commit()
    check_first_deploy(shop)
    check_deadline(shop)
    check_deaths(shop)
    bakery.commit()
    bakery.deployed_now()
    bakery.database.as_owner((bakery.folder / "supabase/seed.sql").read_text())
    assert bakery.greeting() == {"greeting": "Hello, Ada!"}
    check_another_is_refused(shop, bakery)
    theirs = bakery.holdings()

    check_next_release_and_back(shop, first)
    assert bakery.greeting() == {"greeting": "Hello, Ada!"}

    check_deletion(shop)
    assert bakery.holdings() == theirs
    assert bakery.greeting() == {"greeting": "Hello, Ada!"}
    delete(bakery)
    assert shop.account.holdings() == empty


def check_next_release_and_back(shop: Live, first: str) -> None:
    """Deploy new code, which runs immediately, and then deploy the older commit again."""
    ours = shop.holdings()
    processor = shop.folder / "work" / "processors" / "hello.py"
    processor.write_text(processor.read_text().replace("Hello, {", "Good morning, {"))
    second = shop.commit()
    shop.deployed_now()

    assert shop.greeting() == {"greeting": "Good morning, Ada!"}
    assert shop.published() == [(second,)]

    shop.git("checkout", "--quiet", first)
    shop.deployed_now("--no-database")

    assert shop.greeting() == {"greeting": "Hello, Ada!"}
    assert shop.published() == [(first,)]
    assert shop.holdings() == ours


def check_first_deploy(shop: Live) -> None:
    """Deploy the database, the stack and the secrets for the first time, and run a job."""
    before = list(shop.account.asked)
    assert "checked and packaged" in shop.sh(shop.block("--dry-run"))
    assert shop.account.asked == before
    [deploy] = [block for block in shop.printed if block.endswith("--secrets secrets.env\n")]

    assert re.search("deployed: https://", shop.sh(deploy))

    assert shop.account.invoked == ["shop-prod-worker"]
    functions = {f"function shop-prod-{name}" for name in ("jobs", "status", "worker", "health")}
    assert functions <= set(shop.holdings())
    ssm = shop.account.client("ssm")
    names = ("jobs", "status", "worker", "health")
    responses = [ssm.get_parameter(Name=f"/shop/prod/{n}", WithDecryption=True) for n in names]
    secrets = [set(json.loads(response["Parameter"]["Value"])) for response in responses]
    key, token = {"SUPABASE_JWT_SECRET"}, {"WORKER_SECRET_TOKEN"}
    assert secrets == [key, {*SECRETS} - {"BACKGROUND_JOB_TOKEN"}, {*SECRETS}, {*secrets[3]}]
    assert token < secrets[3]

    shop.database.as_owner((shop.folder / "supabase/seed.sql").read_text())
    assert shop.greeting() == {"greeting": "Hello, Ada!"}
    health = shop.deployed.invoke("shop-prod-health", http_event("GET", "/metrics"))
    assert health["statusCode"] == 401

    worker = {"Name": "/shop/prod/worker"}
    ssm.put_parameter(**worker, Value="{}", Type="SecureString", Overwrite=True)
    shop.sh(shop.block("--secrets-only"))
    stored = ssm.get_parameter(**worker, WithDecryption=True)["Parameter"]["Value"]
    assert set(json.loads(stored)) == {*SECRETS}


def check_deadline(shop: Live) -> None:
    """A worker run on Lambda returns before its deadline, without a job that cannot end in time."""
    [job] = shop.insert("served.slow", seconds=600)

    shop.tick(seconds=20)

    assert shop.states("status", [job]) == [("pending",)]
    shop.database.run("delete from minutehand.jobs where id = %s", job)


def check_deaths(shop: Live) -> None:
    """A job that ends its Lambda process fails.

    The other jobs of the process complete without a lost attempt.
    """
    ids, guilty = shop.insert("served.slow", 5, seconds=2), shop.insert("served.exit", seconds=1)

    def is_reclaimed() -> bool:
        shop.database.run(EXPIRE)
        return not shop.database.run("select job_id from minutehand_engine.leases")

    ends: set[str] = set()
    while shop.states("status", guilty) != [("failed",)]:
        try:
            shop.tick()
        except RuntimeError as error:  # an extra worker may also run the job
            ends.add(str(error).rpartition(": ")[2])
        with shop.deployed.one_at_a_time[f"{shop.stack}-worker"]:  # no run holds a lease
            until(is_reclaimed)  # maintenance reclaims leases once a second

    def are_completed() -> bool:
        shop.tick()
        return shop.states("status, attempts, lost_attempts", ids) == [("completed", 1, 0)]

    until(are_completed)
    assert ends == {"exit status 7"}
    [(*attempts, message)] = shop.states("attempts, lost_attempts, error_message", guilty)
    assert (attempts, "last recorded call" in message) == ([2, 2], True)


def check_another_is_refused(shop: Live, bakery: Live) -> None:
    """A project with an existing stack's name and another database must not replace that stack."""
    options = bakery.folder / "minutehand.toml"
    text = options.read_text()
    options.write_text(text.replace('"bakery"', '"shop"'))
    before = shop.account.holdings()

    for refusal in (bakery.refused("prod"), bakery.refused("prod", "--secrets-only")):
        assert refusal["code"] == "another_project"
        assert "minutehand.toml" in refusal["fix"]

    assert shop.account.holdings() == before
    options.write_text(text)


def check_deletion(shop: Live) -> None:
    """`undeploy` deletes all resources, also those that CloudFormation leaves.

    Without `--yes`, it only lists them.
    """
    before = shop.holdings()
    output = json.loads(shop.run("undeploy", "prod").stdout)
    assert output["deleted"] == []
    assert shop.holdings() == before
    worker = "select value #>> '{}' from minutehand_engine.settings where name = 'worker_url'"
    assert shop.database.run(worker) != []

    delete(shop)

    assert shop.database.run(worker) == []
    assert shop.database.run("select count(*) from vault.secrets") == [(0,)]


def delete(project: Live) -> None:
    """Undeploy a project, and delete its encryption key, which `undeploy` keeps."""
    done = project.run("undeploy", "prod", "--yes", "--secrets", str(project.secrets))

    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)["kept"]
    [key] = [item.rpartition("/")[2] for item in kept if item.startswith("arn:aws:kms")]
    [left] = project.holdings()
    assert (left[:4], left.split()[-1]) == ("key ", key)
    project.account.client("kms").schedule_key_deletion(KeyId=key)
