"""A stage on AWS, with its parameters, its resources and sentences about AWS's errors.

The first call that needs boto3 imports boto3, because most commands never call AWS.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from minutehand.deploy.parameters import NEEDED, parameter_name
from minutehand.deploy.service import read_stages
from minutehand.deploy.stage_values import find_errors
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed

PLACEHOLDER = re.compile(r"<[a-z-]+>")
SIGN_IN = (
    "sign in: `aws configure sso`, AWS_PROFILE or AWS_ACCESS_KEY_ID; "
    "`aws sts get-caller-identity` must succeed"
)


@dataclass(frozen=True)
class Stage:
    """A stage of this project in one AWS region."""

    name: str
    region: str
    _clients: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def service(self) -> str:
        """Name of the project on AWS, with which the names of its stacks begin."""
        return Project.find().name

    @property
    def stack(self) -> str:
        """Name of the stage's CloudFormation stack and log group, and prefix of function names."""
        return f"{self.service}-{self.name}"

    @property
    def values(self) -> dict[str, Any]:
        """Parameters of the stage, and defaults for parameters that the stage does not set."""
        stages = read_stages(Project.find())
        if self.name not in stages or self.name == "default":
            names = ", ".join(name for name in stages if name != "default")
            raise CommandFailed(
                f"unknown stage {self.name!r}",
                code="unknown_stage",
                fix=f"use one of {names}, or add `{self.name}: {{}}` to {_file()}",
            )
        return {**stages["default"], **stages[self.name]}

    def check(self) -> None:
        """Raise an error if a parameter is still a placeholder, or if its value is invalid."""
        values = self.values
        if names := sorted(n for n, value in values.items() if PLACEHOLDER.search(str(value))):
            raise CommandFailed(
                f"stage {self.name} still has placeholders: {', '.join(names)}",
                code="placeholders",
                fix=f"replace them in {_file()}",
            )
        if invalid := find_errors(values):
            raise CommandFailed(
                f"stage {self.name}: {'; '.join(invalid)}",
                code="bad_parameter",
                fix=f"correct it in {_file()}",
            )

    def client(self, service: str) -> Any:
        """Return the boto3 client of an AWS service.

        The client of Lambda does not retry, and its timeout is longer than a whole worker run.
        """
        import boto3
        from botocore.config import Config

        if service not in self._clients:
            slow = Config(connect_timeout=10, read_timeout=910, retries={"total_max_attempts": 1})
            self._clients[service] = boto3.client(  # type: ignore[call-overload]
                service, region_name=self.region, config=slow if service == "lambda" else None
            )
        return self._clients[service]

    def outputs(self) -> dict[str, str]:
        """Read the outputs of the stage's CloudFormation stack by name."""
        with translate_aws_errors(self.region, self.name):
            stacks = self.client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"]
        return {item["OutputKey"]: item["OutputValue"] for item in stacks[0].get("Outputs", [])}

    def read_secrets(self, function: str) -> dict[str, str] | None:
        """Read a function's secrets from SSM. Return None if SSM has no valid secrets."""
        ssm = self.client("ssm")
        with translate_aws_errors(self.region):
            try:
                name = parameter_name(self.service, self.name, function)
                parameter = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
            except ssm.exceptions.ParameterNotFound:
                return None
        try:
            return dict(json.loads(parameter["Value"]))
        except (TypeError, ValueError):  # someone has edited the SSM parameter
            return None

    def environment(self) -> dict[str, str]:
        """Read the settings and secrets of all functions, and the API's address.

        Never print the returned variables, because they contain secrets.
        """
        outputs, functions = self.outputs(), self.client("lambda")
        values = {"API_URL": outputs.get("ConsoleUrl") or outputs.get("HttpApiUrl", "")}
        for name in NEEDED:
            with translate_aws_errors(self.region):
                read = functions.get_function_configuration(FunctionName=f"{self.stack}-{name}")
            values |= read.get("Environment", {}).get("Variables", {})
            values |= self.read_secrets(name) or {}
        return values


def resolve_region(option: str) -> str:
    """Return the AWS region from the option, AWS_REGION or the AWS profile.

    Raise an error if no region is set, because Minutehand has no default region.
    """
    import boto3

    if region := option or boto3.Session().region_name:
        return region
    raise CommandFailed(
        "an AWS region must be given", code="no_region", fix="--region eu-central-1, or AWS_REGION"
    )


def _file() -> str:
    """Return the path of the stages file relative to the project."""
    project = Project.find()
    return project.stages_file.relative_to(project.root).as_posix()


@contextmanager
def translate_aws_errors(region: str, stage: str = "STAGE") -> Iterator[None]:
    """Raise errors and timeouts of AWS as `CommandFailed`, with one sentence and one fix."""
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        details = error.response.get("Error", {})
        code = str(details.get("Code", "unknown"))
        if code == "ResourceNotFoundException" or "does not exist" in details.get("Message", ""):
            raise CommandFailed(
                f"{details.get('Message', 'a resource is missing')} in {region}",
                code=code,
                fix=f"pass the --region of the stage, or deploy it: minutehand deploy {stage}",
            ) from error
        denied = "token" in code.lower() or "denied" in code.lower() or "signature" in code.lower()
        raise CommandFailed(
            f"{error.operation_name} in {region}: {details.get('Message', '')} ({code})",
            code=code,
            fix=f"{SIGN_IN}; rights: `minutehand docs aws`, Who may deploy" if denied else None,
        ) from error
    except (aws.EndpointConnectionError, aws.HTTPClientError) as error:
        raise CommandFailed(
            f"AWS in {region} does not respond ({type(error).__name__})",
            code="aws_unreachable",
            fix="check the network, AWS_REGION and AWS_ENDPOINT_URL",
        ) from error
    except aws.BotoCoreError as error:
        # search the error's text, because botocore's errors of credentials have no common class
        is_sign_in = re.search("[Cc]redential|[Tt]oken|SSO", f"{type(error).__name__} {error}")
        code, fix = ("no_credentials", SIGN_IN) if is_sign_in else ("aws_failed", None)
        raise CommandFailed(
            f"AWS in {region} was not called: {error}", code=code, fix=fix
        ) from error
