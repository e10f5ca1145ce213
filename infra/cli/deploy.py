"""`minutehand deploy`: from a checkout to a running stack, each step said before it is done.

Steps: nothing left to fill, package, stack, secrets, database, console, first tick. The stack comes
before the secrets, because it makes the key that encrypts them; functions read them at their next
cold start, so the first tick comes last.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from infra.aws.build import PackagingError, find_tool, project_version
from infra.aws.package import main as package
from infra.aws.parameters import NEEDED, missing_for, write_parameters
from infra.cli.connection import ROOT, CommandFailed, read_env_file
from infra.cli.options import Json, speaking
from infra.cli.output import Output

PLACEHOLDER = re.compile(r"<[a-z-]+>")
STAGES = ROOT / "infra" / "aws" / "stages.yml"
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
        """A boto3 client of the account."""
        import boto3

        return boto3.client(service, region_name=self.region, endpoint_url=self.endpoint)  # type: ignore[call-overload]


def placeholders(stage: str, path: Path = STAGES) -> list[str]:
    """Parameters of a stage that still hold a placeholder."""
    stages = yaml.safe_load(path.read_text("utf-8"))
    values = {**stages["default"], **(stages.get(stage) or {})}
    return sorted(name for name, value in values.items() if PLACEHOLDER.search(str(value)))


def deploy(
    stage: Annotated[str, typer.Argument(help="A stage of infra/aws/stages.yml.")],
    *,
    region: Annotated[str, typer.Option(envvar="AWS_REGION")] = "us-east-1",
    secrets_file: Annotated[
        Path | None,
        typer.Option("--secrets", help="KEY=value lines; default: the environment."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and package only.")] = False,
    rollback: Annotated[
        str | None,
        typer.Option(help="Go back to a deployment by its timestamp; see `osls deploy list`."),
    ] = None,
    secrets_only: Annotated[
        bool, typer.Option("--secrets-only", help="Only write the secrets, e.g. to rotate them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Deploy a stage to AWS."""
    with speaking(as_json) as output:
        values = dict(os.environ) if secrets_file is None else read_secrets(secrets_file)
        plan = Plan(stage, region, values, os.environ.get("AWS_ENDPOINT_URL"))
        if rollback is not None:
            osls(plan, "rollback", "--timestamp", rollback)
            output.value({"stage": stage, "rolled_back_to": rollback}, text="rolled back")
            return
        steps = planned(plan, output, dry_run=dry_run, secrets_only=secrets_only)
        for number, (title, step) in enumerate(steps, start=1):
            output.note(f"{number}/{len(steps)}  {title}")
            step()
        done = {"stage": stage, "steps": [title for title, _ in steps], "dry_run": dry_run}
        output.value(done, text="checked and packaged" if dry_run else "deployed")


def read_secrets(path: Path) -> dict[str, str]:
    """The secrets file.

    Raises:
        CommandFailed: It does not exist, or others may read it.
    """
    if not path.exists():
        raise CommandFailed(f"{path} does not exist", code="no_secrets_file")
    if path.stat().st_mode & 0o077:
        raise CommandFailed(
            f"others may read {path}", code="secrets_exposed", fix=f"chmod 600 {path}"
        )
    return read_env_file(path)


def planned(
    plan: Plan, output: Output, *, dry_run: bool, secrets_only: bool
) -> list[tuple[str, Callable[[], None]]]:
    """The steps, in order."""
    check = ("check that nothing is left to fill", lambda: check_filled(plan))
    secrets = ("write the functions' secrets to SSM", lambda: put_secrets(plan))
    if secrets_only:
        return [("check the secrets", lambda: check_secrets(plan)), secrets]
    first = [check, ("build the zips and compile the stack", lambda: build_package(plan))]
    if dry_run:
        return first
    return [
        *first,
        ("create or update the stack", lambda: osls(plan, "deploy")),
        secrets,
        ("push the migrations to Supabase", lambda: push_database(output)),
        ("upload the console", lambda: upload_console(plan)),
        ("run the first tick, which publishes the job types", lambda: first_tick(plan)),
    ]


def check_filled(plan: Plan) -> None:
    """No placeholder, no missing secret.

    Raises:
        CommandFailed: With every name that is left.
    """
    if left := placeholders(plan.stage):
        raise CommandFailed(
            f"stage {plan.stage} still has placeholders: {', '.join(left)}",
            code="placeholders",
            fix="fill them in infra/aws/stages.yml",
        )
    check_secrets(plan)


def check_secrets(plan: Plan) -> None:
    """Every function has the secrets it cannot work without.

    Raises:
        CommandFailed: With every name that is missing.
    """
    missing = sorted({name for function in NEEDED for name in missing_for(function, plan.secrets)})
    if missing:
        raise CommandFailed(
            f"secrets are missing: {', '.join(missing)}",
            code="secrets_missing",
            fix="`minutehand token secret` makes the tokens, `minutehand token worker` the key",
        )


def build_package(plan: Plan) -> None:
    """`make package` for the stage.

    Raises:
        CommandFailed: It said why on standard error.
    """
    if package(["--stage", plan.stage]):
        raise CommandFailed("the package could not be built", code="packaging_failed")


def osls(plan: Plan, *command: str) -> None:
    """Run osls in the checkout with the caller's AWS credentials.

    Raises:
        CommandFailed: It ended with an error, which it has printed.
    """
    try:
        node = find_tool("node")
    except PackagingError as error:
        raise CommandFailed(str(error), code="no_node") from error
    done = subprocess.run(
        [
            node, str(ROOT / "node_modules" / "osls" / "bin" / "serverless.js"), *command,
            "--stage", plan.stage, "--region", plan.region,
        ],
        cwd=ROOT,
        env={**os.environ, "MINUTEHAND_VERSION": project_version()},
        check=False,
        stdout=sys.stderr,
    )  # fmt: skip
    if done.returncode:
        raise CommandFailed(f"osls {command[0]} failed", code="osls_failed")


def outputs(plan: Plan) -> dict[str, str]:
    """The stack's outputs by name."""
    stacks = plan.client("cloudformation").describe_stacks(StackName=plan.stack)["Stacks"]
    return {item["OutputKey"]: item["OutputValue"] for item in stacks[0].get("Outputs", [])}


def put_secrets(plan: Plan) -> None:
    """One SecureString per function, under the stack's own key."""
    key = outputs(plan).get("ServiceKeyArn")
    write_parameters(plan.client("ssm"), plan.stage, plan.secrets, key_id=key)


def push_database(output: Output) -> None:
    """`supabase db push`, if the Supabase CLI is here; else say what to run."""
    supabase = shutil.which("supabase")
    if supabase is None:
        output.note("     the Supabase CLI is not installed: run `supabase db push` yourself")
        return
    done = subprocess.run(
        [supabase, "db", "push", "--include-seed=false"], cwd=ROOT, check=False, stdout=sys.stderr
    )
    if done.returncode:
        raise CommandFailed("supabase db push failed", code="db_push_failed")


def upload_console(plan: Plan) -> None:
    """The console's files, with the configuration the page asks for; nothing is deleted."""
    bucket = outputs(plan).get("ConsoleBucketName")
    if bucket is None:
        raise CommandFailed(f"stack {plan.stack} has no ConsoleBucketName", code="no_console")
    s3 = plan.client("s3")
    for path, body in console_files(plan).items():
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        cache = "no-store" if path in {"config.json", "index.html"} else "public, max-age=3600"
        s3.put_object(Bucket=bucket, Key=path, Body=body, ContentType=kind, CacheControl=cache)
    distribution = outputs(plan).get("ConsoleDistribution")
    if distribution:
        plan.client("cloudfront").create_invalidation(
            DistributionId=distribution,
            InvalidationBatch={
                "Paths": {"Quantity": 1, "Items": ["/*"]},
                "CallerReference": f"{plan.stage}-{project_version()}-{os.getpid()}",
            },
        )


def console_files(plan: Plan, root: Path = ROOT) -> dict[str, bytes]:
    """Every file of the console by its path, vendored packages and configuration included.

    Raises:
        CommandFailed: A vendored file is missing, or not the one that was looked at.
    """
    stages = yaml.safe_load(STAGES.read_text("utf-8"))
    values = {**stages["default"], **(stages.get(plan.stage) or {})}
    config = {
        "supabaseUrl": values["supabaseUrl"],
        "supabaseKey": values["supabasePublishableKey"],
        "apiUrl": "",  # the console and the API share an origin
        "stage": plan.stage,
    }
    files = {"config.json": json.dumps(config).encode()}
    console = root / "infra" / "console"
    for path in sorted(console.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            files[path.relative_to(console).as_posix()] = path.read_bytes()
    vendored = json.loads(files.get("vendor.json", b'{"files": {}}'))["files"]
    for name, checksum in sorted(vendored.items()):
        path = root / "node_modules" / name
        body = path.read_bytes() if path.is_file() else b""
        if checksum != f"sha256-{hashlib.sha256(body).hexdigest()}":
            raise CommandFailed(
                f"{name} is not what infra/console/vendor.json says",
                code="wrong_vendored",
                fix="make setup",
            )
        files[f"vendor/{name}"] = body
    return files


def first_tick(plan: Plan) -> None:
    """Invoke the worker once and wait: it registers the job types.

    Raises:
        CommandFailed: The tick failed; its own words are passed on.
    """
    answer = plan.client("lambda").invoke(
        FunctionName=f"{SERVICE}-{plan.stage}-worker",
        Payload=json.dumps({"source": "minutehand.deploy"}).encode(),
    )
    if answer.get("FunctionError"):
        told = answer["Payload"].read().decode("utf-8", "replace")[:500]
        raise CommandFailed(f"the first tick failed: {told}", code="first_tick_failed")
