"""Checks for stage values that CloudFormation rejects after minutes or that break functions.

Placeholders and missing secrets are checked elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

#: Names of log levels; environment.cjs maps them to the functions' LOG_LEVEL.
LEVELS = "TRACE DEBUG INFO WARN WARNING ERROR FATAL CRITICAL"
#: Retention times that CloudWatch accepts, in days:
#: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
RETENTION_DAYS = (
    "1 3 5 7 14 30 60 90 120 150 180 365 400 545 731 1096 1827 2192 2557 2922 3288 3653"
)

Rule = tuple[Callable[[str], bool], str]


def _number(minimum: float, maximum: float) -> Rule:
    def is_valid(value: str) -> bool:
        return value.isascii() and value.isdigit() and minimum <= int(value) <= maximum

    return is_valid, f"a whole number from {minimum} to {maximum}"


def _one_of(*values: str) -> Rule:
    return (lambda value: value in values), f"one of {', '.join(values)}"


def _optional(rule: Rule) -> Rule:
    is_valid, description = rule
    return (lambda value: not value or is_valid(value)), f"{description}, or ''"


RULES: Mapping[str, Rule] = {
    "logLevel": (
        (lambda value: value.upper() in LEVELS.split()),
        "one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
    ),
    "logRetentionDays": _one_of(*RETENTION_DAYS.split()),
    "workerTimeout": _number(30, 900),
    "workerMemory": _number(128, 10_240),
    "workerDisk": _number(512, 10_240),
    "workerConcurrency": _number(1, 1000),
    "extraWorkers": _number(1, 1000),
    "workersAtOnce": _optional(_number(1, 10_000)),
    "workerReservedConcurrency": _optional(_number(1, 100_000)),
    "tickState": _one_of("ENABLED", "DISABLED"),
    "console": _one_of("true", "false"),
    "allowAnonymous": _one_of("true", "false"),
    "oldestDueSeconds": _number(1, 86_400),
    "uploadDays": _number(1, 3650),
    "alarmEmail": (
        (lambda value: bool(re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value))),
        "a mail address",
    ),
}


def find_errors(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each invalid value."""
    errors = []
    for name, (is_valid, description) in RULES.items():
        value = values.get(name)
        text = (
            str(value).lower() if isinstance(value, bool) else str("" if value is None else value)
        )
        if name in values and not is_valid(text):
            errors.append(f"{name} must be {description}, not {text!r}")
    origins = values.get("corsOrigins", [])
    if not isinstance(origins, list):
        errors.append("corsOrigins must be a list, e.g. ['https://app.example.com']")
    elif wrong := [o for o in origins if not re.fullmatch(r"https?://[^/*\s]+", str(o))]:
        errors.append(f"corsOrigins must be origins without a path and without *, not {wrong[0]!r}")
    return errors
