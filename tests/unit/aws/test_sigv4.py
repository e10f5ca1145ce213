"""Signed calls to AWS without boto3, with boto3's retries and endpoints."""

from pathlib import Path
from typing import Any

import pytest
import tenacity

from minutehand.aws.sigv4 import AwsError, call, find_endpoint
from tests.unit.aws.conftest import Service

TARGET = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AmazonSSM.GetParameter"}


def ask(service: Service, attempts: int = 1) -> bytes:
    """Call the local service as SSM is called."""
    return call(
        "ssm",
        "/",
        b"{}",
        headers=TARGET,
        region="eu-central-1",
        address=service.url,
        read_seconds=60,
        attempts=attempts,
    )


@pytest.mark.parametrize(
    ("answers", "left", "result"),
    [
        ([(400, b'{"__type":"ThrottlingException"}'), (200, b"{}")], 0, None),
        ([(503, b""), (200, b"{}")], 0, None),
        ([(500, b"first"), (500, b"second"), (200, b"{}")], 1, "ssm responded 500: second"),
        ([(400, b'{"__type":"ParameterNotFound"}'), (200, b"{}")], 1, "400.*ParameterNotFound"),
    ],
)
def test_what_may_pass_is_asked_again_once(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[tuple[int, bytes]],
    left: int,
    result: str | None,
) -> None:
    """A call that AWS throttles or fails temporarily is repeated once. Other errors are not."""
    monkeypatch.setattr("tenacity.wait_random", lambda *_: tenacity.wait_none())
    service.left = answers
    if result is None:
        assert ask(service, attempts=2) == b"{}"
    else:
        with pytest.raises(AwsError, match=result):
            ask(service, attempts=2)
    assert len(service.left) == left


def test_without_credentials_of_the_environment_those_of_boto3_sign(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without AWS keys in the environment, the credentials that boto3 finds sign a call."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    profile = tmp_path / "credentials"
    profile.write_text("[default]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    service.left = [(200, b"{}")]

    ask(service)

    [(_, headers, _)] = service.asked
    assert "Credential=AKIDPROFILE/" in headers["authorization"]


def test_a_function_s_session_token_is_sent_and_signed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call with a session token sends and signs the token, which AWS requires of a role."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-role")
    service.left = [(200, b"{}")]

    ask(service)

    [(_, headers, _)] = service.asked
    assert headers["x-amz-security-token"] == "of-the-role"
    assert "x-amz-security-token" in headers["authorization"]  # the token's header is signed


OWN, OTHER = "http://127.0.0.1:1", "http://127.0.0.1:2"
FIPS = {"AWS_USE_FIPS_ENDPOINT": "True"}


@pytest.mark.parametrize("service", ["ssm", "lambda"])
@pytest.mark.parametrize("region", ["eu-central-1", "us-gov-west-1", "cn-north-1"])
@pytest.mark.parametrize(
    "environ",
    [
        {},
        FIPS,
        {"AWS_ENDPOINT_URL": OTHER, **FIPS},
        {"AWS_ENDPOINT_URL_SSM": OWN, "AWS_ENDPOINT_URL_LAMBDA": OWN, "AWS_ENDPOINT_URL": OTHER},
        {"AWS_ENDPOINT_URL": OTHER, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", **FIPS},
    ],
)
def test_an_address_is_where_boto3_asks(
    monkeypatch: pytest.MonkeyPatch, service: str, region: str, environ: dict[str, str]
) -> None:
    """A call goes to the endpoint that boto3 would use in each region and environment."""
    import boto3  # slow, and needed here alone

    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    made: Any = boto3.client(service, region_name=region)  # type: ignore[call-overload]
    assert find_endpoint(service, region, environ) == made.meta.endpoint_url
