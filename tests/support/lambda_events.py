"""Recorded Lambda events and contexts, from `tests/fixtures`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

_HOME = Path(__file__).resolve().parents[1] / "fixtures"


def load_event(name: str, *, token: str | None = None) -> dict[str, Any]:
    """The event called `name`, with `token` in place of USER_TOKEN."""
    text = (_HOME / "events" / f"{name}.json").read_text()
    event: dict[str, Any] = json.loads(text.replace("USER_TOKEN", token or "USER_TOKEN"))
    return event


class LambdaContext:
    """A context as the runtime hands it over; time really runs out."""

    function_name: str
    function_version: str
    invoked_function_arn: str
    memory_limit_in_mb: str
    aws_request_id: str

    def __init__(self, function: str) -> None:
        fields = json.loads((_HOME / "contexts" / f"{function}.json").read_text())
        self._ends_at = time.monotonic() + fields.pop("remaining_time_ms") / 1000
        self.__dict__.update(fields)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function would be killed."""
        return max(0, int((self._ends_at - time.monotonic()) * 1000))
