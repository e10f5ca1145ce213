"""The environment: read once, wrong values named."""

from __future__ import annotations

import io
import json
import logging

import pytest

from minutehand.clock import FrozenClock
from minutehand.config import ConfigurationError, Settings
from minutehand.log import JsonFormatter, request_context

LEAST = {"SUPABASE_URL": "http://127.0.0.1:54321/", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x"}


def test_two_variables_are_enough() -> None:
    settings = Settings.from_env(LEAST)

    assert settings.supabase_url == "http://127.0.0.1:54321"
    assert (settings.worker_concurrency, settings.allow_anonymous) == (5, False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUPABASE_URL", ""),
        ("SUPABASE_URL", "project.supabase.co"),
        ("SUPABASE_PUBLISHABLE_KEY", " "),
        ("WORKER_CONCURRENCY", "many"),
        ("WORKER_CONCURRENCY", "0"),
        ("WORKER_CONCURRENCY", "-1"),
        ("WORKER_CONCURRENCY", "²"),
        ("STREAMING", "maybe"),
        ("LOG_LEVEL", "LOUD"),
        ("SUPABASE_JWKS", "{"),
        ("SUPABASE_JWKS", "[]"),
        ("WORKER_SECRET_TOKEN", "a,b,c"),
    ],
)
def test_a_wrong_variable_is_named_with_an_example(name: str, value: str) -> None:
    """The person who deploys sees only this message."""
    with pytest.raises(ConfigurationError, match=f"^{name} ") as caught:
        Settings.from_env({**LEAST, name: value})

    assert caught.value.variable == name
    assert f"Example: {name}=" in str(caught.value)


def test_two_tokens_are_valid_during_a_rotation() -> None:
    settings = Settings.from_env({**LEAST, "WORKER_SECRET_TOKEN": " new , old "})

    assert settings.worker_secret_tokens == ("new", "old")


def test_secrets_stay_out_of_its_text() -> None:
    settings = Settings.from_env(
        {**LEAST, "SUPABASE_SECRET_KEY": "hush", "WORKER_SECRET_TOKEN": "hush"}
    )

    assert "hush" not in repr(settings)


def test_a_needed_variable_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigurationError, match="WORKER_SECRET_TOKEN is not set"):
        Settings.from_env(LEAST).require("WORKER_SECRET_TOKEN")


def lines_of(request: pytest.FixtureRequest) -> tuple[io.StringIO, logging.Logger]:
    """A logger of this test alone that writes our lines into a buffer."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(request.node.name)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return stream, logger


def test_a_log_line_is_one_json_object_with_its_request(request: pytest.FixtureRequest) -> None:
    stream, logger = lines_of(request)

    with request_context("r-1"):
        logger.info("job %s leased", "j\n1", extra={"job_id": "j-1", "odd": object})

    [line] = stream.getvalue().splitlines()
    parsed = json.loads(line)
    assert (parsed["message"], parsed["request_id"], parsed["job_id"]) == (
        "job j\n1 leased",
        "r-1",
        "j-1",
    )
    assert parsed["timestamp"].endswith("Z")


def test_a_traceback_is_part_of_the_line(request: pytest.FixtureRequest) -> None:
    stream, logger = lines_of(request)

    try:
        raise LookupError("gone")
    except LookupError:
        logger.exception("it failed")

    parsed = json.loads(stream.getvalue())
    assert "LookupError: gone" in parsed["exception"]
    assert "request_id" not in parsed


def test_a_frozen_clock_moves_only_on_request() -> None:
    clock = FrozenClock()
    before = clock.now(), clock.monotonic()

    clock.advance(seconds=1.5)

    assert (clock.now() - before[0]).total_seconds() == clock.monotonic() - before[1] == 1.5
    with pytest.raises(ValueError, match="-1"):
        clock.advance(seconds=-1)
