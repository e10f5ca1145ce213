"""A stage on AWS: what its file says, what the account holds of it, AWS's refusals as sentences.

boto3 is imported by the first call that needs it: most commands never talk to AWS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from minutehand.deploy.parameters import NEEDED, parameter_name
from minutehand.deploy.service import read_stages
from minutehand.deploy.stage_values import problems
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed

PLACEHOLDER = re.compile(r"<[a-z-]+>")
SIGN_IN = (
    "sign in: `aws configure sso`, AWS_PROFILE or AWS_ACCESS_KEY_ID; "
    "`aws sts get-caller-identity` must answer"
)


@dataclass(frozen=True)
class Stage:
    """A stage of this project in a region."""

    name: str
    region: str

    @property
    def service(self) -> str:
        """The project's name in the account."""
        return Project.find().name

    @property
    def stack(self) -> str:
        """The stack's and the log group's name, with which its functions' names begin."""
        return f"{self.service}-{self.name}"

    @property
    def values(self) -> dict[str, Any]:
        """The stage's parameters, its own over the defaults."""
        stages = read_stages(Project.find())
        if self.name not in stages or self.name == "default":
            names = ", ".join(name for name in stages if name != "default")
            raise CommandFailed(
                f"unknown stage {self.name!r}",
                code="unknown_stage",
                fix=f"take one of {names}, or add `{self.name}: {{}}` to {_file()}",
            )
        return {**stages["default"], **stages[self.name]}

    def check(self) -> None:
        """Stop where a placeholder is left, or a value that AWS or the functions refuse."""
        values = self.values
        if left := sorted(name for name, value in values.items() if PLACEHOLDER.search(str(value))):
            raise CommandFailed(
                f"stage {self.name} still has placeholders: {', '.join(left)}",
                code="placeholders",
                fix=f"fill them in {_file()}",
            )
        if found := problems(values):
            raise CommandFailed(
                f"stage {self.name}: {'; '.join(found)}",
                code="bad_parameter",
                fix=f"correct it in {_file()}",
            )

    def client(self, service: str) -> Any:
        """A boto3 client of the account; it waits as long as a whole tick may take, once."""
        import boto3
        from botocore.config import Config

        slow = Config(connect_timeout=10, read_timeout=910, retries={"total_max_attempts": 1})
        return boto3.client(  # type: ignore[call-overload]
            service, region_name=self.region, config=slow if service == "lambda" else None
        )

    def outputs(self) -> dict[str, str]:
        """The stack's outputs by name."""
        with aws_refusals(self.region):
            stacks = self.client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"]
        return {item["OutputKey"]: item["OutputValue"] for item in stacks[0].get("Outputs", [])}

    def secrets_of(self, function: str) -> dict[str, str]:
        """What a function may read; empty when nothing was written."""
        ssm = self.client("ssm")
        with aws_refusals(self.region):
            try:
                name = parameter_name(self.service, self.name, function)
                found = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
            except ssm.exceptions.ParameterNotFound:
                return {}
        secrets: dict[str, str] = json.loads(found["Value"])
        return secrets

    def environment(self) -> dict[str, str]:
        """What the stage's functions run with, and where they are reached; shown to no one."""
        made = self.outputs()
        values = {"API_URL": made.get("ConsoleUrl") or made.get("HttpApiUrl", "")}
        for name in NEEDED:
            with aws_refusals(self.region):
                function = self.client("lambda").get_function_configuration(
                    FunctionName=f"{self.stack}-{name}"
                )
            values |= function.get("Environment", {}).get("Variables", {})
            values |= self.secrets_of(name)
        return values


def asked_region(given: str) -> str:
    """The region of the option, of AWS_REGION or of the profile; never one that no one named."""
    import boto3

    if region := given or boto3.Session().region_name:
        return region
    raise CommandFailed(
        "which region of AWS?", code="no_region", fix="--region eu-central-1, or AWS_REGION"
    )


def _file() -> str:
    """The file of stages, as people write its path."""
    project = Project.find()
    return project.stages_file.relative_to(project.root).as_posix()


@contextmanager
def aws_refusals(region: str) -> Iterator[None]:
    """AWS's refusals, and its silence, as one sentence with one fix."""
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        refusal = error.response.get("Error", {})
        code = str(refusal.get("Code", "unknown"))
        denied = "token" in code.lower() or "denied" in code.lower() or "signature" in code.lower()
        raise CommandFailed(
            f"{error.operation_name} in {region}: {refusal.get('Message', '')} ({code})",
            code=code,
            fix=f"{SIGN_IN}; rights: `minutehand docs aws`, Who may deploy" if denied else None,
        ) from error
    except (aws.EndpointConnectionError, aws.HTTPClientError) as error:
        raise CommandFailed(
            f"AWS in {region} does not answer ({type(error).__name__})",
            code="aws_unreachable",
            fix="check the network, AWS_REGION and AWS_ENDPOINT_URL",
        ) from error
    except aws.BotoCoreError as error:  # every way of having no usable credentials
        raise CommandFailed(
            f"no AWS credentials: {error}", code="no_credentials", fix=SIGN_IN
        ) from error
