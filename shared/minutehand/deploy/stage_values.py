"""Values of a stage that CloudFormation refuses after minutes, or that break every function.

What a placeholder is and which secrets are missing is said elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

#: Every word for a level; environment.cjs has what the functions' LOG_LEVEL says for it.
LEVELS = "TRACE DEBUG INFO WARN WARNING ERROR FATAL CRITICAL"
#: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
RETENTION_DAYS = (
    "1 3 5 7 14 30 60 90 120 150 180 365 400 545 731 1096 1827 2192 2557 2922 3288 3653"
)

Rule = tuple[Callable[[str], bool], str]


def _number(least: float, most: float) -> Rule:
    def fits(value: str) -> bool:
        return value.isascii() and value.isdigit() and least <= int(value) <= most

    return fits, f"a whole number from {least} to {most}"


def _one_of(*words: str) -> Rule:
    return (lambda value: value in words), f"one of {', '.join(words)}"


def _optional(rule: Rule) -> Rule:
    fits, said = rule
    return (lambda value: not value or fits(value)), f"{said}, or ''"


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


def problems(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value that would break the stack; empty when none would."""
    found = []
    for name, (fits, said) in RULES.items():
        value = values.get(name)
        text = (
            str(value).lower() if isinstance(value, bool) else str("" if value is None else value)
        )
        if name in values and not fits(text):
            found.append(f"{name} must be {said}, not {text!r}")
    origins = values.get("corsOrigins", [])
    if not isinstance(origins, list):
        found.append("corsOrigins must be a list, as ['https://app.example.com']")
    elif wrong := [o for o in origins if not re.fullmatch(r"https?://[^/*\s]+", str(o))]:
        found.append(f"corsOrigins must be origins without a path or *, not {wrong[0]!r}")
    return found
