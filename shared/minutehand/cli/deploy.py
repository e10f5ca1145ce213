"""`minutehand deploy`: from a project to a running stack, each step said before it is done.

The database is one migration ahead of the code, never behind it. The stack makes the key that
encrypts the secrets; functions read those at their next cold start, so the first tick comes last.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from minutehand.app import find_apps
from minutehand.cli.stage import Stage, asked_region, aws_refusals
from minutehand.cli.supabase_cli import find_cli, project_ref, push
from minutehand.config import ConfigurationError
from minutehand.deploy.build import RUNTIMES, Built, PackagingError, build
from minutehand.deploy.console import console_assets, forget, upload
from minutehand.deploy.limits import concurrency_limit, explain_failure
from minutehand.deploy.package import OSLS, TEMPLATE, compile_template, service_environment
from minutehand.deploy.parameters import NEEDED, missing_for, write_parameters
from minutehand.deploy.service import needs_of, write_first_files
from minutehand.node import NodeMissing, node_binary, node_home
from minutehand.project import Project, keep_out_of_git
from minutehand.terminal.connection import CommandFailed, Connection, load_values, refuse_tracked
from minutehand.terminal.options import Region, verb
from minutehand.terminal.output import Output

#: In the names of a template that is compiled without an account.
ANY_REGION = "us-east-1"


@verb
def package(
    output: Output,
    *,
    stage: Annotated[str, typer.Option(help="Whose template is compiled.")] = "dev",
    region: Region = "",
) -> None:
    """Build the zip for AWS and compile the stack, without an account."""
    with refusals(region):
        for path in write_first_files(Project.find()):
            output.note(f"wrote {path.name}")
        made, template = make_package(Stage(stage, region or ANY_REGION))
        output.value(
            {**asdict(made), "template": str(template)}, text=f"{described(made)}\n{template}"
        )


@contextmanager
def refusals(region: str) -> Iterator[None]:
    """What AWS refuses, and what the project lacks, as failures of the command."""
    try:
        with aws_refusals(region):
            yield
    except (PackagingError, ConfigurationError, NodeMissing) as error:
        raise CommandFailed(str(error), code="packaging_failed") from error


def described(made: Built) -> str:
    """A build in a line, with the end of its Python on Lambda."""
    until = f"Python {made.python}, which Lambda runs until {RUNTIMES[made.python]}"
    return f"{made.archive}: {made.zipped_bytes / 1e6:.1f} MB, {until}"


def make_package(stage: Stage) -> tuple[Built, Path]:
    """Build the zip, then the template that deploys it."""
    project = Project.find()
    folder = project.root / "build" / "aws"
    keep_out_of_git(folder)
    made = build(folder, project)
    compiled = compile_template(stage.name, folder, artifacts=folder, region=stage.region)
    return made, compiled / TEMPLATE


@verb
def deploy(
    output: Output,
    name: Annotated[
        str, typer.Argument(metavar="STAGE", help="A stage of the project's file of stages.")
    ],
    *,
    region: Region = "",
    secrets_file: Annotated[
        Path | None, typer.Option("--secrets", help="KEY=value lines; default: the environment.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and package only.")] = False,
    no_database: Annotated[
        bool,
        typer.Option("--no-database", help="Skip the migrations: something else applies them."),
    ] = False,
    secrets_only: Annotated[
        bool, typer.Option("--secrets-only", help="Only write the secrets, e.g. to rotate them.")
    ] = False,
) -> None:
    """Deploy a stage to AWS."""
    with refusals(region):
        secrets = dict(os.environ) if secrets_file is None else read_secrets(secrets_file)
        region = region or ANY_REGION if dry_run else asked_region(region)
        run = Deployment(Stage(name, region), secrets, output, migrates=not no_database)
        for path in write_first_files(Project.find()):
            output.note(f"wrote {path.name}")
        if secrets_only:
            steps, done = [run.check_secrets, run.check_stack, run.put_secrets], "written"
        elif dry_run:
            steps, done = [run.check, run.build], "checked and packaged"
        else:
            steps = [
                run.check,
                run.check_account,
                run.check_stack,
                run.build,
                *([run.migrate] if run.migrates else []),
                run.create_stack,
                run.put_secrets,
                run.upload_console,
                run.first_tick,
                run.connect_worker,
            ]
            done = "deployed"
        for step in steps:
            output.note(str(step.__doc__))
            step()
        made = run.stage.outputs() if done == "deployed" else {}
        url = made.get("ConsoleUrl") or made.get("HttpApiUrl")
        output.value({"stage": name, "outputs": made}, text=f"{done}: {url}" if url else done)


def read_secrets(path: Path) -> dict[str, str]:
    """The secrets file."""
    values = load_values(path, {})
    if path.stat().st_mode & 0o077:
        raise CommandFailed(
            f"others may read {path}", code="secrets_exposed", fix=f"chmod 600 {path}"
        )
    refuse_tracked(path)
    return values


@dataclass(frozen=True)
class Deployment:
    """A stage with its secrets, and the steps that bring it to AWS; a docstring says the step."""

    stage: Stage
    secrets: Mapping[str, str]
    output: Output
    #: Whether the migrations are pushed, or something else applies them.
    migrates: bool

    def check(self) -> None:
        """Check that the stage's values and secrets are complete."""
        self.stage.check()
        self.check_secrets()
        url = self.secrets.get("DATABASE_URL")  # the doctor's, and that of `serve`
        if url and importlib.util.find_spec("psycopg"):  # of another extra
            self._note_address(url)
        if self.migrates:
            ref, program = project_ref(self.stage.values), find_cli()
            self.output.note(f"     project {ref}, by {program}")

    def _note_address(self, url: str) -> None:
        from minutehand.queue.address import ask  # only here: its driver may be missing

        address = asyncio.run(ask(url))
        if address.lacks is not None:
            self.output.note(f"     DATABASE_URL {address.lacks}\n       → {address.fix}")

    def check_secrets(self) -> None:
        """Check that every function has the secrets it cannot work without."""
        missing = {name for function in NEEDED for name in missing_for(function, self.secrets)}
        if missing:
            raise CommandFailed(
                f"secrets are missing: {', '.join(sorted(missing))}",
                code="secrets_missing",
                fix="put them into a file for --secrets: `minutehand token secret` makes the "
                "tokens, `minutehand token worker` the key",
            )
        functions = needs_of(Project.find()).functions.values()
        declared = {name for needs in functions for name in needs.secrets}
        if absent := sorted(name for name in declared if not self.secrets.get(name)):
            self.output.note(f"     apps do without {', '.join(absent)}: not among the secrets")

    def check_account(self) -> None:
        """Check whose account this is, and that it has room for the stage's workers."""
        stage = self.stage
        who = stage.client("sts").get_caller_identity()
        self.output.note(f"     {who['Account']} as {who['Arn']}, {stage.region}")
        limit = concurrency_limit(stage.client("lambda"), stage.stack, stage.region, stage.values)
        if limit.stops:
            raise CommandFailed(limit.detail, code="account_limit", fix=limit.fix)
        if limit.verdict == "warn":
            self.output.note(f"     {limit.detail}\n       → {limit.fix}")

    def check_stack(self) -> None:
        """Check that a stack of this name is this project's."""
        stage = self.stage
        client, values = stage.client("lambda"), stage.values
        try:
            found = client.get_function_configuration(FunctionName=f"{stage.stack}-worker")
        except client.exceptions.ResourceNotFoundException:
            return
        theirs = found.get("Environment", {}).get("Variables", {}).get("SUPABASE_URL", "")
        ours = str(values["supabaseUrl"])
        if theirs not in (ours, f"https://{values.get('supabaseProject')}.supabase.co"):
            raise CommandFailed(
                f"the stack {stage.stack} in {stage.region} serves {theirs}, not {ours}",
                code="another_project",
                fix=f'give this project another `name` than "{stage.service}" in minutehand.toml; '
                f"where it has moved, `minutehand undeploy {stage.name}` first",
            )

    def build(self) -> None:
        """Build the zip and compile the stack."""
        made, _ = make_package(self.stage)
        self.output.note(f"     {described(made)}")

    def create_stack(self) -> None:
        """Create or update the stack, by osls."""
        project, stage = Project.find(), self.stage
        built = project.root / "build" / "aws"
        program = [str(node_binary()), str(node_home(deploy=True) / OSLS)]
        # where it was compiled: what osls keeps beside a service is no file of the project's
        done = subprocess.run(
            [*program, "deploy", "--stage", stage.name, "--region", stage.region],
            cwd=built / "service",
            env={
                **os.environ,
                "MINUTEHAND_ARTIFACTS": str(built.resolve()),
                **service_environment(project),
            },
            check=False,
            stdout=sys.stderr,
        )
        if done.returncode:
            failed = explain_failure(stage.client("cloudformation"), stage.stack)
            reason, fix = failed or ("see its output above", "")
            raise CommandFailed(
                f"osls deploy failed; {reason}",
                code="osls_failed",
                fix=fix or "CloudFormation's own reason: the stack's events in the AWS console",
            )

    def put_secrets(self) -> None:
        """Write the functions' secrets to SSM."""
        stage, needs = self.stage, needs_of(Project.find())
        key = stage.outputs().get("ServiceKeyArn")
        ssm = stage.client("ssm")
        write_parameters(ssm, stage.service, stage.name, self.secrets, key_id=key, needs=needs)

    def migrate(self) -> None:
        """Push the pending migrations to Supabase."""
        push(project_ref(self.stage.values), Project.find())

    def upload_console(self) -> None:
        """Upload the console."""
        made, values, project = self.stage.outputs(), self.stage.values, Project.find()
        bucket = made.get("ConsoleBucketName")
        if bucket is None:  # the stage has no console
            return
        config = {  # all of it is public
            "supabaseUrl": values["supabaseUrl"],
            "supabaseKey": values["supabasePublishableKey"],
            "schema": project.schema_,
            "stage": self.stage.name,
        }
        assets = console_assets(config, find_apps(project.apps))
        upload(self.stage.client("s3"), bucket, assets)
        if distribution := made.get("ConsoleDistribution"):
            forget(self.stage.client("cloudfront"), distribution)

    def first_tick(self) -> None:
        """Run the first tick, which publishes the job types."""
        function = f"{self.stage.stack}-worker"
        payload = json.dumps({"source": "minutehand.deploy"}).encode()
        answer = self.stage.client("lambda").invoke(FunctionName=function, Payload=payload)
        if answer.get("FunctionError"):
            words = answer["Payload"].read().decode("utf-8", "replace")[:500]
            raise CommandFailed(
                f"the first tick failed: {words}",
                code="first_tick_failed",
                fix=f"aws logs tail {self.stage.stack} --since 10m",
            )

    def connect_worker(self) -> None:
        """Let the database wake the worker, by pg_net."""
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
