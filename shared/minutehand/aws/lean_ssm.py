"""One SSM parameter without boto3, whose import and client cost 200 ms of every cold start.

Signature Version 4 with the standard library only; everything else AWS goes through boto3.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from minutehand.config import ConfigurationError, JobServiceError

TARGET = "AmazonSSM.GetParameter"
CONTENT_TYPE = "application/x-amz-json-1.1"
TRIES = 3
CONNECT_SECONDS = 3.0
#: Worth another try: throttled, or a fault on AWS's side.
_AGAIN = frozenset({429, 500, 502, 503, 504})


class SsmRefused(JobServiceError):
    """SSM said no; `code` is its word, such as AccessDeniedException or ParameterNotFound."""

    def __init__(self, parameter: str, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(f"SSM refused {parameter}: {code} ({message or status})")


def can_sign(environ: Mapping[str, str]) -> bool:
    """Whether the environment holds credentials, as it does on Lambda."""
    return bool(environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"))


def get_parameter(parameter: str, environ: Mapping[str, str]) -> str:
    """The decrypted value of `parameter`.

    Args:
        parameter: Its name, such as `/minutehand/prod/worker`.
        environ: Region, credentials and, on the local stack, AWS_ENDPOINT_URL.

    Raises:
        SsmRefused: The answer was an error; missing rights and a missing parameter included.
        ConfigurationError: AWS_REGION is not set.
    """
    region = environ.get("AWS_REGION", "")
    if not region:
        raise ConfigurationError("AWS_REGION", "is not set", "eu-central-1")
    endpoint = environ.get("AWS_ENDPOINT_URL") or f"https://ssm.{region}.amazonaws.com"
    body = json.dumps({"Name": parameter, "WithDecryption": True}).encode()
    for attempt in range(1, TRIES + 1):
        headers = signed_headers(endpoint, body, region, environ, at=datetime.now(UTC))
        try:
            status, answer = _post(endpoint, body, headers)
        except (OSError, http.client.HTTPException):
            if attempt == TRIES:
                raise
        else:
            if status == 200:
                return str(json.loads(answer)["Parameter"]["Value"])
            if status not in _AGAIN or attempt == TRIES:
                raise _refusal(parameter, status, answer)
        time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable: the last try returns or raises")


def signed_headers(
    endpoint: str, body: bytes, region: str, environ: Mapping[str, str], *, at: datetime
) -> dict[str, str]:
    """The request's headers with their signature.

    References:
        https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
    """
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/ssm/aws4_request"
    headers = {
        "content-type": CONTENT_TYPE,
        "host": urlsplit(endpoint).netloc,
        "x-amz-date": stamp,
        "x-amz-target": TARGET,
    }
    if token := environ.get("AWS_SESSION_TOKEN"):
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        [
            "POST",
            "/",
            "",
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{environ['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    credential = f"{environ['AWS_ACCESS_KEY_ID']}/{scope}"
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _post(endpoint: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    parts = urlsplit(endpoint)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.netloc, timeout=CONNECT_SECONDS, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=CONNECT_SECONDS)
    try:
        connection.request("POST", "/", body=body, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _refusal(parameter: str, status: int, answer: bytes) -> SsmRefused:
    try:
        told = json.loads(answer)
    except ValueError:
        told = {}
    code = str(told.get("__type", "unknown")).rpartition("#")[2]
    return SsmRefused(
        parameter, status, code, str(told.get("message") or told.get("Message") or "")
    )
