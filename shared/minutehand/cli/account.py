"""The AWS account a command works in: clients, who is signed in, and AWS's refusals as sentences.

boto3 is imported by the first call that needs it: most commands never talk to AWS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minutehand.terminal.connection import CommandFailed

SIGN_IN = (
    "sign in: `aws configure sso`, AWS_PROFILE or AWS_ACCESS_KEY_ID; "
    "`aws sts get-caller-identity` must answer"
)


def check_region(region: str) -> None:
    """A typing error must not become a connection error minutes later."""
    import boto3

    known = boto3.Session().get_available_regions("lambda")
    if region not in known:
        raise CommandFailed(
            f"unknown AWS region {region!r}",
            code="unknown_region",
            fix=f"pass --region or set AWS_REGION: {', '.join(known)}",
        )


def caller(sts: Any) -> str:
    """The account and identity that AWS sees."""
    identity = sts.get_caller_identity()
    return f"{identity['Account']} as {identity['Arn'].rsplit(':', 1)[-1]}"


@contextmanager
def told(region: str) -> Iterator[None]:
    """AWS's refusals, and its silence, as one sentence with one fix."""
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        told = error.response.get("Error", {})
        code = str(told.get("Code", "unknown"))
        denied = "token" in code.lower() or "denied" in code.lower() or "signature" in code.lower()
        raise CommandFailed(
            f"{error.operation_name} in {region}: {told.get('Message', '')} ({code})",
            code=code,
            fix=f"{SIGN_IN}; rights: infra/aws/README.md, `Who may deploy`" if denied else None,
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
