"""Calls of AWS that are signed here: what every cold start asks must not pay for boto3.

boto3 costs 220 ms of CPU before its first call, and this one; a test compares the signatures. The
credentials are those that Lambda puts into the environment. What is asked later, by those who need
it, is asked by `minutehand.aws.clients`.

References:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from urllib.parse import quote, urlsplit

import httpx
import tenacity

from minutehand.config import JobServiceError, Settings
from minutehand.queue.foreign import trusted


class AwsRefused(JobServiceError):
    """AWS answered with an error."""

    def __init__(self, service: str, status: int, text: str) -> None:
        self.passes = status >= 500 or "Throttl" in text
        super().__init__(f"{service} answered {status}: {text[:300]}")


@cache
def _connections() -> httpx.Client:
    return httpx.Client(verify=trusted())


def call(
    service: str,
    path: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    region: str,
    endpoint: str | None,
    read_seconds: float,
    attempts: int = 1,
) -> bytes:
    """Post to a service, and return what it answers.

    Raises:
        AwsRefused: It refused.
        httpx.TransportError: It did not answer.
    """
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = (endpoint or f"https://{service}.{region}.{domain}") + path

    def once() -> bytes:
        now = datetime.now(UTC)
        signed = sign(
            url, body, os.environ, headers=headers, service=service, region=region, at=now
        )
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


def sign(
    url: str,
    body: bytes,
    credentials: Mapping[str, str],
    *,
    headers: Mapping[str, str],
    service: str,
    region: str,
    at: datetime,
) -> dict[str, str]:
    """The headers of a post to `url`, with its signature, version 4.

    Args:
        credentials: Variables, as Lambda's environment has them.
        headers: Their names are in lower case.
    """
    parts, stamp = urlsplit(url), at.strftime("%Y%m%dT%H%M%SZ")
    said = {**headers, "host": parts.netloc, "x-amz-date": stamp}
    if token := credentials.get("AWS_SESSION_TOKEN"):
        said["x-amz-security-token"] = token
    names = sorted(said)
    lines = [f"{name}:{said[name]}" for name in names]
    # a path is quoted once more than it is sent
    asked = ["POST", quote(parts.path, safe="/~"), "", *lines, "", ";".join(names)]
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    hashed = sha256("\n".join([*asked, sha256(body).hexdigest()]).encode()).hexdigest()
    key = f"AWS4{credentials['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"):
        key = hmac.digest(key, part.encode(), "sha256")
    proof = {
        "Credential": f"{credentials['AWS_ACCESS_KEY_ID']}/{scope}",
        "SignedHeaders": ";".join(names),
        "Signature": key.hex(),
    }
    proved = ", ".join(f"{name}={value}" for name, value in proof.items())
    return {**said, "authorization": f"AWS4-HMAC-SHA256 {proved}"}


def invoke(settings: Settings, event: Mapping[str, str | None], *, read_seconds: float) -> None:
    """Invoke the worker's function, and do not wait for its end."""
    function = quote(settings.worker_function_name or "", safe="")
    call(
        "lambda",
        f"/2015-03-31/functions/{function}/invocations",
        json.dumps(event).encode(),
        headers={"x-amz-invocation-type": "Event"},
        region=settings.aws_region,
        endpoint=settings.aws_endpoint_url,
        read_seconds=read_seconds,
    )
