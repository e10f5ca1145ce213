"""What a prompt says of a job: what became of it, its payload's shape, and no value."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from minutehand.functions.status.prompt import MOST_FIELDS, failure_prompt, shape


def test_a_shape_has_names_and_types_alone() -> None:
    """A list's kinds once each, what is deep or wide in short, and no key that is a secret."""
    given = {
        "customer": {"name": "Ada Lovelace", "age": 36, "ratio": 0.5, "vip": True, "notes": None},
        "rows": [{"n": 1}, {"n": 2}, {"n": "three"}],
        "by": {"Bearer abcdefgh12345678": 1},
    }

    assert shape(given) == {
        "customer": {
            "name": "string", "age": "integer", "ratio": "number", "vip": "boolean",
            "notes": "null",
        },
        "rows": [{"n": "integer"}, {"n": "string"}],
        "by": {"Bearer [hidden]": "integer"},
    }  # fmt: skip


def test_a_shape_stays_short() -> None:
    """A payload of 256 kB fills no window."""
    deep: Any = "end"
    for _ in range(200):
        deep = {"next": deep}
    wide = {f"field {n}": "x" for n in range(5_000)}

    told = shape({"deep": deep, "wide": wide})

    assert told["wide"]["…"] == "5000 fields"
    assert len(told["wide"]) == MOST_FIELDS + 1
    assert len(json.dumps(told)) < 2_000


class Read:
    """A job's parts as the queue has them."""

    def __init__(self, status: str, attempts: list[dict[str, Any]]) -> None:
        self._status = status
        self._attempts = attempts

    async def get_job(self, job_id: str) -> Any:
        return SimpleNamespace(
            workspace_id="w", job_type="order", attempts=len(self._attempts), max_attempts=5,
            payload={}, error_message=None, error_data=None,
        )  # fmt: skip

    async def explain(self, job_id: str) -> Any:
        return SimpleNamespace(status=self._status, remedy=None)

    async def attempts(self, job_id: str) -> list[dict[str, Any]]:
        return self._attempts

    async def steps(self, job_id: str) -> Any:
        return SimpleNamespace(steps=[])

    async def search_logs(self, *_: object, limit: int) -> Any:
        return SimpleNamespace(lines=())


@pytest.mark.parametrize(
    ("status", "errors", "opening"),
    [
        ("failed", ["no card"], "A background job failed. Find the cause"),
        ("completed", ["no card", None], "An attempt at a background job failed; the job is comp"),
        ("running", ["no card"], "An attempt at a background job failed; the job is running now."),
        ("completed", [None], "No attempt at this background job has failed; it is completed."),
        ("queued", [], "No attempt at this background job has failed; it is queued."),
    ],
)  # fmt: skip
async def test_a_prompt_begins_with_what_became_of_the_job(
    status: str, errors: list[str | None], opening: str
) -> None:
    """An agent must not look for the failure of a job that completed."""
    queue: Any = Read(status, [{"error_message": error} for error in errors])

    text = await failure_prompt(queue, "j")

    assert text.startswith(opening)
    assert ("correct it" in text) is any(errors)
    assert ("no card" in text) is any(errors)
    assert f"of type `order`: {status}" in text
