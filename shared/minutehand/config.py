"""Settings: every environment variable the service reads, parsed and checked once.

What only one app needs, its own `settings` module reads from `Settings.environ`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from minutehand.version import VERSION


class JobServiceError(Exception):
    """Root of every error this service raises on purpose; see shared/minutehand/queue/errors.py."""


class ConfigurationError(JobServiceError):
    """A setting is missing or unusable; `variable` names it and `example` shows a valid value."""

    def __init__(self, variable: str, problem: str, example: str) -> None:
        self.variable = variable
        self.problem = problem
        self.example = example
        super().__init__(f"{variable} {problem}. Example: {variable}={example}")


#: A valid example per variable, shown when that variable is missing or wrong.
EXAMPLES: Mapping[str, str] = {
    "SUPABASE_URL": "https://abcdefghijkl.supabase.co",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_xxxxxxxxxxxxxxxx",
    "SUPABASE_SECRET_KEY": "sb_secret_xxxxxxxxxxxxxxxx",
    "SUPABASE_JWT_SECRET": "a-secret-of-at-least-32-characters",
    "SUPABASE_JWKS": '{"keys":[]}',
    "SUPABASE_WORKER_KEY": "eyJhbGciOi…",
    "WORKER_SECRET_TOKEN": "new-token,old-token",
    "BACKGROUND_JOB_TOKEN": "new-token,old-token",
    "WORKER_FUNCTION_NAME": "minutehand-prod-worker",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:5000",
    "KMS_KEY_ID": "alias/minutehand-prod",
    "SEALING_KEY_FILE": ".local/sealing.json",
    "UPLOADS_BUCKET": "minutehand-prod-uploads",
    "CORS_ORIGINS": "https://app.example.com,https://admin.example.com",
    "ALLOW_ANONYMOUS": "false",
    "STREAMING": "false",
    "STREAM_WAIT_SECONDS": "20",
    "LANGUAGE_MODEL_URL": "https://api.openai.com/v1",
    "LANGUAGE_MODEL_KEY": "sk-…",
    "LANGUAGE_MODEL": "gpt-4o-mini",
    "LANGUAGE_MODEL_PRICES": "0.15,0.60",
    "SPEECH_URL": "https://api.openai.com/v1",
    "SPEECH_KEY": "sk-…",
    "SPEECH_MODEL": "whisper-1",
    "LOG_LEVEL": "INFO",
    "WORKER_CONCURRENCY": "5",
    "EXTRA_WORKERS": "10",
    "WORKERS_AT_ONCE": "5",
    "WORKER_LOCATION": "aws/eu-west-1",
    "MINUTEHAND_APPS": "jobs,billing.jobs",
    "MINUTEHAND_SCHEMA": "minutehand",
    "MINUTEHAND_COMMIT": "0a1b2c3",
    "MINUTEHAND_SOURCE": "https://github.com/acme/app/blob/0a1b2c3/src",
}

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})


class Settings(BaseModel):
    """The environment, read once; secrets are kept out of `repr`.

    Only `supabase_url` and `supabase_publishable_key` are always required. A function that
    cannot work without another one asks for it with `require`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    supabase_url: str
    supabase_publishable_key: str
    supabase_secret_key: str | None = Field(default=None, repr=False)
    supabase_jwt_secret: str | None = Field(default=None, repr=False)
    supabase_jwks: dict[str, Any] | None = None
    supabase_worker_key: str | None = Field(default=None, repr=False)
    worker_secret_tokens: tuple[str, ...] = Field(default=(), repr=False)
    background_job_tokens: tuple[str, ...] = Field(default=(), repr=False)
    worker_function_name: str | None = None
    aws_endpoint_url: str | None = None
    #: Where Lambda alone answers elsewhere, as the local runtime does; else `aws_endpoint_url`.
    aws_region: str = "us-east-1"
    #: The KMS key that seals vendor keys; without one, development's key file.
    kms_key_id: str | None = None
    sealing_key_file: str | None = None
    uploads_bucket: str | None = None
    stage: str = "local"
    cors_origins: tuple[str, ...] = ()
    allow_anonymous: bool = False
    streaming: bool = False
    #: Requests of one caller a second in one process, and how many of them at once; 0: no limit.
    caller_requests_per_second: int = 100
    caller_requests_burst: int = 300
    #: Streams of one caller open at once in one process; 0: no limit.
    caller_streams: int = 100
    #: Longest wait for a first event where answers are buffered, 0 to 20 s; each holds a function.
    stream_wait_seconds: int = 20
    log_level: str = "INFO"
    #: Where an OpenAI-compatible language model answers; unset: the offline one works.
    language_model_url: str | None = None
    language_model_key: str | None = Field(default=None, repr=False)
    language_model: str | None = None
    #: US dollars per million tokens read and written; unset: costs are not known.
    language_model_prices: tuple[float, float] | None = None
    #: Where OpenAI-compatible speech to text answers; unset: the offline one works.
    speech_url: str | None = None
    speech_key: str | None = Field(default=None, repr=False)
    speech_model: str | None = None
    worker_concurrency: int = 5
    #: Most workers one tick starts beside itself for a backlog.
    extra_workers: int = 10
    #: Most runs of workers at once, over all invocations; None for no bound.
    workers_at_once: int | None = None
    #: Where the worker runs, as measurements state it; unset: by stage and AWS region.
    worker_location: str | None = None
    #: Packages that bring processors, routes and pages, see `minutehand.app`.
    apps: tuple[str, ...] = ()
    #: The schema in which clients see jobs; `public` as the migrations are written.
    schema_name: str = "public"
    #: What a tick reports about itself, so that two versions side by side can be distinguished.
    version: str = VERSION
    #: The commit that the code was made of, and where its files can be read: a path is appended.
    commit: str | None = None
    source: str | None = None
    #: The whole environment, for the settings of apps.
    environ: Mapping[str, str] = Field(default_factory=dict, repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Parse `environ`; an empty variable counts as unset.

        Raises:
            ConfigurationError: A variable is missing or malformed; it is named in the message.
        """
        return cls(
            supabase_url=read_url(environ, "SUPABASE_URL", required=True) or "",
            supabase_publishable_key=read_text(environ, "SUPABASE_PUBLISHABLE_KEY", required=True)
            or "",
            supabase_secret_key=read_text(environ, "SUPABASE_SECRET_KEY"),
            supabase_jwt_secret=read_text(environ, "SUPABASE_JWT_SECRET"),
            supabase_jwks=_jwks(environ),
            supabase_worker_key=read_text(environ, "SUPABASE_WORKER_KEY"),
            worker_secret_tokens=_tokens(environ, "WORKER_SECRET_TOKEN"),
            background_job_tokens=_tokens(environ, "BACKGROUND_JOB_TOKEN"),
            worker_function_name=read_text(environ, "WORKER_FUNCTION_NAME"),
            aws_endpoint_url=read_url(environ, "AWS_ENDPOINT_URL"),
            aws_region=read_text(environ, "AWS_REGION") or "us-east-1",
            kms_key_id=read_text(environ, "KMS_KEY_ID"),
            sealing_key_file=read_text(environ, "SEALING_KEY_FILE"),
            uploads_bucket=read_text(environ, "UPLOADS_BUCKET"),
            stage=read_text(environ, "STAGE") or "local",
            cors_origins=read_list(environ, "CORS_ORIGINS"),
            allow_anonymous=read_flag(environ, "ALLOW_ANONYMOUS"),
            streaming=read_flag(environ, "STREAMING"),
            stream_wait_seconds=read_count(
                environ, "STREAM_WAIT_SECONDS", default=20, least=0, most=20
            ),
            log_level=_level(environ),
            # OpenAI's own names do as well, where a model is named
            language_model_url=read_url(environ, "LANGUAGE_MODEL_URL")
            or (read_url(environ, "OPENAI_BASE_URL") if environ.get("LANGUAGE_MODEL") else None),
            language_model_key=read_text(environ, "LANGUAGE_MODEL_KEY")
            or read_text(environ, "OPENAI_API_KEY"),
            language_model=read_text(environ, "LANGUAGE_MODEL"),
            language_model_prices=_prices(environ, "LANGUAGE_MODEL_PRICES"),
            speech_url=read_url(environ, "SPEECH_URL"),
            speech_key=read_text(environ, "SPEECH_KEY"),
            speech_model=read_text(environ, "SPEECH_MODEL"),
            caller_requests_per_second=read_count(
                environ, "CALLER_REQUESTS_PER_SECOND", default=100, least=0, most=100_000
            ),
            caller_requests_burst=read_count(
                environ, "CALLER_REQUESTS_BURST", default=300, most=1_000_000
            ),
            caller_streams=read_count(
                environ, "CALLER_STREAMS", default=100, least=0, most=1_000_000
            ),
            worker_concurrency=read_count(environ, "WORKER_CONCURRENCY", default=5, most=1000),
            extra_workers=read_count(environ, "EXTRA_WORKERS", default=10, most=1000),
            workers_at_once=read_count(environ, "WORKERS_AT_ONCE", default=5, most=10_000)
            if read_text(environ, "WORKERS_AT_ONCE")
            else None,
            worker_location=read_text(environ, "WORKER_LOCATION"),
            version=read_text(environ, "MINUTEHAND_VERSION")
            or read_text(environ, "AWS_LAMBDA_FUNCTION_VERSION")
            or VERSION,
            commit=read_text(environ, "MINUTEHAND_COMMIT"),
            source=read_url(environ, "MINUTEHAND_SOURCE"),
            apps=read_list(environ, "MINUTEHAND_APPS"),
            schema_name=_schema(environ),
            environ=dict(environ),
        )

    def with_environ(self, **values: str) -> Self:
        """The same settings, with these variables for the settings of apps."""
        return self.model_copy(update={"environ": {**self.environ, **values}})

    def require(self, variable: str) -> None:
        """Refuse to start without `variable`, e.g. `require("WORKER_SECRET_TOKEN")`.

        Raises:
            ConfigurationError: The variable is unset.
        """
        field = {
            "WORKER_SECRET_TOKEN": "worker_secret_tokens",
            "BACKGROUND_JOB_TOKEN": "background_job_tokens",
        }.get(variable, variable.lower())
        if not getattr(self, field):
            raise ConfigurationError(variable, "is not set", EXAMPLES.get(variable, "…"))


def read_text(environ: Mapping[str, str], name: str, *, required: bool = False) -> str | None:
    """The value of `name` without blanks around it; None when it is unset or empty."""
    value = environ.get(name, "").strip()
    if value:
        return value
    if required:
        raise ConfigurationError(name, "is not set", EXAMPLES[name])
    return None


def read_url(environ: Mapping[str, str], name: str, *, required: bool = False) -> str | None:
    """An http(s) URL without its last slash; None when it is unset."""
    value = read_text(environ, name, required=required)
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        example = EXAMPLES.get(name, "https://api.example.com")
        raise ConfigurationError(name, f"must be an http(s) URL, not {value!r}", example)
    return value.rstrip("/")


def read_list(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The parts between commas, without blanks around them."""
    return tuple(part.strip() for part in environ.get(name, "").split(",") if part.strip())


def _tokens(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    tokens = read_list(environ, name)
    if len(tokens) > 2:
        raise ConfigurationError(
            name, f"holds {len(tokens)} tokens; at most two are valid at once", EXAMPLES[name]
        )
    return tokens


def read_flag(environ: Mapping[str, str], name: str) -> bool:
    """Whether `name` is true; false when unset."""
    value = (read_text(environ, name) or "false").lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ConfigurationError(name, f"must be true or false, not {value!r}", "true")


def _level(environ: Mapping[str, str]) -> str:
    value = (read_text(environ, "LOG_LEVEL") or "INFO").upper()
    value = {"TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL"}.get(value, value)
    if value not in _LEVELS:
        levels = ", ".join(sorted(_LEVELS))
        raise ConfigurationError(
            "LOG_LEVEL", f"must be one of {levels}, not {value!r}", EXAMPLES["LOG_LEVEL"]
        )
    return value


def read_count(
    environ: Mapping[str, str], name: str, *, default: int, most: int, least: int = 1
) -> int:
    """A whole number from `least` to `most`."""
    value = read_text(environ, name)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise ConfigurationError(
            name, f"must be a whole number from {least} to {most}, not {value!r}", str(default)
        )
    return int(value)


def _schema(environ: Mapping[str, str]) -> str:
    value = read_text(environ, "MINUTEHAND_SCHEMA") or "public"
    if not re.fullmatch("[a-z_][a-z0-9_]{0,62}", value):
        raise ConfigurationError(
            "MINUTEHAND_SCHEMA",
            f"must be a lower-case name of up to 63 letters, digits and _, not {value!r}",
            EXAMPLES["MINUTEHAND_SCHEMA"],
        )
    return value


def _prices(environ: Mapping[str, str], name: str) -> tuple[float, float] | None:
    value = read_text(environ, name)
    if value is None:
        return None
    try:
        read, written = (float(part) for part in value.split(","))
    except ValueError as error:
        raise ConfigurationError(
            name, f"must be a pair of prices, not {value!r}", EXAMPLES[name]
        ) from error
    if not (0 <= read < 1e6 and 0 <= written < 1e6):
        raise ConfigurationError(name, f"must be a pair of prices, not {value!r}", EXAMPLES[name])
    return read, written


def _jwks(environ: Mapping[str, str]) -> dict[str, Any] | None:
    value = read_text(environ, "SUPABASE_JWKS")
    if value is None:
        return None
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise ConfigurationError(
            "SUPABASE_JWKS", f"is not JSON ({error})", EXAMPLES["SUPABASE_JWKS"]
        ) from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("keys"), list):
        raise ConfigurationError(
            "SUPABASE_JWKS", "must be a JSON Web Key Set", EXAMPLES["SUPABASE_JWKS"]
        )
    return parsed
