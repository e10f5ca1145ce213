"""`minutehand undeploy`: takes a stage's stack out of AWS, and says what stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from minutehand.cli.deploy import read_secrets, refusals
from minutehand.cli.stage import Stage, asked_region
from minutehand.deploy.limits import explain_failure
from minutehand.deploy.parameters import NEEDED, parameter_name
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.options import Region, verb
from minutehand.terminal.output import Output

# CloudFormation deletes no bucket that holds anything
BUCKETS = ("ServerlessDeploymentBucketName", "ConsoleBucketName")


@verb
def undeploy(
    output: Output,
    name: Annotated[str, typer.Argument(metavar="STAGE", help="The stage to delete.")],
    *,
    region: Region = "",
    secrets_file: Annotated[
        Path | None,
        typer.Option("--secrets", help="As of deploy: its SUPABASE_SECRET_KEY ends the wake-ups."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete it.")] = False,
) -> None:
    """Delete a stage from AWS; without --yes, say what would go and what stays."""
    with refusals(region):
        stage = Stage(name, asked_region(region))
        secrets = dict(os.environ) if secrets_file is None else read_secrets(secrets_file)
        made = stage.outputs()
        gone = [f"the stack {stage.stack} in {stage.region}"]
        buckets = [made[each] for each in BUCKETS if each in made]
        gone += [f"the bucket {bucket} with its files" for bucket in buckets]
        names = [parameter_name(stage.service, name, function) for function in NEEDED]
        gone += [f"the secrets in {each}" for each in names]
        kept = [made[each] for each in ("UploadsBucketName", "ServiceKeyArn") if each in made]
        kept += ["the database with its jobs, until `minutehand uninstall`"]
        if yes:
            kept += disconnect(stage, secrets)
            for bucket in buckets:
                empty(stage.client("s3"), bucket)
            delete_stack(stage)
            stage.client("ssm").delete_parameters(Names=names)
        lines = [f"{'deleted' if yes else 'with --yes deletes'} {each}" for each in gone]
        lines += [f"stays: {each}" for each in kept]
        output.value({"deleted": gone if yes else [], "kept": kept}, text="\n".join(lines))


def disconnect(stage: Stage, secrets: dict[str, str]) -> list[str]:
    """Let the database wake no worker that is gone, and forget its token; what stays of it."""
    if not secrets.get("SUPABASE_SECRET_KEY"):
        end = f"select {Project.find().schema_}.connect_worker(null, null)"
        return [f"the wake-up and its secret in the Vault, until postgres runs `{end}`"]
    link = Connection({**secrets, "SUPABASE_URL": str(stage.values["supabaseUrl"])})
    link.rpc("connect_worker", {"p_url": None, "p_token": None}, as_operator=True)
    return []


def empty(s3: Any, bucket: str) -> None:
    """Delete every version of every file."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        files = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found]
        if files:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": files, "Quiet": True})


def delete_stack(stage: Stage) -> None:
    """Delete the stack and wait until it is gone."""
    from botocore.exceptions import WaiterError

    cloudformation = stage.client("cloudformation")
    cloudformation.delete_stack(StackName=stage.stack)
    try:
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=stage.stack)
    except WaiterError as error:
        reason, fix = explain_failure(cloudformation, stage.stack) or (str(error), None)
        raise CommandFailed(f"the stack stays; {reason}", code="delete_failed", fix=fix) from error
