"""Secrets from the AWS parameter store (SSM) are read once and read again after five minutes."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from minutehand.aws.clients import client
from minutehand.aws.rotation import RotatingHandler
from minutehand.aws.secrets import read_secrets
from minutehand.config import ConfigurationError, Settings


def put(settings: Settings, name: str, value: str) -> None:
    client(settings, "ssm").put_parameter(
        Name=name, Value=value, Type="SecureString", Overwrite=True
    )


def function_environment(settings: Settings, parameter: str) -> dict[str, str]:
    """Return the environment of a Lambda function, with the name of its secrets' parameter."""
    return {
        "SECRETS_PARAMETER": parameter,
        "AWS_ENDPOINT_URL": settings.aws_endpoint_url or "",
        "AWS_REGION": settings.aws_region,
    }


class Built:
    """A handler that returns the token that it was built with."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.token = environ["TOKEN"]
        self.closed = False
        BUILT.append(self)

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        return {"token": self.token}

    def close(self) -> None:
        self.closed = True


BUILT: list[Built] = []


class Rotation:
    """A handler whose secrets come from one parameter, and a clock that the test sets."""

    def __init__(self, settings: Settings, parameter: str, **variables: str) -> None:
        self.now = 0.0
        BUILT.clear()
        environ = function_environment(settings, parameter) | variables
        self.handler = RotatingHandler(environ, Built, wall_clock=lambda: self.now)

    def token_after(self, seconds: float) -> str:
        self.now += seconds
        token: str = self.handler({}, None)["token"]
        return token


def test_a_variable_of_the_function_has_precedence_over_a_secret(settings: Settings) -> None:
    put(settings, "/minutehand/test/d", json.dumps({"TOKEN": "one"}))

    assert Rotation(settings, "/minutehand/test/d", TOKEN="own").token_after(0) == "own"


def test_a_rotated_secret_is_taken_up_within_minutes(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A changed secret is used after five minutes without a deploy.

    Requests before that do not call SSM.
    """
    put(settings, "/minutehand/test/a", json.dumps({"TOKEN": "one"}))
    rotation = Rotation(settings, "/minutehand/test/a")

    put(settings, "/minutehand/test/a", json.dumps({"TOKEN": "two"}))

    assert rotation.token_after(0) == "one"
    assert rotation.token_after(299) == "one"
    assert rotation.token_after(1) == "one"
    with caplog.at_level(logging.INFO):
        assert rotation.token_after(1) == "two"
    events = [r.__dict__["event"] for r in caplog.records if r.name == "minutehand.aws.rotation"]
    assert events == ["secrets.rotated"]
    assert [built.closed for built in BUILT] == [True, False]
    put(settings, "/minutehand/test/a", json.dumps({"TOKEN": "three"}))
    assert rotation.token_after(299) == "two"
    assert rotation.token_after(2) == "three"
    assert rotation.token_after(400) == "three"
    assert len(BUILT) == 3
    rotation.handler.close()
    assert BUILT[-1].closed


def test_a_cold_start_reads_its_secrets_without_boto3(settings: Settings) -> None:
    """A cold start reads its secrets without boto3, whose import would take too long."""
    put(settings, "/minutehand/test/b", json.dumps({"TOKEN": "one"}))
    code = (
        "import os, sys; from minutehand.aws.secrets import read_secrets;"
        "print(read_secrets(os.environ)['TOKEN'], 'boto3' in sys.modules)"
    )

    environ = {**os.environ, **function_environment(settings, "/minutehand/test/b")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["one", "False"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("not json", "must be JSON"),
        ("[]", "must be an object of strings"),
        ('{"a": 1, "b": "x"}', "must be an object of strings"),
    ],
)
def test_a_parameter_of_another_shape_is_rejected(
    settings: Settings, value: str, problem: str
) -> None:
    """A parameter that is no JSON object of strings is rejected.

    The error names the parameter and does not contain its value.
    """
    put(settings, "/minutehand/test/c", value)

    with pytest.raises(ConfigurationError, match=problem) as error:
        read_secrets(function_environment(settings, "/minutehand/test/c"))
    assert "/minutehand/test/c" in str(error.value)
    assert '{"NAME":"value"}' in str(error.value)
    assert value not in str(error.value)
