"""`minutehand deploy`: from a project to a running stack, each step said before it is done.

Steps: nothing left to fill, account, package, database, stack, secrets, console, first tick. The
database is one migration ahead of the code, never behind it. The stack makes the key that encrypts
the secrets; functions read those at their next cold start, so the first tick comes last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from minutehand.app import find_apps
from minutehand.cli import supabase_cli
from minutehand.cli.stage import Stage, told
from minutehand.config import ConfigurationError
from minutehand.deploy.build import Built, PackagingError, build
from minutehand.deploy.console import console_assets, forget, upload
from minutehand.deploy.limits import concurrency_limit, explain_failure
from minutehand.deploy.package import OSLS, TEMPLATE, compile_template, service_environment
from minutehand.deploy.parameters import NEEDED, missing_for, write_parameters
from minutehand.deploy.service import needs_of, write_first_files, write_service
from minutehand.node import NodeMissing, node_binary, node_home
from minutehand.project import Project, keep_out_of_git
from minutehand.terminal.connection import CommandFailed, Connection, read_env_file, refuse_tracked
from minutehand.terminal.options import Region, verb
from minutehand.terminal.output import Output

#: What is said before a step, and the step.
Step = tuple[str, Callable[[], object]]


@verb
def package(
    output: Output,
    *,
    stage: Annotated[str, typer.Option(help="Whose template is compiled.")] = "dev",
    region: Region = "us-east-1",
) -> None:
    """Build the zip for AWS and compile the stack, without an account."""
    write_first(output)
    made, template = make_package(Stage(stage, region))
    text = f"{made.archive}: {made.zipped_bytes / 1e6:.1f} MB, Python {made.python}\n{template}"
    output.value({**asdict(made), "template": str(template)}, text=text)


def write_first(output: Output) -> None:
    """Write what the first deploy of a project lacks."""
    try:
        for path in write_first_files(Project.find()):
            output.note(f"wrote {path.name}")
    except ConfigurationError as error:
        raise CommandFailed(str(error), code="serverless_taken") from error


def make_package(stage: Stage) -> tuple[Built, Path]:
    """Build the zip, then the template that deploys it."""
    project = Project.find()
    folder = project.root / "build" / "aws"
    keep_out_of_git(folder)
    try:
        made = build(folder, project)
        compiled = compile_template(stage.name, folder, artifacts=folder, region=stage.region)
    except (PackagingError, ConfigurationError, NodeMissing) as error:
        raise CommandFailed(str(error), code="packaging_failed") from error
    return made, compiled / TEMPLATE


@verb
def deploy(
    output: Output,
    name: Annotated[
        str, typer.Argument(metavar="STAGE", help="A stage of the project's file of stages.")
    ],
    *,
    region: Region = "us-east-1",
    secrets_file: Annotated[
        Path | None, typer.Option("--secrets", help="KEY=value lines; default: the environment.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and package only.")] = False,
    no_database: Annotated[
        bool,
        typer.Option("--no-database", help="Skip the migrations: something else applies them."),
    ] = False,
    rollback: Annotated[
        str | None,
        typer.Option(help="Go back to a deployment by its timestamp; see `osls deploy list`."),
    ] = None,
    secrets_only: Annotated[
        bool, typer.Option("--secrets-only", help="Only write the secrets, e.g. to rotate them.")
    ] = False,
) -> None:
    """Deploy a stage to AWS."""
    with told(region):
        secrets = dict(os.environ) if secrets_file is None else read_secrets(secrets_file)
        run = Deployment(Stage(name, region), secrets, output)
        write_first(output)
        if rollback is not None:
            run.sign_in()
            run.osls("rollback", "--timestamp", rollback)
            output.value({"stage": name, "rolled_back_to": rollback}, text="rolled back")
            return
        if secrets_only:
            steps, words = run.secrets_alone(), "written"
        elif dry_run:
            steps, words = run.checks(database=not no_database), "checked and packaged"
        else:
            steps, words = run.everything(database=not no_database), "deployed"
        for number, (title, step) in enumerate(steps, start=1):
            output.note(f"{number}/{len(steps)}  {title}")
            step()
        made = run.stage.outputs() if words == "deployed" else {}
        url = made.get("ConsoleUrl") or made.get("HttpApiUrl")
        done = {"stage": name, "steps": [title for title, _ in steps], "dry_run": dry_run}
        output.value({**done, "outputs": made}, text=f"{words}: {url}" if url else words)


def read_secrets(path: Path) -> dict[str, str]:
    """The secrets file."""
    if not path.exists():
        raise CommandFailed(
            f"{path} does not exist",
            code="no_secrets_file",
            fix="lines of WORKER_SECRET_TOKEN, BACKGROUND_JOB_TOKEN and SUPABASE_WORKER_KEY, which "
            "`minutehand token secret` and `minutehand token worker` print; then chmod 600",
        )
    if path.stat().st_mode & 0o077:
        raise CommandFailed(
            f"others may read {path}", code="secrets_exposed", fix=f"chmod 600 {path}"
        )
    refuse_tracked(path)
    return read_env_file(path)


@dataclass(frozen=True)
class Deployment:
    """A stage with its secrets, and the steps that bring it to AWS."""

    stage: Stage
    secrets: Mapping[str, str]
    output: Output

    def secrets_alone(self) -> list[Step]:
        """The steps that rotate secrets."""
        return [
            ("check the secrets", self.check_secrets),
            ("check the AWS account", self.sign_in),
            ("write the functions' secrets to SSM", self.put_secrets),
        ]

    def checks(self, *, database: bool) -> list[Step]:
        """The steps that need no account."""
        filled = ("check that every placeholder is filled in", self.check_filled)
        target = [("check the CLI and the project", self.check_database)] if database else []
        return [filled, *target, ("build the zip and compile the stack", self.build)]

    def everything(self, *, database: bool) -> list[Step]:
        """All steps, in order."""
        *before, package = self.checks(database=database)
        push = [("push the migrations to Supabase", self.push_database)] if database else []
        return [
            *before,
            ("check the AWS account", self.sign_in),
            ("check what the account allows", self.check_limits),
            package,
            *push,
            ("create or update the stack", lambda: self.osls("deploy")),
            ("write the functions' secrets to SSM", self.put_secrets),
            ("upload the console", self.upload_console),
            ("run the first tick, which publishes the job types", self.first_tick),
            ("let the database wake the worker", self.connect_worker),
        ]

    def sign_in(self) -> None:
        """Say whose account this is, before minutes are spent on building."""
        who = self.stage.client("sts").get_caller_identity()
        name = who["Arn"].rsplit(":", 1)[-1]
        self.output.note(f"     {who['Account']} as {name}, {self.stage.region}")

    def check_filled(self) -> None:
        """No placeholder, no value that breaks the stack, no missing secret."""
        self.stage.check()
        self.check_secrets()

    def check_secrets(self) -> None:
        """Every function has the secrets it cannot work without."""
        missing = {name for function in NEEDED for name in missing_for(function, self.secrets)}
        if missing:
            raise CommandFailed(
                f"secrets are missing: {', '.join(sorted(missing))}",
                code="secrets_missing",
                fix="put them into a file for --secrets: `minutehand token secret` makes the "
                "tokens, `minutehand token worker` the key",
            )

    def check_limits(self) -> None:
        """The account has room for the stage's workers, before CloudFormation finds out."""
        stage = self.stage
        limit = concurrency_limit(stage.client("lambda"), stage.name, stage.region, stage.values)
        if limit.stops:
            raise CommandFailed(limit.detail, code="account_limit", fix=limit.fix)
        if limit.verdict == "warn":
            self.output.note(f"     {limit.detail}\n       → {limit.fix}")

    def build(self) -> None:
        """Build what the stack is made of."""
        make_package(self.stage)

    def osls(self, *command: str) -> None:
        """Run osls in the project with the caller's AWS credentials."""
        project = Project.find()
        write_service(project, project.root)
        try:
            program = [str(node_binary()), str(node_home(deploy=True) / OSLS)]
        except NodeMissing as error:
            raise CommandFailed(str(error), code="no_node") from error
        stage = self.stage
        done = subprocess.run(
            [*program, *command, "--stage", stage.name, "--region", stage.region],
            cwd=project.root,
            env={**os.environ, **service_environment(project)},
            check=False,
            stdout=sys.stderr,
        )
        if done.returncode:
            failed = explain_failure(stage.client("cloudformation"), stage.stack)
            reason, fix = failed or ("see its output above", "")
            raise CommandFailed(
                f"osls {command[0]} failed; {reason}",
                code="osls_failed",
                fix=fix or "CloudFormation's own reason: the stack's events in the AWS console",
            )

    def put_secrets(self) -> None:
        """One SecureString per function, under the stack's own key."""
        key, needs = self.stage.outputs().get("ServiceKeyArn"), needs_of(Project.find())
        ssm = self.stage.client("ssm")
        write_parameters(ssm, self.stage.name, self.secrets, key_id=key, needs=needs)

    @property
    def ref(self) -> str:
        """The ref of the stage's Supabase project."""
        values = self.stage.values
        return supabase_cli.project_ref(
            str(values["supabaseUrl"]), str(values.get("supabaseProject") or "")
        )

    def check_database(self) -> None:
        """Say which project gets the schema, and by which CLI; needs no account."""
        program = supabase_cli.find_cli()
        self.output.note(f"     project {self.ref}, by {program}")

    def push_database(self) -> None:
        """Apply the pending migrations to the stage's project."""
        supabase_cli.push(self.ref, Project.find())

    def upload_console(self) -> None:
        """The console's files, with the configuration the page asks for; all of it is public."""
        made, values, project = self.stage.outputs(), self.stage.values, Project.find()
        bucket = made.get("ConsoleBucketName")
        if bucket is None:  # the stage has no console
            return
        config = {
            "supabaseUrl": values["supabaseUrl"],
            "supabaseKey": values["supabasePublishableKey"],
            "schema": project.schema_,
            "apiUrl": "",  # the console and the API share an origin
            "stage": self.stage.name,
        }
        try:
            assets = console_assets(config, find_apps(project.apps))
        except PackagingError as error:
            raise CommandFailed(str(error), code="wrong_console") from error
        upload(self.stage.client("s3"), bucket, assets)
        if distribution := made.get("ConsoleDistribution"):
            forget(self.stage.client("cloudfront"), distribution)

    def first_tick(self) -> None:
        """Invoke the worker once and wait: it registers the job types."""
        function = f"{self.stage.stack}-worker"
        payload = json.dumps({"source": "minutehand.deploy"}).encode()
        answer = self.stage.client("lambda").invoke(FunctionName=function, Payload=payload)
        if answer.get("FunctionError"):
            words = answer["Payload"].read().decode("utf-8", "replace")[:500]
            raise CommandFailed(
                f"the first tick failed: {words}",
                code="first_tick_failed",
                fix=f"aws logs tail /aws/lambda/{function} --since 10m",
            )

    def connect_worker(self) -> None:
        """Let a job that SQL or a browser makes invoke the worker at once, by pg_net."""
        url = f"{self.stage.outputs()['HttpApiUrl'].rstrip('/')}/api/jobs/worker"
        if not self.secrets.get("SUPABASE_SECRET_KEY"):
            schema = Project.find().schema_
            self.output.note(
                "     SUPABASE_SECRET_KEY is not given, so run this as postgres once:\n"
                f"       select {schema}.connect_worker('{url}', '<WORKER_SECRET_TOKEN>')"
            )
            return
        token = self.secrets["WORKER_SECRET_TOKEN"].partition(",")[0]
        values = {**self.secrets, "SUPABASE_URL": str(self.stage.values["supabaseUrl"])}
        asked = {"p_url": url, "p_token": token}
        Connection(values).rpc("connect_worker", asked, as_operator=True)
