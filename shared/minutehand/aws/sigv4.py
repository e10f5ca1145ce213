"""Calls to AWS that each cold start makes, signed by botocore without a boto3 client.

A boto3 client takes 220 ms of CPU time before its first call, because it reads the model of its
service. Importing botocore and signing a call takes only a fifth of that time. AWS calls that only
some Lambda functions make use `minutehand.aws.clients`.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import tenacity

from minutehand.config import JobServiceError, Settings
from minutehand.queue.outbound_http import trusted


class AwsError(JobServiceError):
    """AWS responded with an error."""

    def __init__(self, service: str, status: int, text: str) -> None:
        self.is_transient = status >= 500 or "Throttl" in text
        super().__init__(f"{service} responded {status}: {text[:300]}")


class _Credentials(NamedTuple):
    """AWS credentials that sign a request, with attributes of the names that botocore expects."""

    access_key: str
    secret_key: str
    token: str | None


@cache
def _connections() -> httpx.Client:
    return httpx.Client(verify=trusted())


def _credentials() -> Any:
    """Return the AWS credentials in environment variables, as Lambda sets them, or boto3's."""
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        return _boto3_credentials()
    return _Credentials(
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        os.environ.get("AWS_SESSION_TOKEN"),
    )


@cache
def _boto3_credentials() -> Any:
    """Find AWS credentials of a profile, a container or a restored function, which boto3 renews."""
    import boto3
    from botocore.exceptions import NoCredentialsError

    credentials = boto3.Session().get_credentials()
    if credentials is None:
        raise NoCredentialsError
    return credentials


def configured_endpoint(service: str, environ: Mapping[str, str]) -> str | None:
    """Return the endpoint that environment variables set for this AWS service or for all services.

    A return value of None selects AWS's default endpoint.

    References:
        https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
    """
    if _is_true(environ, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        return None
    endpoint = environ.get(f"AWS_ENDPOINT_URL_{service.upper()}")
    return endpoint or environ.get("AWS_ENDPOINT_URL") or None


def find_endpoint(service: str, region: str, environ: Mapping[str, str]) -> str:
    """Return the endpoint that boto3 would use for a service with these environment variables."""
    if (endpoint := configured_endpoint(service, environ)) is not None:
        return endpoint
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    # in AWS GovCloud, the normal endpoint of SSM already complies with FIPS
    is_always_fips = service == "ssm" and region.startswith("us-gov-")
    is_fips = _is_true(environ, "AWS_USE_FIPS_ENDPOINT") and not is_always_fips
    return f"https://{service}{'-fips' if is_fips else ''}.{region}.{domain}"


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() == "true"


def call(
    service: str,
    path: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    region: str,
    address: str,
    read_seconds: float,
    attempts: int = 1,
) -> bytes:
    """Send a signed POST request to an AWS service, and return the body of the response.

    Raises:
        AwsError: The service responded with an error.
        httpx.TransportError: The service did not respond.
        NoCredentialsError: No credentials were found.
    """
    url = address + path

    def post() -> bytes:
        signed = _sign(url, body, headers=headers, service=service, region=region)
        timeout = httpx.Timeout(read_seconds, connect=1.0)
        response = _connections().post(url, content=body, headers=signed, timeout=timeout)
        if not response.is_success:
            raise AwsError(service, response.status_code, response.text)
        return response.content

    retryer = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_transient),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_random(0, 1),
        reraise=True,
    )
    return retryer(post)


def _is_transient(error: BaseException) -> bool:
    return getattr(error, "is_transient", isinstance(error, httpx.TransportError))


def _sign(
    url: str, body: bytes, *, headers: Mapping[str, str], service: str, region: str
) -> dict[str, str]:
    """Return the headers of a POST request, including its signature."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest("POST", url, headers=headers, data=body)
    SigV4Auth(_credentials(), service, region).add_auth(request)
    return dict(request.headers)


def invoke(settings: Settings, event: Mapping[str, str | None], *, read_seconds: float) -> None:
    """Invoke the worker's Lambda function without waiting for its result."""
    function = quote(settings.worker_function_name or "", safe="")
    environ = {**settings.environ, "AWS_ENDPOINT_URL": settings.aws_endpoint_url or ""}
    call(
        "lambda",
        f"/2015-03-31/functions/{function}/invocations",
        json.dumps(event).encode(),
        headers={"x-amz-invocation-type": "Event"},
        region=settings.aws_region,
        address=find_endpoint("lambda", settings.aws_region, environ),
        read_seconds=read_seconds,
    )
