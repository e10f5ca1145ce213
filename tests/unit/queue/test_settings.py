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


TEXTS = (
    "SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET", "SUPABASE_WORKER_KEY", "WORKER_FUNCTION_NAME",
    "AWS_REGION", "KMS_KEY_ID", "SEALING_KEY_FILE", "UPLOADS_BUCKET", "STAGE", "LANGUAGE_MODEL_KEY",
    "LANGUAGE_MODEL", "SPEECH_KEY", "SPEECH_MODEL", "WORKER_LOCATION",
)  # fmt: skip
COUNTS = {
    "STREAM_WAIT_SECONDS": (0, 20), "CALLER_REQUESTS_PER_SECOND": (0, 100_000),
    "CALLER_REQUESTS_BURST": (1, 1_000_000), "CALLER_STREAMS": (0, 1_000_000),
    "WORKER_CONCURRENCY": (1, 1000), "EXTRA_WORKERS": (1, 1000), "WORKERS_AT_ONCE": (1, 10_000),
}  # fmt: skip


def test_two_variables_are_enough() -> None:
    """The rest is as documented, also where a variable is there and empty."""
    settings = Settings.from_env({**LEAST, **dict.fromkeys((*TEXTS, *COUNTS), " ")})

    plain = Settings(
        supabase_url="http://127.0.0.1:54321", supabase_publishable_key="sb_publishable_x"
    )
    assert settings.model_copy(update={"environ": {}}) == plain
    assert (plain.worker_concurrency, plain.extra_workers, plain.workers_at_once) == (5, 10, None)
    assert (plain.caller_requests_per_second, plain.caller_requests_burst) == (100, 300)
    assert (plain.caller_streams, plain.stream_wait_seconds) == (100, 20)
    assert (plain.allow_anonymous, plain.streaming) == (False, False)
    assert (plain.aws_region, plain.stage, plain.log_level) == ("us-east-1", "local", "INFO")


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        *((name, " x ", name.lower(), "x") for name in TEXTS),
        *((name, str(end), name.lower(), end) for name, ends in COUNTS.items() for end in ends),
        ("SUPABASE_JWKS", '{"keys": []}', "supabase_jwks", {"keys": []}),
        ("BACKGROUND_JOB_TOKEN", "a,b", "background_job_tokens", ("a", "b")),
        ("AWS_ENDPOINT_URL", "http://a", "aws_endpoint_url", "http://a"),
        ("CORS_ORIGINS", "https://a, https://b,", "cors_origins", ("https://a", "https://b")),
        ("ALLOW_ANONYMOUS", "Yes", "allow_anonymous", True),
        ("STREAMING", "1", "streaming", True),
        ("STREAMING", "off", "streaming", False),
        ("LOG_LEVEL", "warn", "log_level", "WARNING"),
        ("LANGUAGE_MODEL_URL", "https://a/v1", "language_model_url", "https://a/v1"),
        ("LANGUAGE_MODEL_PRICES", "0, 0.6", "language_model_prices", (0, 0.6)),
        ("SPEECH_URL", "https://a/v1", "speech_url", "https://a/v1"),
        ("MINUTEHAND_VERSION", "7", "version", "7"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "8", "version", "8"),
        ("MINUTEHAND_COMMIT", "0a1b", "commit", "0a1b"),
        ("MINUTEHAND_SOURCE", "https://a/b", "source", "https://a/b"),
        ("MINUTEHAND_APPS", "jobs,billing.jobs", "apps", ("jobs", "billing.jobs")),
        ("MINUTEHAND_SCHEMA", "_" * 63, "schema_name", "_" * 63),
    ],
)
def test_each_variable_has_its_setting(name: str, value: str, field: str, read: object) -> None:
    settings = Settings.from_env({**LEAST, name: value})

    assert getattr(settings, field) == read
    assert settings.environ[name] == value
    assert settings.with_environ(OF_AN_APP="x").environ == {**settings.environ, "OF_AN_APP": "x"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUPABASE_URL", ""),
        ("SUPABASE_URL", "project.supabase.co"),
        ("SUPABASE_PUBLISHABLE_KEY", " "),
        ("SUPABASE_URL", "ftp://project.supabase.co"),
        ("SUPABASE_URL", "https:project"),
        *((name, str(most + 1)) for name, (_, most) in COUNTS.items()),
        *((name, str(least - 1)) for name, (least, _) in COUNTS.items()),
        ("WORKER_CONCURRENCY", "many"),
        ("WORKER_CONCURRENCY", "²"),
        ("STREAMING", "maybe"),
        ("LOG_LEVEL", "LOUD"),
        ("SUPABASE_JWKS", "{"),
        ("SUPABASE_JWKS", "[]"),
        ("SUPABASE_JWKS", '{"keys": {}}'),
        ("LANGUAGE_MODEL_PRICES", "1"),
        ("LANGUAGE_MODEL_PRICES", "1,-1"),
        ("LANGUAGE_MODEL_PRICES", "1e6,1"),
        ("LANGUAGE_MODEL_PRICES", "1,nan"),
        ("MINUTEHAND_SCHEMA", "_" * 64),
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
    secret = [name for name in TEXTS if name.endswith(("_KEY", "_SECRET"))]
    secret += ["WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"]

    assert "hush" not in repr(Settings.from_env({**LEAST, **dict.fromkeys(secret, "hush")}))


def test_a_needed_variable_is_asked_for_by_name() -> None:
    for name in ("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN", "KMS_KEY_ID"):
        with pytest.raises(ConfigurationError, match=f"{name} is not set"):
            Settings.from_env(LEAST).require(name)
        Settings.from_env({**LEAST, name: "x"}).require(name)


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
