"""`minutehand deploy`: from a project to a running stack, each step said before it is done.

Steps: nothing left to fill, account, package, database, stack, secrets, console, first tick. The
database is one migration ahead of the code, never behind it. The stack makes the key that encrypts
the secrets; functions read those at their next cold start, so the first tick comes last.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from minutehand.app import find_apps
from minutehand.cli.account import caller, check_region, told
from minutehand.cli.supabase_cli import SupabaseCli, project_ref
from minutehand.config import ConfigurationError
from minutehand.deploy.build import Built, PackagingError, build
from minutehand.deploy.console import console_assets, forget, upload
from minutehand.deploy.limits import concurrency_limit, explain_failure
from minutehand.deploy.package import OSLS, TEMPLATE, compile_template, service_environment
from minutehand.deploy.parameters import NEEDED, missing_for, write_parameters
from minutehand.deploy.service import needs_of, read_stages, write_first_files, write_service
from minutehand.deploy.stage_values import problems
from minutehand.node import NodeMissing, node_binary, node_home
from minutehand.project import Project, keep_out_of_git
from minutehand.terminal.connection import CommandFailed, Connection, read_env_file, refuse_tracked
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output

PLACEHOLDER = re.compile(r"<[a-z-]+>")
SERVICE = "minutehand"


@dataclass(frozen=True)
class Plan:
    """What is deployed where."""

    stage: str
    region: str
    secrets: Mapping[str, str]
    endpoint: str | None = None

    @property
    def stack(self) -> str:
        """The CloudFormation stack's name."""
        return f"{SERVICE}-{self.stage}"

    def client(self, service: str) -> Any:
        """A boto3 client of the account; it waits as long as a whole tick may take, once."""
        import boto3
        from botocore.config import Config

        slow = Config(connect_timeout=10, read_timeout=910, retries={"total_max_attempts": 1})
        return boto3.client(  # type: ignore[call-overload]
            service,
            region_name=self.region,
            endpoint_url=self.endpoint,
            config=slow if service == "lambda" else None,
        )


def parameters(stage: str, project: Project | None = None) -> dict[str, Any]:
    """A stage's parameters, its own over the defaults."""
    project = project or Project.find()
    try:
        stages = read_stages(project)
    except ConfigurationError as error:
        raise CommandFailed(str(error), code="bad_stages", fix="correct it") from error
    if stage not in stages or stage == "default":
        names = ", ".join(name for name in stages if name != "default")
        raise CommandFailed(
            f"unknown stage {stage!r}",
            code="unknown_stage",
            fix=f"take one of {names}, or add `{stage}: {{}}` to {shown(project)}",
        )
    return {**stages["default"], **stages[stage]}


def shown(project: Project | None = None) -> str:
    """The file of stages, as people write its path."""
    project = project or Project.find()
    return project.stages_file.relative_to(project.root).as_posix()


def placeholders(stage: str, project: Project | None = None) -> list[str]:
    """Parameters of a stage that still hold a placeholder."""
    values = parameters(stage, project)
    return sorted(name for name, value in values.items() if PLACEHOLDER.search(str(value)))


@verb
def package(
    output: Output,
    *,
    stage: Annotated[str, typer.Option(help="Whose template is compiled.")] = "dev",
    region: Annotated[str, typer.Option(envvar="AWS_REGION")] = "us-east-1",
    out: Annotated[Path | None, typer.Option(help="Default: build/aws.")] = None,
) -> None:
    """Build the zip for AWS and compile the stack, without an account."""
    begin(output)
    made, template = make_package(stage, region, out)
    text = f"{made.archive}: {made.zipped_bytes / 1e6:.1f} MB, Python {made.python}\n{template}"
    output.value({**asdict(made), "template": str(template)}, text=text)


def begin(output: Output) -> None:
    """Write what the first deploy of a project lacks."""
    try:
        for path in write_first_files(Project.find()):
            output.note(f"wrote {path.name}")
    except ConfigurationError as error:
        raise CommandFailed(str(error), code="serverless_taken") from error


def make_package(stage: str, region: str, out: Path | None = None) -> tuple[Built, Path]:
    """Build the zip, then the template that deploys it."""
    project = Project.find()
    folder = (out or project.root / "build" / "aws").resolve()
    keep_out_of_git(folder)
    try:
        made = build(folder, project)
        template = compile_template(stage, folder, artifacts=folder, region=region) / TEMPLATE
    except (PackagingError, ConfigurationError, NodeMissing) as error:
        raise CommandFailed(str(error), code="packaging_failed") from error
    return made, template


@verb
def deploy(
    output: Output,
    stage: Annotated[str, typer.Argument(help="A stage of the project's file of stages.")],
    *,
    region: Annotated[str, typer.Option(envvar="AWS_REGION")] = "us-east-1",
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
        values = dict(os.environ) if secrets_file is None else read_secrets(secrets_file)
        plan = Plan(stage, region, values, os.environ.get("AWS_ENDPOINT_URL"))
        begin(output)
        parameters(stage)
        check_region(region)
        if rollback is not None:
            sign_in(plan, output)
            osls(plan, "rollback", "--timestamp", rollback)
            output.value({"stage": stage, "rolled_back_to": rollback}, text="rolled back")
            return
        steps = planned(
            plan, output, dry_run=dry_run, secrets_only=secrets_only, database=not no_database
        )
        for number, (title, step) in enumerate(steps, start=1):
            output.note(f"{number}/{len(steps)}  {title}")
            step()
        done = {"stage": stage, "steps": [title for title, _ in steps], "dry_run": dry_run}
        if dry_run or secrets_only:
            words = "checked and packaged" if dry_run else "written"
            output.value({**done, "outputs": {}}, text=words)
            return
        made = outputs(plan)
        url = made.get("ConsoleUrl") or made.get("HttpApiUrl", "")
        output.value({**done, "outputs": made}, text=f"deployed: {url}")


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


def planned(
    plan: Plan, output: Output, *, dry_run: bool, secrets_only: bool, database: bool = True
) -> list[tuple[str, Callable[[], object]]]:
    """The steps, in order."""
    account = ("check the AWS account", lambda: sign_in(plan, output))
    secrets = ("write the functions' secrets to SSM", lambda: put_secrets(plan))
    if secrets_only:
        return [("check the secrets", lambda: check_secrets(plan)), account, secrets]
    before = [("check that every placeholder is filled in", lambda: check_filled(plan))]
    push = []
    if database:
        before.append(("check the CLI and the project", lambda: check_database(plan, output)))
        push.append(("push the migrations to Supabase", lambda: push_database(plan)))
    build = ("build the zip and compile the stack", lambda: make_package(plan.stage, plan.region))
    if dry_run:
        return [*before, build]
    return [
        *before,
        account,
        ("check what the account allows", lambda: check_limits(plan, output)),
        build,
        *push,
        ("create or update the stack", lambda: osls(plan, "deploy")),
        secrets,
        ("upload the console", lambda: upload_console(plan)),
        ("run the first tick, which publishes the job types", lambda: first_tick(plan)),
        ("let the database wake the worker", lambda: connect_worker(plan, output)),
    ]


def sign_in(plan: Plan, output: Output) -> None:
    """Say whose account this is, before minutes are spent on building."""
    who = caller(plan.client("sts"))
    output.note(f"     {who}, {plan.region}")


def check_filled(plan: Plan) -> None:
    """No placeholder, no value that breaks the stack, no missing secret."""
    if left := placeholders(plan.stage):
        raise CommandFailed(
            f"stage {plan.stage} still has placeholders: {', '.join(left)}",
            code="placeholders",
            fix=f"fill them in {shown()}",
        )
    if found := problems(parameters(plan.stage)):
        raise CommandFailed(
            f"stage {plan.stage}: {'; '.join(found)}",
            code="bad_parameter",
            fix=f"correct it in {shown()}",
        )
    check_secrets(plan)


def check_limits(plan: Plan, output: Output) -> None:
    """The account has room for the stage's workers, before CloudFormation finds out."""
    values = parameters(plan.stage)
    limit = concurrency_limit(plan.client("lambda"), plan.stage, plan.region, values)
    if limit.stops:
        raise CommandFailed(limit.detail, code="account_limit", fix=limit.fix)
    if limit.verdict == "warn":
        output.note(f"     {limit.detail}")
        output.note(f"       → {limit.fix}")


def check_secrets(plan: Plan) -> None:
    """Every function has the secrets it cannot work without."""
    missing = sorted({name for function in NEEDED for name in missing_for(function, plan.secrets)})
    if missing:
        raise CommandFailed(
            f"secrets are missing: {', '.join(missing)}",
            code="secrets_missing",
            fix="put them into a file for --secrets: `minutehand token secret` makes the tokens, "
            "`minutehand token worker` the key",
        )


def osls(plan: Plan, *command: str) -> None:
    """Run osls in the project with the caller's AWS credentials."""
    project = Project.find()
    write_service(project, project.root)
    try:
        program = [str(node_binary()), str(node_home(deploy=True) / OSLS)]
    except NodeMissing as error:
        raise CommandFailed(str(error), code="no_node") from error
    done = subprocess.run(
        [*program, *command, "--stage", plan.stage, "--region", plan.region],
        cwd=project.root,
        env={**os.environ, **service_environment(project)},
        check=False,
        stdout=sys.stderr,
    )
    if done.returncode:
        reason, fix = explain_failure(plan.client("cloudformation"), plan.stack) or ("", "")
        raise CommandFailed(
            f"osls {command[0]} failed; {reason or 'see its output above'}",
            code="osls_failed",
            fix=fix or "CloudFormation's own reason: the stack's events in the AWS console",
        )


def outputs(plan: Plan) -> dict[str, str]:
    """The stack's outputs by name."""
    with told(plan.region):
        found = plan.client("cloudformation").describe_stacks(StackName=plan.stack)["Stacks"]
    return {item["OutputKey"]: item["OutputValue"] for item in found[0].get("Outputs", [])}


def put_secrets(plan: Plan) -> None:
    """One SecureString per function, under the stack's own key."""
    key = outputs(plan).get("ServiceKeyArn")
    needs = needs_of(Project.find())
    write_parameters(plan.client("ssm"), plan.stage, plan.secrets, key_id=key, needs=needs)


def stage_ref(plan: Plan) -> str:
    """The ref of the stage's Supabase project."""
    values = parameters(plan.stage)
    return project_ref(str(values["supabaseUrl"]), str(values.get("supabaseProject") or ""))


def check_database(plan: Plan, output: Output) -> None:
    """Say which project gets the schema, and by which CLI; needs no account."""
    ref, cli = stage_ref(plan), SupabaseCli.find()
    cli.check(Project.find().root, ref)
    output.note(f"     project {ref}, Supabase CLI {'.'.join(map(str, cli.version))}")


def push_database(plan: Plan) -> None:
    """Apply the pending migrations to the stage's project."""
    SupabaseCli.find().push(stage_ref(plan), Project.find())


def upload_console(plan: Plan) -> None:
    """The console's files, with the configuration the page asks for."""
    made = outputs(plan)
    bucket = made.get("ConsoleBucketName")
    if bucket is None:  # the stage has no console
        return
    try:
        assets = console_assets(console_config(plan), find_apps(Project.find().apps))
    except PackagingError as error:
        raise CommandFailed(str(error), code="wrong_console") from error
    upload(plan.client("s3"), bucket, assets)
    if distribution := made.get("ConsoleDistribution"):
        forget(plan.client("cloudfront"), distribution)


def console_config(plan: Plan) -> dict[str, Any]:
    """What `/config.json` gives the console; every value of it is public."""
    values = parameters(plan.stage)
    return {
        "supabaseUrl": values["supabaseUrl"],
        "supabaseKey": values["supabasePublishableKey"],
        "schema": Project.find().schema_,
        "apiUrl": "",  # the console and the API share an origin
        "stage": plan.stage,
    }


def first_tick(plan: Plan) -> None:
    """Invoke the worker once and wait: it registers the job types."""
    answer = plan.client("lambda").invoke(
        FunctionName=f"{SERVICE}-{plan.stage}-worker",
        Payload=json.dumps({"source": "minutehand.deploy"}).encode(),
    )
    if answer.get("FunctionError"):
        words = answer["Payload"].read().decode("utf-8", "replace")[:500]
        raise CommandFailed(
            f"the first tick failed: {words}",
            code="first_tick_failed",
            fix=f"aws logs tail /aws/lambda/{SERVICE}-{plan.stage}-worker --since 10m",
        )


def connect_worker(plan: Plan, output: Output) -> None:
    """Let a job that SQL or a browser makes invoke the worker at once, by pg_net."""
    url = f"{outputs(plan)['HttpApiUrl'].rstrip('/')}/api/jobs/worker"
    token = plan.secrets["WORKER_SECRET_TOKEN"].partition(",")[0]
    key = plan.secrets.get("SUPABASE_SECRET_KEY")
    schema = Project.find().schema_
    if not key:
        output.note("     SUPABASE_SECRET_KEY is not given, so run this as postgres once:")
        output.note(f"       select {schema}.connect_worker('{url}', '<WORKER_SECRET_TOKEN>')")
        return
    values = {**plan.secrets, "SUPABASE_URL": str(parameters(plan.stage)["supabaseUrl"])}
    Connection(values).rpc("connect_worker", {"p_url": url, "p_token": token}, as_operator=True)
