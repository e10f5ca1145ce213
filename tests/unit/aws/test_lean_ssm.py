"""SSM without boto3: the same signature as botocore's, the same answers as the service's."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import ClassVar

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from minutehand.aws.lean_ssm import SsmRefused, can_sign, get_parameter, signed_headers
from minutehand.aws.secrets import read_secrets
from minutehand.config import ConfigurationError
from tests.support.fake_aws import fake_aws

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG"}


@pytest.fixture(scope="module")
def moto() -> Iterator[dict[str, str]]:
    """An environment as Lambda gives it, with moto for AWS and one parameter."""
    with fake_aws("ssm") as endpoint:
        ssm = boto3.client(
            "ssm", region_name="eu-central-1", endpoint_url=endpoint,
            aws_access_key_id="x", aws_secret_access_key="y",
        )  # fmt: skip
        value = json.dumps({"WORKER_SECRET_TOKEN": "from-ssm", "OTHER": "ü"})
        ssm.put_parameter(Name="/minutehand/test/worker", Value=value, Type="SecureString")
        ssm.close()
        yield {**KEYS, "AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": endpoint}


@pytest.mark.parametrize("token", [None, "a-session-token"])
def test_the_signature_is_botocores(token: str | None) -> None:
    """AWS recomputes it; one byte off and every cold start fails."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    body = b'{"Name": "/minutehand/prod/worker", "WithDecryption": true}'
    endpoint = "https://ssm.eu-central-1.amazonaws.com"
    environ = {**KEYS, **({"AWS_SESSION_TOKEN": token} if token else {})}

    ours = signed_headers(endpoint, body, "eu-central-1", environ, at=at)

    request = AWSRequest(
        "POST",
        f"{endpoint}/",
        data=body,
        headers={"content-type": ours["content-type"], "x-amz-target": ours["x-amz-target"]},
    )
    credentials = Credentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"], token)
    signer = SigV4Auth(credentials, "ssm", "eu-central-1")
    request.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    request.headers["host"] = "ssm.eu-central-1.amazonaws.com"
    if token:
        request.headers["X-Amz-Security-Token"] = token
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    assert ours["authorization"].endswith(f"Signature={signature}")
    assert (
        f"SignedHeaders={signer.signed_headers(signer.headers_to_sign(request))},"
        in (ours["authorization"])
    )


def test_a_parameter_is_read_and_decrypted(moto: dict[str, str]) -> None:
    """As boto3 would read it."""
    assert json.loads(get_parameter("/minutehand/test/worker", moto))["OTHER"] == "ü"


def test_a_functions_secrets_are_read_by_its_own_credentials(moto: dict[str, str]) -> None:
    """Lambda puts those into the environment."""
    secrets = read_secrets({**moto, "SECRETS_PARAMETER": "/minutehand/test/worker"})

    assert secrets == {"WORKER_SECRET_TOKEN": "from-ssm", "OTHER": "ü"}


def test_a_missing_parameter_is_named(moto: dict[str, str]) -> None:
    """The commonest fault of a first deploy."""
    with pytest.raises(SsmRefused, match="/minutehand/test/nobody: ParameterNotFound") as caught:
        get_parameter("/minutehand/test/nobody", moto)

    assert caught.value.code == "ParameterNotFound"


class Flaky(BaseHTTPRequestHandler):
    """Answers as told, one answer per request, and counts."""

    answers: ClassVar[list[tuple[int, bytes]]] = []
    asked: ClassVar[int] = 0

    def do_POST(self) -> None:
        Flaky.asked += 1
        status, body = Flaky.answers.pop(0)
        self.rfile.read(int(self.headers["content-length"]))
        if not status:  # what a proxy says that is being stopped
            self.wfile.write(b"bye\r\n")
            return
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def flaky() -> Iterator[dict[str, str]]:
    server = HTTPServer(("127.0.0.1", 0), Flaky)
    Flaky.asked = 0
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield {
        **KEYS,
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("failures", [(429, 500), (502, 503), (504, 0)])
def test_a_throttle_or_a_fault_is_tried_again_later(
    failures: tuple[int, int], flaky: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many environments start at once after a deploy."""
    pauses: list[float] = []
    monkeypatch.setattr("minutehand.aws.lean_ssm.time.sleep", pauses.append)
    refused = [(status, b"<html>") for status in failures]
    Flaky.answers = [*refused, (200, b'{"Parameter": {"Value": "{}"}}')]

    assert get_parameter("/p", flaky) == "{}"
    assert (Flaky.asked, pauses) == (3, [0.2, 0.4])
    Flaky.answers = [(status, b"") for status in (*failures, failures[0])]
    with pytest.raises(SsmRefused, match=str(failures[0])):
        get_parameter("/p", flaky)


def test_a_refusal_is_final(flaky: dict[str, str]) -> None:
    """Asking again does not grant a right."""
    Flaky.answers = [(400, b'{"__type": "AccessDeniedException", "message": "no"}')]

    with pytest.raises(SsmRefused, match="AccessDeniedException") as refused:
        get_parameter("/p", flaky)
    assert (Flaky.asked, refused.value.status) == (1, 400)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"__type": "com.aws#AccessDenied", "message": "no"}', "AccessDenied (no)"),
        (b'{"__type": "AccessDenied", "Message": "not"}', "AccessDenied (not)"),
        (b'{"__type": "AccessDenied"}', "AccessDenied (400)"),
        (b"{}", "unknown (400)"),
        (b"<html>", "unknown (400)"),
    ],
)
def test_a_refusal_has_ssms_words(body: bytes, said: str, flaky: dict[str, str]) -> None:
    """As far as it has any; a proxy's page has none."""
    Flaky.answers = [(400, body)]

    with pytest.raises(SsmRefused) as refused:
        get_parameter("/p", flaky)

    assert str(refused.value) == f"SSM refused /p: {said}"


def test_an_address_that_does_not_answer_is_tried_three_times(
    flaky: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then the start fails by the network's own error."""
    pauses: list[float] = []
    monkeypatch.setattr("minutehand.aws.lean_ssm.time.sleep", pauses.append)
    Flaky.answers = [(0, b"")] * 3

    with pytest.raises(http.client.HTTPException):
        get_parameter("/p", flaky)
    assert (Flaky.asked, pauses) == (3, [0.2, 0.4])


class Recorded:
    """A connection that remembers where it was to lead, and answers."""

    made: ClassVar[list[tuple[str, float, ssl.VerifyMode]]] = []
    status = 200

    def __init__(self, host: str, *, timeout: float, context: ssl.SSLContext) -> None:
        self.made.append((host, timeout, context.verify_mode))

    def request(self, *asked: str, body: bytes, headers: dict[str, str]) -> None:
        assert asked == ("POST", "/")
        assert json.loads(body) == {"Name": "/p", "WithDecryption": True}
        assert headers["host"] == "ssm.eu-west-1.amazonaws.com"
        assert headers["x-amz-target"] == "AmazonSSM.GetParameter"
        assert headers["content-type"] == "application/x-amz-json-1.1"

    def getresponse(self) -> Recorded:
        return self

    def read(self) -> bytes:
        return b'{"Parameter": {"Value": "v"}}'

    def close(self) -> None:
        self.made.append(("closed", 0, ssl.CERT_NONE))


def test_without_an_address_it_is_the_regions_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose certificate is verified; a region must be set."""
    monkeypatch.setattr(http.client, "HTTPSConnection", Recorded)
    Recorded.made.clear()

    assert get_parameter("/p", {**KEYS, "AWS_REGION": "eu-west-1"}) == "v"

    assert Recorded.made == [
        ("ssm.eu-west-1.amazonaws.com", 3.0, ssl.CERT_REQUIRED),
        ("closed", 0, ssl.CERT_NONE),
    ]
    with pytest.raises(ConfigurationError, match=r"AWS_REGION is not set.*eu-central-1"):
        get_parameter("/p", KEYS)


def test_without_credentials_in_the_environment_boto3_finds_them() -> None:
    """A developer's profile is boto3's business."""
    assert can_sign(KEYS)
    assert not can_sign({"AWS_PROFILE": "me"})
    for name in KEYS:
        assert not can_sign({**KEYS, name: ""})


def test_reading_secrets_does_not_import_boto3(moto: dict[str, str]) -> None:
    """200 ms of every cold start."""
    code = (
        "import json, os, sys; from minutehand.aws.secrets import read_secrets;"
        "assert read_secrets(os.environ)['WORKER_SECRET_TOKEN'] == 'from-ssm';"
        "print(json.dumps([name for name in sys.modules if name.startswith('boto')]))"
    )
    environ = {**moto, "SECRETS_PARAMETER": "/minutehand/test/worker"}

    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
