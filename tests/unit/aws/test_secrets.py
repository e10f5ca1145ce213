"""Secrets from SSM: read once, refreshed in time, and errors that name the parameter."""

from __future__ import annotations

import json

import pytest

from shared.aws.clients import client
from shared.aws.secrets import Secrets, fill_environment, read_parameter
from shared.clock import FrozenClock
from shared.config import ConfigurationError, Settings


def put(settings: Settings, name: str, value: str) -> None:
    client(settings, "ssm").put_parameter(
        Name=name, Value=value, Type="SecureString", Overwrite=True
    )


async def test_a_rotated_secret_is_seen_within_minutes_or_when_asked_for(
    settings: Settings,
) -> None:
    """No deploy for a rotation, and no call to SSM for each request."""
    clock = FrozenClock()
    secrets = Secrets(settings, "/minutehand/test/a", clock=clock)
    put(settings, "/minutehand/test/a", json.dumps({"TOKEN": "one"}))
    assert await secrets.get("TOKEN") == "one"

    put(settings, "/minutehand/test/a", json.dumps({"TOKEN": "two"}))
    assert await secrets.get("TOKEN") == "one"
    clock.advance(seconds=301)
    assert await secrets.get("TOKEN") == "two"
    put(settings, "/minutehand/test/a", json.dumps({"TOKEN": "three"}))
    secrets.forget()
    assert await secrets.get("TOKEN") == "three"


async def test_a_missing_name_says_where_it_was_looked_for(settings: Settings) -> None:
    """The operator should not have to guess."""
    put(settings, "/minutehand/test/b", "{}")

    with pytest.raises(ConfigurationError, match="/minutehand/test/b"):
        await Secrets(settings, "/minutehand/test/b").get("TOKEN")


@pytest.mark.parametrize("value", ["not json", "[]", '{"a": 1}'])
def test_a_parameter_of_another_shape_is_refused(settings: Settings, value: str) -> None:
    """And its content is not repeated in the error."""
    put(settings, "/minutehand/test/c", value)

    with pytest.raises(ConfigurationError) as refused:
        read_parameter(client(settings, "ssm"), "/minutehand/test/c")
    assert value not in str(refused.value)


def test_the_environment_is_filled_and_never_overruled(settings: Settings) -> None:
    """A value set on the function wins, so that one can be tried out."""
    put(settings, "/minutehand/test/d", json.dumps({"A": "from ssm", "B": "from ssm"}))
    environ = {
        "SECRETS_PARAMETER": "/minutehand/test/d",
        "AWS_ENDPOINT_URL": settings.aws_endpoint_url or "",
        "AWS_REGION": settings.aws_region,
        "A": "from the function",
    }

    fill_environment(environ)

    assert (environ["A"], environ["B"]) == ("from the function", "from ssm")
    untouched = {"X": "1"}
    fill_environment(untouched)
    assert untouched == {"X": "1"}
