"""Settings of the service. Its environment variables are parsed and validated once.

The `settings` module of an app reads the app's own variables from `Settings.environ`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from minutehand.version import VERSION


class JobServiceError(Exception):
    """Base class of all errors that this service raises, see shared/minutehand/queue/errors.py."""


class ConfigurationError(JobServiceError):
    """The setting `variable` is missing or invalid. `example` is a valid value, or empty."""

    def __init__(self, variable: str, problem: str, example: str) -> None:
        self.variable = variable
        self.problem = problem
        self.example = example
        end = f". Example: {variable}={example}" if example else ""
        super().__init__(f"{variable} {problem}{end}")


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError(f"must be an http(s) URL, not {value!r}")
    return value.rstrip("/")


def _key(value: str) -> str:
    # a header cannot contain typographic quotation marks or line breaks, which people paste
    if not (value.isascii() and value.isprintable()):
        raise ValueError("must be ASCII text")
    return value


def _list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _tokens(value: str) -> tuple[str, ...]:
    tokens = _list(value)
    if len(tokens) > 2:
        raise ValueError(f"must have at most two tokens, not {len(tokens)}")
    return tokens


def _level(value: str) -> str:
    level = value.upper()
    return {"TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL"}.get(level, level)


def _prices(value: str) -> tuple[float, float]:
    try:
        input_price, output_price = (float(part) for part in value.split(","))
    except ValueError:
        input_price = output_price = -1
    if not (0 <= input_price < 1e6 and 0 <= output_price < 1e6):
        raise ValueError(f"must be a pair of prices, not {value!r}")
    return input_price, output_price


def _parsing(parse: Callable[[str], Any]) -> BeforeValidator:
    """Parse a string from the environment. A value that is not a string is already parsed."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


Url = Annotated[str, _parsing(_url)]
Key = Annotated[str, _parsing(_key)]
CommaSeparated = Annotated[tuple[str, ...], _parsing(_list)]
Tokens = Annotated[tuple[str, ...], _parsing(_tokens)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level)]
Prices = Annotated[tuple[float, float], _parsing(_prices)]
From1To1000 = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[float, Field(ge=0, le=604_800)]
Silence = Annotated[float, Field(ge=1, le=3600)]

#: Environment variables by field, if their names differ.
_VARIABLES = {
    "worker_secret_tokens": "WORKER_SECRET_TOKEN",
    "background_job_tokens": "BACKGROUND_JOB_TOKEN",
    **{
        name: f"MINUTEHAND_{name.upper()}"
        for name in ("apps", "version", "commit", "deployed_at", "source")
    },
    "schema_name": "MINUTEHAND_SCHEMA",
}
#: Environment variables that are read if the field's own variable is unset, by field.
ALIASES = {
    "version": "AWS_LAMBDA_FUNCTION_VERSION",
    "language_model_key": "OPENAI_API_KEY",
    "supabase_url": "NEXT_PUBLIC_SUPABASE_URL",
    "supabase_publishable_key": "NEXT_PUBLIC_SUPABASE_ANON_KEY",
    "supabase_secret_key": "SUPABASE_SERVICE_ROLE_KEY",
}


class Settings(BaseModel):
    """The parsed environment variables. `repr` of the settings contains no secrets.

    Only `supabase_url` and `supabase_publishable_key` are always required. A function that needs
    another setting calls `require`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    supabase_url: Url = Field(examples=["https://abcdefghijkl.supabase.co"])
    supabase_publishable_key: str = Field(examples=["sb_publishable_xxxxxxxxxxxxxxxx"])
    supabase_secret_key: str | None = Field(None, repr=False)
    supabase_jwt_secret: str | None = Field(None, repr=False)
    supabase_worker_key: str | None = Field(None, repr=False)
    worker_secret_tokens: Tokens = Field((), repr=False, examples=["new-token,old-token"])
    background_job_tokens: Tokens = Field((), repr=False, examples=["new-token,old-token"])
    worker_function_name: str | None = Field(None, examples=["minutehand-prod-worker"])
    aws_endpoint_url: Url | None = Field(None, examples=["http://127.0.0.1:5000"])
    aws_region: str = "us-east-1"
    #: KMS key that encrypts vendor keys. Without it, the key file for development is used.
    kms_key_id: str | None = None
    sealing_key_file: str | None = None
    uploads_bucket: str | None = Field(None, examples=["minutehand-prod-uploads"])
    stage: str = "local"
    cors_origins: CommaSeparated = ()
    allow_anonymous: bool = Field(False, examples=["false"])
    streaming: bool = Field(False, examples=["false"])
    #: Maximum seconds, from 0 to 20, until the first event of a buffered response. A waiting
    #: response occupies a Lambda function.
    stream_wait_seconds: int = Field(20, ge=0, le=20)
    log_level: Level = "INFO"
    #: URL of an OpenAI-compatible language model. If the URL is unset, apps use their sample
    #: answers.
    language_model_url: Url | None = Field(None, examples=["https://api.openai.com/v1"])
    language_model_key: Key | None = Field(None, repr=False)
    language_model: str | None = Field(None, examples=["gpt-4o-mini"])
    #: US dollars per million input tokens and output tokens. If the prices are unset, costs are
    #: unknown.
    language_model_prices: Prices | None = Field(None, examples=["0.15,0.60"])
    #: Maximum tokens of a language model's answer.
    language_model_most_tokens: int = Field(16_000, ge=1, le=1_000_000)
    #: Maximum seconds without data from a language model, before its response and during it.
    language_model_silence_seconds: Silence = 120.0
    #: URL of an OpenAI-compatible speech-to-text service. If the URL is unset, the offline engine
    #: is used.
    speech_url: Url | None = Field(None, examples=["https://api.openai.com/v1"])
    speech_key: Key | None = Field(None, repr=False)
    speech_model: str | None = Field(None, examples=["whisper-1"])
    #: Maximum seconds until the response for a chunk of audio.
    speech_silence_seconds: Silence = 120.0
    #: Maximum asynchronous processors that run at the same time.
    worker_concurrency: From1To1000 = 50
    #: Maximum synchronous processors that run at the same time, each in its own thread.
    worker_threads: From1To1000 = 5
    #: Names of the queues that a worker serves, see `serve --queue`. No names select all queues.
    worker_queues: CommaSeparated = ()
    #: Maximum extra workers that one worker run starts for due jobs.
    extra_workers: From1To1000 = 10
    #: Maximum concurrent worker runs of all invocations. None means that the number of runs is not
    #: limited.
    workers_at_once: int | None = Field(None, ge=1, le=10_000, examples=["5"])
    #: Packages with processors, routes and pages, see `minutehand.app`.
    apps: CommaSeparated = ()
    #: Schema of the jobs that clients see. The schema in the SQL sources is `public`.
    schema_name: str = Field("public", pattern="^[a-z_][a-z0-9_]{0,62}$")
    #: Version that a worker reports, by which people distinguish two versions that run at once.
    version: str = VERSION
    #: Commit of the worker's code.
    commit: str | None = None
    #: Time of the commit's deploy, which a restart does not change. The job types of the deploy
    #: with the latest time apply.
    deployed_at: AwareDatetime | None = Field(None, examples=["2026-11-26T12:00:00Z"])
    #: URL of the commit's files, to which the path of a file is appended.
    source: Url | None = Field(None, examples=["https://github.com/acme/app/blob/0a1b2c3/src"])
    #: All environment variables, from which apps read their own settings.
    environ: Mapping[str, str] = Field(default_factory=dict, repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Parse environment variables. An empty variable counts as unset.

        Raises:
            ConfigurationError: A variable is missing or invalid.
        """
        values: dict[str, Any] = {
            name: text
            for name in cls.model_fields
            for variable in (ALIASES.get(name, ""), _variable(name))
            if name != "environ" and (text := read_text(environ, variable))
        }
        # read OpenAI's own variable only if LANGUAGE_MODEL is set
        if "language_model" in values and (url := read_text(environ, "OPENAI_BASE_URL")):
            values.setdefault("language_model_url", url)
        try:
            return cls(**values, environ=dict(environ))
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            raise ConfigurationError(
                _variable(name), error_message(error), _example(name)
            ) from error

    def with_environ(self, **values: str) -> Self:
        """Return a copy of the settings with additional variables for the settings of apps."""
        return self.model_copy(update={"environ": {**self.environ, **values}})

    def require(self, variable: str) -> None:
        """Raise an error if a variable is not set, e.g. `require("WORKER_SECRET_TOKEN")`.

        Raises:
            ConfigurationError: The variable is not set.
        """
        name = next(name for name in type(self).model_fields if _variable(name) == variable)
        if not getattr(self, name):
            raise ConfigurationError(variable, "is not set", _example(name))


def error_message(error: ValidationError) -> str:
    """Return the first problem, as the end of a sentence that begins with a variable's name."""
    message = error.errors()[0]["msg"]
    if message == "Field required":
        return "is not set"
    if message.startswith("Extra inputs"):
        return "is unknown"
    message = message.replace("a valid tuple", "a list")
    return re.sub("^(?:Input|String) should", "must", message.removeprefix("Value error, "))


def _variable(name: str) -> str:
    return _VARIABLES.get(name, name.upper())


def _example(name: str) -> str:
    field = Settings.model_fields[name]
    return str((field.examples or [field.default or "…"])[0])


def read_text(environ: Mapping[str, str], name: str) -> str | None:
    """Read a variable without surrounding blanks. Return None if the variable is unset or empty."""
    return environ.get(name, "").strip() or None


def read_url(environ: Mapping[str, str], name: str) -> str | None:
    """Read an http(s) URL without its last slash. Return None if the variable is unset."""
    url: str | None = _read(environ, name, Url, example="https://api.example.com")
    return url


def read_list(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Read a list separated by commas, without surrounding blanks."""
    return _list(environ.get(name, ""))


def read_flag(environ: Mapping[str, str], name: str) -> bool:
    """Read a boolean variable. Return False if the variable is unset."""
    return _read(environ, name, bool, example="true") or False


def read_count(environ: Mapping[str, str], name: str, *, default: int, most: int) -> int:
    """Read a whole number from 1 to `most`. Return the default if the variable is unset."""
    value = _read(environ, name, Annotated[int, Field(ge=1, le=most)], example=str(default))
    return default if value is None else value


def read_seconds(environ: Mapping[str, str], name: str, *, default: float) -> float:
    """Read a number of seconds, at most a week. Return the default if the variable is unset."""
    value = _read(environ, name, Seconds, example=f"{default:g}")
    return default if value is None else value


def _read(environ: Mapping[str, str], name: str, kind: Any, *, example: str) -> Any:
    text = read_text(environ, name)
    try:
        return None if text is None else TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        raise ConfigurationError(name, error_message(error), example) from error
