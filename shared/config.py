"""Settings: every environment variable the service reads, parsed and checked once.

Nothing else reads the environment; reaching databases and AWS is left to the rooms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field


class JobServiceError(Exception):
    """Root of every error this service raises on purpose; see shared/queue/errors.py."""


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
    "AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:9001",
    "KMS_KEY_ID": "alias/minutehand-prod",
    "SEALING_KEY_FILE": ".local/sealing.json",
    "UPLOADS_BUCKET": "minutehand-prod-uploads",
    "CORS_ORIGINS": "https://app.example.com,https://admin.example.com",
    "ALLOW_ANONYMOUS": "false",
    "STREAMING": "false",
    "USE_MOCK_APOLLO": "false",
    "APOLLO_BASE_URL": "https://api.apollo.io/api/v1",
    "LANGUAGE_MODEL_URL": "https://api.openai.com/v1",
    "LANGUAGE_MODEL_KEY": "sk-…",
    "LANGUAGE_MODEL": "gpt-4o-mini",
    "LANGUAGE_MODEL_PRICES": "0.15,0.60",
    "SPEECH_URL": "https://api.openai.com/v1",
    "SPEECH_KEY": "sk-…",
    "SPEECH_MODEL": "whisper-1",
    "MUX_TOKEN_ID": "01234567-89ab-cdef-0123-456789abcdef",
    "MUX_TOKEN_SECRET": "…",
    "MUX_BASE_URL": "https://api.mux.com",
    "FFMPEG_PATH": "/opt/bin/ffmpeg",
    "LOG_LEVEL": "INFO",
    "WORKER_CONCURRENCY": "5",
    "WORKER_SIBLINGS": "10",
    "WORKER_LOCATION": "aws/eu-west-1",
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
    lambda_endpoint_url: str | None = None
    aws_region: str = "us-east-1"
    #: The KMS key that seals vendor keys; without one, development's key file.
    kms_key_id: str | None = None
    sealing_key_file: str | None = None
    uploads_bucket: str | None = None
    stage: str = "local"
    cors_origins: tuple[str, ...] = ()
    allow_anonymous: bool = False
    streaming: bool = False
    log_level: str = "INFO"
    use_mock_apollo: bool = False
    apollo_base_url: str = "https://api.apollo.io/api/v1"
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
    #: The video host's access token; unset: videos stay in the uploads bucket alone.
    mux_token_id: str | None = None
    mux_token_secret: str | None = Field(default=None, repr=False)
    mux_base_url: str = "https://api.mux.com"
    #: The ffmpeg that reads videos; unset: the one of the wheel imageio-ffmpeg.
    ffmpeg_path: str | None = None
    worker_concurrency: int = 5
    #: Most workers one tick starts beside itself for a backlog.
    worker_siblings: int = 10
    #: Where the worker runs, as measurements state it; unset: by stage and AWS region.
    worker_location: str | None = None
    #: What a tick reports about itself, so that two versions side by side can be told apart.
    version: str = "0.1.0"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Parse `environ`; an empty variable counts as unset.

        Raises:
            ConfigurationError: A variable is missing or malformed; it is named in the message.
        """
        return cls(
            supabase_url=_url(environ, "SUPABASE_URL", required=True) or "",
            supabase_publishable_key=_text(environ, "SUPABASE_PUBLISHABLE_KEY", required=True)
            or "",
            supabase_secret_key=_text(environ, "SUPABASE_SECRET_KEY"),
            supabase_jwt_secret=_text(environ, "SUPABASE_JWT_SECRET"),
            supabase_jwks=_jwks(environ),
            supabase_worker_key=_text(environ, "SUPABASE_WORKER_KEY"),
            worker_secret_tokens=_tokens(environ, "WORKER_SECRET_TOKEN"),
            background_job_tokens=_tokens(environ, "BACKGROUND_JOB_TOKEN"),
            worker_function_name=_text(environ, "WORKER_FUNCTION_NAME"),
            aws_endpoint_url=_url(environ, "AWS_ENDPOINT_URL"),
            lambda_endpoint_url=_url(environ, "AWS_ENDPOINT_URL_LAMBDA"),
            aws_region=_text(environ, "AWS_REGION") or "us-east-1",
            kms_key_id=_text(environ, "KMS_KEY_ID"),
            sealing_key_file=_text(environ, "SEALING_KEY_FILE"),
            uploads_bucket=_text(environ, "UPLOADS_BUCKET"),
            stage=_text(environ, "STAGE") or "local",
            cors_origins=_list(environ, "CORS_ORIGINS"),
            allow_anonymous=_flag(environ, "ALLOW_ANONYMOUS"),
            streaming=_flag(environ, "STREAMING"),
            log_level=_level(environ),
            use_mock_apollo=_flag(environ, "USE_MOCK_APOLLO"),
            apollo_base_url=_url(environ, "APOLLO_BASE_URL") or EXAMPLES["APOLLO_BASE_URL"],
            language_model_url=_url(environ, "LANGUAGE_MODEL_URL"),
            language_model_key=_text(environ, "LANGUAGE_MODEL_KEY"),
            language_model=_text(environ, "LANGUAGE_MODEL"),
            language_model_prices=_prices(environ, "LANGUAGE_MODEL_PRICES"),
            speech_url=_url(environ, "SPEECH_URL"),
            speech_key=_text(environ, "SPEECH_KEY"),
            speech_model=_text(environ, "SPEECH_MODEL"),
            mux_token_id=_text(environ, "MUX_TOKEN_ID"),
            mux_token_secret=_text(environ, "MUX_TOKEN_SECRET"),
            mux_base_url=_url(environ, "MUX_BASE_URL") or EXAMPLES["MUX_BASE_URL"],
            ffmpeg_path=_text(environ, "FFMPEG_PATH"),
            worker_concurrency=_count(environ, "WORKER_CONCURRENCY", default=5, most=1000),
            worker_siblings=_count(environ, "WORKER_SIBLINGS", default=10, most=1000),
            worker_location=_text(environ, "WORKER_LOCATION"),
            version=_text(environ, "MINUTEHAND_VERSION")
            or _text(environ, "AWS_LAMBDA_FUNCTION_VERSION")
            or "0.1.0",
        )

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


def _text(environ: Mapping[str, str], name: str, *, required: bool = False) -> str | None:
    value = environ.get(name, "").strip()
    if value:
        return value
    if required:
        raise ConfigurationError(name, "is not set", EXAMPLES[name])
    return None


def _url(environ: Mapping[str, str], name: str, *, required: bool = False) -> str | None:
    value = _text(environ, name, required=required)
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ConfigurationError(name, f"is no http(s) URL: {value!r}", EXAMPLES[name])
    return value.rstrip("/")


def _list(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in environ.get(name, "").split(",") if part.strip())


def _tokens(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    tokens = _list(environ, name)
    if len(tokens) > 2:
        raise ConfigurationError(
            name, f"holds {len(tokens)} tokens; at most two are valid at once", EXAMPLES[name]
        )
    return tokens


def _flag(environ: Mapping[str, str], name: str) -> bool:
    value = (_text(environ, name) or "false").lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ConfigurationError(name, f"is neither true nor false: {value!r}", EXAMPLES[name])


def _level(environ: Mapping[str, str]) -> str:
    value = (_text(environ, "LOG_LEVEL") or "INFO").upper()
    if value not in _LEVELS:
        raise ConfigurationError("LOG_LEVEL", f"is no level: {value!r}", EXAMPLES["LOG_LEVEL"])
    return value


def _count(environ: Mapping[str, str], name: str, *, default: int, most: int) -> int:
    value = _text(environ, name)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= most:
        raise ConfigurationError(
            name, f"is no whole number from 1 to {most}: {value!r}", EXAMPLES[name]
        )
    return int(value)


def _prices(environ: Mapping[str, str], name: str) -> tuple[float, float] | None:
    value = _text(environ, name)
    if value is None:
        return None
    try:
        read, written = (float(part) for part in value.split(","))
    except ValueError as error:
        raise ConfigurationError(
            name, f"is no pair of prices: {value!r}", EXAMPLES[name]
        ) from error
    if not (0 <= read < 1e6 and 0 <= written < 1e6):
        raise ConfigurationError(name, f"is no pair of prices: {value!r}", EXAMPLES[name])
    return read, written


def _jwks(environ: Mapping[str, str]) -> dict[str, Any] | None:
    value = _text(environ, "SUPABASE_JWKS")
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
            "SUPABASE_JWKS", "is no JSON Web Key Set", EXAMPLES["SUPABASE_JWKS"]
        )
    return parsed
