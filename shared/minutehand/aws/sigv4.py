"""What every cold start asks of AWS, signed by botocore but without a client of boto3.

A client costs 220 ms of CPU before its first call, since it reads the model of its service; the
signature alone is a fifth of that, and is imported by the first call that needs one. What is asked
later, by those who need it, is asked by `minutehand.aws.clients`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import tenacity

from minutehand.config import JobServiceError, Settings
from minutehand.queue.foreign import trusted


class AwsRefused(JobServiceError):
    """AWS answered with an error."""

    def __init__(self, service: str, status: int, text: str) -> None:
        self.passes = status >= 500 or "Throttl" in text
        super().__init__(f"{service} answered {status}: {text[:300]}")


class _Keys(NamedTuple):
    """What signs, with botocore's names."""

    access_key: str
    secret_key: str
    token: str | None


@cache
def _connections() -> httpx.Client:
    return httpx.Client(verify=trusted())


def _credentials() -> Any:
    """Those of the environment, where Lambda puts them, else of wherever boto3 finds some."""
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        return _found()
    return _Keys(
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        os.environ.get("AWS_SESSION_TOKEN"),
    )


@cache
def _found() -> Any:
    """Of a profile, a container or a function that was restored; they renew themselves."""
    import boto3
    from botocore.exceptions import NoCredentialsError

    found = boto3.Session().get_credentials()
    if found is None:
        raise NoCredentialsError
    return found


def configured(service: str, environ: Mapping[str, str]) -> str | None:
    """The address that `environ` names for a service, for it alone or for all; None for AWS's own.

    References:
        https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
    """
    if _is_true(environ, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        return None
    own = environ.get(f"AWS_ENDPOINT_URL_{service.upper()}")
    return own or environ.get("AWS_ENDPOINT_URL") or None


def address_of(service: str, region: str, environ: Mapping[str, str]) -> str:
    """Where a service is, as boto3 would find it by these variables."""
    if (named := configured(service, environ)) is not None:
        return named
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    # in GovCloud the one address of SSM is that of FIPS
    has_one = service == "ssm" and region.startswith("us-gov-")
    is_fips = _is_true(environ, "AWS_USE_FIPS_ENDPOINT") and not has_one
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
    """Post to a service at an address, and return what it answers.

    Raises:
        AwsRefused: It refused.
        httpx.TransportError: It did not answer.
        NoCredentialsError: There is nothing to sign with.
    """
    url = address + path

    def once() -> bytes:
        signed = _signed(url, body, headers=headers, service=service, region=region)
        timeout = httpx.Timeout(read_seconds, connect=1.0)
        answer = _connections().post(url, content=body, headers=signed, timeout=timeout)
        if not answer.is_success:
            raise AwsRefused(service, answer.status_code, answer.text)
        return answer.content

    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_passes),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_random(0, 1),
        reraise=True,
    )
    return again(once)


def _passes(error: BaseException) -> bool:
    return getattr(error, "passes", isinstance(error, httpx.TransportError))


def _signed(
    url: str, body: bytes, *, headers: Mapping[str, str], service: str, region: str
) -> dict[str, str]:
    """The headers of a post to `url`, with its signature."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    asked = AWSRequest("POST", url, headers=headers, data=body)
    SigV4Auth(_credentials(), service, region).add_auth(asked)
    return dict(asked.headers)


def invoke(settings: Settings, event: Mapping[str, str | None], *, read_seconds: float) -> None:
    """Invoke the worker's function, and do not wait for its end."""
    function = quote(settings.worker_function_name or "", safe="")
    environ = {**settings.environ, "AWS_ENDPOINT_URL": settings.aws_endpoint_url or ""}
    call(
        "lambda",
        f"/2015-03-31/functions/{function}/invocations",
        json.dumps(event).encode(),
        headers={"x-amz-invocation-type": "Event"},
        region=settings.aws_region,
        address=address_of("lambda", settings.aws_region, environ),
        read_seconds=read_seconds,
    )
