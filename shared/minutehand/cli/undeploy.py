"""`minutehand undeploy`, which deletes a stage from AWS and lists what is not deleted."""

from pathlib import Path
from typing import Annotated

import typer

from minutehand.cli.deploy import connect_worker, read_secrets, translate_errors
from minutehand.cli.stage import Stage, resolve_region
from minutehand.deploy.parameters import NEEDED, parameter_name
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import Region, verb
from minutehand.terminal.output import Output

#: Outputs of the stack with the names of S3 buckets, which must be empty before CloudFormation
#: deletes them.
BUCKETS = ("ServerlessDeploymentBucketName", "ConsoleBucketName")


@verb
def undeploy(
    output: Output,
    name: Annotated[str, typer.Argument(metavar="STAGE", help="The stage to delete.")],
    *,
    region: Region = "",
    secrets_file: Annotated[
        Path | None,
        typer.Option(
            "--secrets",
            help="Secrets file of `deploy`, to disconnect the database from the worker.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete it.")] = False,
) -> None:
    """Delete a stage from AWS; without --yes, list what would be deleted and what stays."""
    import boto3

    with translate_errors(region):
        stage = Stage(name, resolve_region(region))
        secrets = read_secrets(secrets_file)
        outputs = stage.outputs()
        resources = [f"the stack {stage.stack} in {stage.region}"]
        buckets = [outputs[output_name] for output_name in BUCKETS if output_name in outputs]
        resources += [f"the bucket {bucket} with its files" for bucket in buckets]
        parameters = [parameter_name(stage.service, name, function) for function in NEEDED]
        resources += [f"the secrets in {parameter}" for parameter in parameters]
        kept = [outputs[key] for key in ("UploadsBucketName", "ServiceKeyArn") if key in outputs]
        kept += ["the database with its jobs, until `minutehand uninstall`"]
        if yes:
            if sql := connect_worker(stage, secrets, None, None):
                kept.append(f"the worker's URL and token in the Vault, until postgres runs `{sql}`")
            for bucket in buckets:
                storage = boto3.resource("s3", region_name=stage.region)
                storage.Bucket(bucket).object_versions.delete()
            delete_stack(stage)
            stage.client("ssm").delete_parameters(Names=parameters)
        lines = [f"{'deleted' if yes else 'with --yes deletes'} {item}" for item in resources]
        lines += [f"stays: {item}" for item in kept]
        output.value({"deleted": resources if yes else [], "kept": kept}, text="\n".join(lines))


def delete_stack(stage: Stage) -> None:
    """Delete the stack and wait until CloudFormation has deleted it."""
    from botocore.exceptions import WaiterError

    cloudformation = stage.client("cloudformation")
    cloudformation.delete_stack(StackName=stage.stack)
    try:
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=stage.stack)
    except WaiterError as error:
        raise CommandFailed(
            f"the stack was not deleted: {error}",
            code="delete_failed",
            fix=f"aws cloudformation describe-stack-events --stack-name {stage.stack}",
        ) from error
