"""The AWS account a command works in: clients, who is signed in, and AWS's refusals as sentences.

boto3 is imported by the first call that needs it: most commands never talk to AWS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from minutehand.terminal.connection import CommandFailed

SIGN_IN = (
    "sign in: `aws configure sso`, AWS_PROFILE or AWS_ACCESS_KEY_ID; "
    "`aws sts get-caller-identity` must answer"
)
#: What AWS says to credentials that are wrong, old, or of an account without this region.
REFUSED = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
FORBIDDEN = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})


def known_regions() -> list[str]:
    """The regions that have Lambda, as botocore lists them; needs no network."""
    import boto3

    regions: list[str] = boto3.Session().get_available_regions("lambda")
    return regions


def check_region(region: str) -> None:
    """A typing error must not become a connection error minutes later."""
    known = known_regions()
    if region in known:
        return
    near = [name for name in known if name.split("-")[0] == region.split("-")[0]] or known
    raise CommandFailed(
        f"unknown AWS region {region!r}",
        code="unknown_region",
        fix=f"pass --region or set AWS_REGION: {', '.join(near)}",
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
        raise _refusal(error.response.get("Error", {}), error.operation_name, region) from error
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


def _refusal(error: Mapping[str, Any], operation: str, region: str) -> CommandFailed:
    code, message = str(error.get("Code", "unknown")), str(error.get("Message", ""))
    if code in REFUSED:
        return CommandFailed(
            f"AWS refuses these credentials in {region} ({code}: {message})",
            code="credentials_refused",
            fix=f"{SIGN_IN}; an opt-in region must be enabled in the account",
        )
    if code in FORBIDDEN:
        return CommandFailed(
            f"AWS forbids {operation} ({message})",
            code="access_denied",
            fix="deploy as someone who may: see infra/aws/README.md, `Who may deploy`",
        )
    return CommandFailed(f"{operation}: {message} ({code})", code=code)
