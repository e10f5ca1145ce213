"""Values in a stage's settings that CloudFormation would reject only after minutes."""

import pytest

from minutehand.deploy.stage_values import find_errors

VALID = [
    ("logLevel", "info"),
    ("logRetentionDays", 14),
    ("workerMemory", "10240"),
    ("workersAtOnce", None),
    ("console", True),
    ("corsOrigins", ["https://a.example"]),
]
INVALID = [
    ("logLevel", ["INFO"]),
    ("logRetentionDays", 15),
    ("workerMemory", 10241),
    ("workerMemory", "1_024"),
    ("workerTimeout", "60.0"),
    ("workerTimeout", " 60 "),
    ("workerDisk", "+512"),
    ("workerTimeout", [60]),
    ("workerTimeout", None),
    ("tickState", "on"),
    ("corsOrigins", ["https://a.example/path"]),
]


@pytest.mark.parametrize(("name", "value"), [*VALID, *INVALID])
def test_an_invalid_value_is_named(name: str, value: object) -> None:
    errors = find_errors({name: value})

    assert [error.split(":")[0] for error in errors] == [name] * ((name, value) in INVALID)
