"""`minutehand deploy`, which deploys a project to AWS and prints each step.

The command pushes migrations before it deploys the code, so that the database schema is never older
than the code. The CloudFormation stack creates the KMS key that encrypts the functions' secrets, so
that the command writes the secrets after it creates the stack. The first worker run comes after
that, because functions read their secrets at a cold start.
"""

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
from minutehand.cli.stage import Stage, resolve_region, translate_aws_errors
from minutehand.cli.supabase_cli import find_cli, project_ref, push
from minutehand.deploy.build import Built, PackagingError, build
from minutehand.deploy.console import console_files, invalidate, upload
from minutehand.deploy.limits import concurrency_limit
from minutehand.deploy.package import OSLS, TEMPLATE, compile_template, service_environment
from minutehand.deploy.parameters import NEEDED, missing_for, write_parameters
from minutehand.deploy.service import needs_of, write_first_files
from minutehand.node import NodeMissing, node_binary, node_home
from minutehand.project import Project, add_to_gitignore
from minutehand.terminal.connection import CommandFailed, Connection, load_values, reject_tracked
from minutehand.terminal.options import Region, verb
from minutehand.terminal.output import Output

#: AWS region in the names of resources if `minutehand package` compiles a template without an
#: account.
ANY_REGION = "us-east-1"


@verb
def package(
    output: Output,
    *,
    stage: Annotated[str, typer.Option(help="Stage to compile.")] = "dev",
    region: Region = "",
) -> None:
    """Build the zip for AWS and compile the stack (no account needed)."""
    with translate_errors(region):
        for path in write_first_files(Project.find()):
            output.hint(f"wrote {path.name}")
        artifact, template = build_package(Stage(stage, region or ANY_REGION))
        output.value(
            {**asdict(artifact), "template": str(template)},
            text=f"{describe_build(artifact)}\n{template}",
        )


@contextmanager
def translate_errors(region: str) -> Iterator[None]:
    """Raise errors of AWS and of packaging as `CommandFailed`."""
    try:
        with translate_aws_errors(region):
            yield
    except (PackagingError, NodeMissing) as error:
        raise CommandFailed(str(error), code="packaging_failed") from error


def describe_build(build: Built) -> str:
    """Describe a build in one line."""
    return f"{build.archive}: {build.zipped_bytes / 1e6:.1f} MB, Python {build.python}"


def build_package(stage: Stage) -> tuple[Built, Path]:
    """Build the zip of the functions, then compile the template that deploys it."""
    project = Project.find()
    node_binary()  # check first that Node is installed, because packaging takes a minute
    folder = project.root / "build" / "aws"
    add_to_gitignore(folder)
    artifact = build(folder, project)
    compiled = compile_template(stage.name, folder, region=stage.region)
    return artifact, compiled / TEMPLATE


@verb
def deploy(
    output: Output,
    name: Annotated[
        str, typer.Argument(metavar="STAGE", help="A stage of the project's stages file.")
    ],
    *,
    region: Region = "",
    secrets_file: Annotated[
        Path | None, typer.Option("--secrets", help="KEY=value lines; default: the environment.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and package only.")] = False,
    no_database: Annotated[
        bool,
        typer.Option("--no-database", help="Skip the migrations if something else applies them."),
    ] = False,
    secrets_only: Annotated[
        bool,
        typer.Option(
            "--secrets-only",
            help="Write the secrets to AWS and deploy nothing, for example to rotate a key.",
        ),
    ] = False,
) -> None:
    """Deploy a stage to AWS."""
    with translate_errors(region):
        secrets = read_secrets(secrets_file)
        region = region or ANY_REGION if dry_run else resolve_region(region)
        run = Deployment(Stage(name, region), secrets, output, migrates=not no_database)
        for path in write_first_files(Project.find()):
            output.hint(f"wrote {path.name}")
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
            output.hint(str(step.__doc__))
            step()
        outputs = run.stage.outputs() if done == "deployed" else {}
        url = outputs.get("ConsoleUrl") or outputs.get("HttpApiUrl")
        output.value({"stage": name, "outputs": outputs}, text=f"{done}: {url}" if url else done)


def read_secrets(path: Path | None) -> dict[str, str]:
    """Read secrets from a file that only its owner may read, or from the environment.

    Raise an error if git tracks the file.
    """
    if path is None:
        return dict(os.environ)
    values = load_values(path, {})
    if path.stat().st_mode & 0o077:
        raise CommandFailed(
            f"{path} must be readable by its owner only",
            code="secrets_exposed",
            fix=f"chmod 600 {path}",
        )
    reject_tracked(path)
    return values


@dataclass(frozen=True)
class Deployment:
    """A stage with its secrets, and the steps that deploy the stage.

    Each step prints its docstring.
    """

    stage: Stage
    secrets: Mapping[str, str]
    output: Output
    #: True if the deployment applies the migrations to the database.
    migrates: bool

    def check(self) -> None:
        """Check that the stage's values and secrets are complete."""
        self.stage.check()
        self.check_secrets()
        if self.migrates:
            ref, program = project_ref(self.stage.values), find_cli()
            self.output.hint(f"     project {ref}, by {program}")

    def check_secrets(self) -> None:
        """Check that every function has the secrets it cannot work without."""
        missing = {name for function in NEEDED for name in missing_for(function, self.secrets)}
        if missing:
            raise CommandFailed(
                f"secrets are missing: {', '.join(sorted(missing))}",
                code="secrets_missing",
                fix="put them into a file for --secrets; `minutehand token secret` prints a new "
                "token, `minutehand token worker` the key",
            )

    def check_account(self) -> None:
        """Check which AWS account this is, and that it has room for the stage's workers."""
        stage = self.stage
        caller = stage.client("sts").get_caller_identity()
        self.output.hint(f"     {caller['Account']} as {caller['Arn']}, {stage.region}")
        limit = concurrency_limit(stage.client("lambda"), stage.stack, stage.region, stage.values)
        if limit.verdict == "fail":
            raise CommandFailed(limit.detail, code="account_limit", fix=limit.fix)
        if limit.verdict == "warn":
            self.output.hint(f"     {limit.detail}\n       → {limit.fix}")

    def check_stack(self) -> None:
        """Check that an existing stack of this name belongs to this project."""
        stage = self.stage
        client = stage.client("lambda")
        try:
            configuration = client.get_function_configuration(FunctionName=f"{stage.stack}-worker")
        except client.exceptions.ResourceNotFoundException:
            return
        deployed_url = (
            configuration.get("Environment", {}).get("Variables", {}).get("SUPABASE_URL", "")
        )
        url, ref = stage.values["supabaseUrl"], stage.values.get("supabaseProject")
        if deployed_url not in (str(url), f"https://{ref}.supabase.co"):
            raise CommandFailed(
                f"the stack {stage.stack} in {stage.region} serves {deployed_url}, not {url}",
                code="another_project",
                fix=f'give this project another `name` than "{stage.service}" in minutehand.toml; '
                f"if the project has moved, `minutehand undeploy {stage.name}` first",
            )

    def build(self) -> None:
        """Build the zip and compile the stack."""
        artifact, _ = build_package(self.stage)
        self.output.hint(f"     {describe_build(artifact)}")

    def create_stack(self) -> None:
        """Create or update the stack with osls."""
        project, stage = Project.find(), self.stage
        build = project.root / "build" / "aws"
        program = [str(node_binary()), str(node_home() / OSLS)]
        # run osls in the build folder, so that osls writes no files between the project's sources
        result = subprocess.run(
            [*program, "deploy", "--stage", stage.name, "--region", stage.region],
            cwd=build / "service",
            env={
                **os.environ,
                "MINUTEHAND_ARTIFACTS": str(build.resolve()),
                **service_environment(project),
                # let osls print no spinner into a log
                **({} if sys.stdout.isatty() else {"CI": "true"}),
            },
            stdout=sys.stderr,
        )
        if result.returncode:
            raise CommandFailed(
                "osls deploy failed; its output above names the resource and the reason",
                code="osls_failed",
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
        outputs, values, project = self.stage.outputs(), self.stage.values, Project.find()
        bucket = outputs.get("ConsoleBucketName")
        if bucket is None:  # the stage has no console
            return
        # the console's configuration contains only public values
        config = {
            "supabaseUrl": values["supabaseUrl"],
            "supabaseKey": values["supabasePublishableKey"],
            "schema": project.schema_,
            "stage": self.stage.name,
        }
        files = console_files(config, find_apps(project.apps))
        upload(self.stage.client("s3"), bucket, files)
        if distribution := outputs.get("ConsoleDistribution"):
            invalidate(self.stage.client("cloudfront"), distribution)

    def first_tick(self) -> None:
        """Run the first tick, which publishes the job types."""
        function = f"{self.stage.stack}-worker"
        payload = json.dumps({"source": "minutehand.deploy"}).encode()
        response = self.stage.client("lambda").invoke(FunctionName=function, Payload=payload)
        if response.get("FunctionError"):
            message = response["Payload"].read().decode("utf-8", "replace")[:500]
            raise CommandFailed(
                f"the first tick failed: {message}",
                code="first_tick_failed",
                fix=f"aws logs tail {self.stage.stack} --since 10m",
            )

    def connect_worker(self) -> None:
        """Let the database wake the worker through the extension pg_net."""
        url = f"{self.stage.outputs()['HttpApiUrl'].rstrip('/')}/api/jobs/worker"
        token = self.secrets["WORKER_SECRET_TOKEN"].partition(",")[0]
        if sql := connect_worker(self.stage, self.secrets, url, token):
            self.output.hint(
                f"     SUPABASE_SECRET_KEY is not set, so run this once as postgres:\n       {sql}"
            )


def connect_worker(
    stage: Stage, secrets: Mapping[str, str], url: str | None, token: str | None
) -> str | None:
    """Let the database wake the worker at `url`. Without a URL, the database wakes no worker.

    Without the operator's key, return the SQL for an operator to run.
    """
    if not secrets.get("SUPABASE_SECRET_KEY"):
        values = f"'{url}', '<WORKER_SECRET_TOKEN>'" if url else "null, null"
        return f"select {Project.find().schema_}.connect_worker({values})"
    connection = Connection({**secrets, "SUPABASE_URL": str(stage.values["supabaseUrl"])})
    connection.rpc("connect_worker", {"p_url": url, "p_token": token}, as_operator=True)
    return None
