"""What a prompt says of a job: what became of it, its payload's shape, and no value."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from minutehand.functions.status.prompt import (
    MOST_ERROR,
    MOST_FIELDS,
    MOST_FRAMES,
    MOST_KINDS,
    MOST_LINE,
    MOST_LINES,
    MOST_STEPS,
    failure_prompt,
    shape,
)


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

    assert str(told["deep"]).count("next") == 5
    assert len(shape([1, "a", None, True, 0.5])) == MOST_KINDS
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


class ReadInFull(Read):
    """A job with more of everything than a prompt takes."""

    async def explain(self, job_id: str) -> Any:
        return SimpleNamespace(status="failed", remedy="Replace the card.")

    async def steps(self, job_id: str) -> Any:
        return SimpleNamespace(steps=[SimpleNamespace(name=f"step {n}.") for n in range(40)])

    async def search_logs(self, *asked: object, limit: int) -> Any:
        assert (asked, limit) == (("w", {"job_id": "j"}), MOST_LINES)
        at = datetime(2026, 11, 24, 12, tzinfo=UTC)
        said = ("last " + "x" * 400, "first, with Bearer abcdefgh12345678")
        lines = [SimpleNamespace(created_at=at, log_level="info", message=each) for each in said]
        return SimpleNamespace(lines=lines)


async def test_a_prompt_holds_the_last_failure_and_the_end_of_the_log() -> None:
    """It fits in a window, hides what is secret, and its fences hold whatever is in them."""
    frames = [
        {"file": "a.py", "line": n, "function": "run", "code": "```"}
        for n in range(MOST_FRAMES + 1)
    ]
    first = {"error_message": "the first failure"}
    last = {"error_message": "y" * 3000, "traceback": {"frames": frames}}
    queue: Any = ReadInFull("failed", [first, last])

    text = await failure_prompt(queue, "j")

    assert "the first failure" not in text
    assert (text.count("y" * MOST_ERROR), "y" * (MOST_ERROR + 1) in text) == (1, False)
    assert (text.count("a.py:"), "````\na.py:0 in run" in text) == (MOST_FRAMES, True)
    assert (text.count("step "), "step 39." in text) == (MOST_STEPS, True)
    assert text.index("info first") < text.index("info last")
    assert "x" * MOST_LINE not in text
    assert "abcdefgh12345678" not in text
    assert "Minutehand advises: Replace the card." in text


async def test_a_job_that_failed_before_any_attempt_says_why() -> None:
    """As one whose parts failed, or whose deadline passed."""

    class Late(Read):
        async def get_job(self, job_id: str) -> Any:
            job = await super().get_job(job_id)
            job.error_message, job.error_data = "too late", {"type": "DeadlineExceeded"}
            return job

    queue: Any = Late("failed", [])

    assert "DeadlineExceeded: too late" in await failure_prompt(queue, "j")
