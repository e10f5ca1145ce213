"""JSON in which no object has a name twice: of two values the last would win without a word."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is not JSON, or an object has a name twice.
        RecursionError: It is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found
