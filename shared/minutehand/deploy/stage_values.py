"""Checks a stage's parameters, because CloudFormation rejects a wrong value only after minutes.

Other modules check that a stage has no placeholders and that no secret is missing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

#: Log levels that a stage may set. environment.cjs converts the level to LOG_LEVEL of the
#: functions.
_Level = Annotated[
    Literal["TRACE", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"],
    BeforeValidator(lambda value: str(value).upper()),
]
#: Numbers of days for which CloudWatch can keep logs:
#: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
_RETENTION_DAYS = (
    "1 3 5 7 14 30 60 90 120 150 180 365 400 545 731 1096 1827 2192 2557 2922 3288 3653"
)
_Flag = Literal["true", "false"]


def _number(minimum: int, maximum: int) -> Any:
    return Annotated[int, Field(ge=minimum, le=maximum), BeforeValidator(_digits)]


def _digits(text: Any) -> Any:
    # accept only digits, because CloudFormation cannot parse numbers such as 1_000 or 60.0
    if not (isinstance(text, str) and text.isascii() and text.isdecimal()):
        raise ValueError("it must be a whole number")
    return text


#: Type of each parameter of a stage, by name. Values are strings, and an empty string selects the
#: default of an optional parameter.
TYPES: Mapping[str, Any] = {
    "logLevel": _Level,
    "logRetentionDays": Literal[*_RETENTION_DAYS.split()],
    "workerTimeout": _number(30, 900),
    "workerMemory": _number(128, 10_240),
    "workerDisk": _number(512, 10_240),
    "workerConcurrency": _number(1, 1000),
    "extraWorkers": _number(1, 1000),
    "workersAtOnce": Literal[""] | _number(1, 10_000),
    "workerReservedConcurrency": Literal[""] | _number(1, 100_000),
    "tickState": Literal["ENABLED", "DISABLED"],
    "console": _Flag,
    "allowAnonymous": _Flag,
    "oldestDueSeconds": _number(1, 86_400),
    "uploadDays": _number(1, 3650),
    "alarmEmail": Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")],
    # reject origins with a path and the value *
    "corsOrigins": list[Annotated[str, Field(pattern=r"^https?://[^/*\s]+$")]],
}


def find_errors(values: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each invalid parameter of a stage."""
    errors = []
    for name in TYPES.keys() & values.keys():
        value = values[name]
        if isinstance(value, bool):
            value = str(value).lower()
        elif not isinstance(value, list):
            value = "" if value is None else str(value)
        try:
            TypeAdapter(TYPES[name]).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[-1]
            reason = problem["msg"].removeprefix("Value error, ")
            errors.append(f"{name}: {reason}, not {problem['input']!r}")
    return sorted(errors)
