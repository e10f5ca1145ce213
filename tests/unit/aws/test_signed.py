"""Calls of AWS without boto3: signed as it signs them, repeated as it repeats them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from minutehand.aws.signed import AwsRefused, call, sign

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG"}
TARGET = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AmazonSSM.GetParameter"}


@pytest.mark.parametrize(
    ("service", "url", "headers", "token"),
    [
        ("ssm", "https://ssm.eu-central-1.amazonaws.com/", TARGET, None),
        ("ssm", "http://127.0.0.1:5000/", TARGET, "a/session+token=="),
        (
            "lambda",
            "https://lambda.eu-central-1.amazonaws.com/2015-03-31/functions/a%3Ab~c_d/invocations",
            {"x-amz-invocation-type": "Event"},
            "token",
        ),
    ],
)
def test_a_signature_is_botocores(
    service: str, url: str, headers: dict[str, str], token: str | None
) -> None:
    """Of an address with a port, a quoted path, and Lambda's session token."""
    body = b'{"Name": "/minutehand/prod/worker"}'
    asked = AWSRequest("POST", url, headers=headers, data=body)
    keys = Credentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"], token)
    SigV4Auth(keys, service, "eu-central-1").add_auth(asked)
    at = datetime.strptime(asked.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    environ = KEYS if token is None else {**KEYS, "AWS_SESSION_TOKEN": token}
    signed = sign(
        url, body, environ, headers=headers, service=service, region="eu-central-1", at=at
    )

    assert signed["authorization"] == asked.headers["Authorization"]
    assert signed.get("x-amz-security-token") == token


class Answers(HTTPServer):
    """A service that gives these answers, one after another."""

    def __init__(self) -> None:
        self.left: list[tuple[int, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Asked)
        Thread(target=self.serve_forever, daemon=True).start()


class _Asked(BaseHTTPRequestHandler):
    server: Answers

    def do_POST(self) -> None:
        status, body = self.server.left.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[Answers]:
    with Answers() as made:
        yield made
        made.shutdown()


@pytest.mark.parametrize(
    ("answers", "left", "said"),
    [
        ([(400, b'{"__type":"ThrottlingException"}'), (200, b"{}")], 0, None),
        ([(503, b""), (200, b"{}")], 0, None),
        ([(500, b"first"), (500, b"second"), (200, b"{}")], 1, "ssm answered 500: second"),
        ([(400, b'{"__type":"ParameterNotFound"}'), (200, b"{}")], 1, "400.*ParameterNotFound"),
    ],
)
def test_what_may_pass_is_asked_again_once(
    aws: str, service: Answers, answers: list[tuple[int, bytes]], left: int, said: str | None
) -> None:
    """Many functions start at once, and SSM bounds how often it is asked."""
    service.left = answers

    def ask() -> bytes:
        return call(
            "ssm",
            "/",
            b"{}",
            headers=TARGET,
            region="eu-central-1",
            endpoint=f"http://127.0.0.1:{service.server_port}",
            read_seconds=60,
            attempts=2,
        )

    if said is None:
        assert ask() == b"{}"
    else:
        with pytest.raises(AwsRefused, match=said):
            ask()
    assert len(service.left) == left
