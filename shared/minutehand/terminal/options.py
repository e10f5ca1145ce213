"""Decorators that turn functions into commands, with common options and printed errors."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from minutehand.config import ConfigurationError
from minutehand.install.errors import InstallError
from minutehand.terminal.connection import CommandFailed, Connection, load_values
from minutehand.terminal.output import Output

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        "-e",
        envvar="MINUTEHAND_ENV_FILE",
        help="File with addresses and keys; default: the environment, otherwise .local/env.",
    ),
]
Token = Annotated[
    str | None, typer.Option("--token", help="Use this access token instead of signing in.")
]
Workspace = Annotated[
    str | None,
    typer.Option(
        "--workspace", "-w", help="The workspace's id; `system` for jobs without a tenant."
    ),
]


JobId = Annotated[str, typer.Argument(help="The job's id, or its first or last digits.")]
AnyJobId = Annotated[
    str | None, typer.Argument(help="A job's id or digits of it; without it, the workspace.")
]
Region = Annotated[
    str, typer.Option(envvar="AWS_REGION", help="AWS's region; default: the profile's.")
]
JobType = Annotated[str | None, typer.Option("--type", "-t", help="The job type.")]
Queue = Annotated[str | None, typer.Option(help="The queue's name.")]
Tag = Annotated[str | None, typer.Option("--tag", help="Only jobs with this tag.")]
Payload = Annotated[str, typer.Argument(help="JSON, @file, or - for standard input.")]


@contextmanager
def command_output(as_json: bool) -> Iterator[Output]:
    """Yield the output of a command.

    If the block raises CommandFailed, print the error and exit with the error's exit code. Errors
    of an install and of the settings are printed too.
    """
    output = Output(as_json=as_json)
    try:
        try:
            yield output
        except InstallError as error:
            raise CommandFailed(str(error), code=error.code, fix=error.fix) from error
        except ConfigurationError as error:
            raise CommandFailed(str(error), code="bad_settings") from error
    except CommandFailed as failed:
        output.failure(str(failed), code=failed.code, fix=failed.fix)
        raise typer.Exit(failed.exit_code) from failed
    except KeyboardInterrupt as stopped:
        raise typer.Exit(130) from stopped


@contextmanager
def connected(
    env_file: Path | None, token: str | None = None, workspace: str | None = None
) -> Iterator[Connection]:
    """Yield a connection to the stack, and close it at the end."""
    connection = Connection(load_values(env_file), token, workspace)
    try:
        yield connection
    finally:
        connection.close()


Run = Callable[..., None]


def verb(run: Run) -> Run:
    """Turn a function with the argument `output`, and optionally `connection`, into a command.

    The command passes the arguments `output` and `connection` to the function. The command has the
    function's options and --json. If the function has the argument `connection`, the command also
    has --token and --env-file. The command prints an error, and exits with 2 if an argument is
    wrong, otherwise with 1.
    """
    return _make_command(run, {"token": Token, "env_file": EnvFile})


def workspace_verb(run: Run) -> Run:
    """Turn a function into a command as `verb` does, and add the option --workspace."""
    return _make_command(run, {"workspace": Workspace, "token": Token, "env_file": EnvFile})


def _make_command(run: Run, connection_options: dict[str, Any]) -> Run:
    own = dict(signature(run, eval_str=True).parameters)
    del own["output"]
    connects = own.pop("connection", None) is not None
    options = connection_options if connects else {}

    @wraps(run)
    def command(*, as_json: bool, **arguments: Any) -> None:
        connection_arguments = {name: arguments.pop(name) for name in options}
        with ExitStack() as stack:
            arguments["output"] = stack.enter_context(command_output(as_json))
            if connects:
                connection = stack.enter_context(connected(**connection_arguments))
                arguments["connection"] = connection
            run(**arguments)

    common = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in options.items()
    ]
    as_json = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    # let Typer read these parameters instead of the parameters of the function `command`
    parameters = [*own.values(), *common, as_json]
    command.__dict__["__signature__"] = signature(lambda: None).replace(parameters=parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d)")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_seconds(text: str) -> float:
    """Parse a time span: `90s`, `5m`, `1h30m`, `2d`, or a number of seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _SPAN.findall(text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise typer.BadParameter(f"{text!r} must be a time span such as 90s, 5m, 1h30m or 2d")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_time(text: str) -> str:
    """Parse a time in ISO 8601 format."""
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} must be a time in ISO 8601 such as 2026-11-20T08:36"
        ) from error


def time_before(span: str) -> str:
    """Return the time that is a time span before now, in ISO 8601 format."""
    return (datetime.now(UTC) - timedelta(seconds=parse_seconds(span))).isoformat()
