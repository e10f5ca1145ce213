"""Opaque ids and cursors: a few values as one URL-safe text, checked when it comes back.

A cursor grants nothing; what it points to is left to the routes and to RLS.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from minutehand.web.errors import ApiError, invalid_argument


def encode(*values: str | int) -> str:
    """A cursor that holds `values` in order; URL-safe."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def decode(cursor: str, *kinds: type[Any]) -> tuple[Any, ...]:
    """The values of a cursor, each checked to be of its kind."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list):
            raise ValueError("no list of values")
        return tuple(_checked(value, kind) for value, kind in zip(values, kinds, strict=True))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise unknown_cursor() from error


def unknown_cursor() -> ApiError:
    """400: a cursor that no page of this list returned."""
    return invalid_argument("cursor", "is not a valid cursor for this list", location="query")


def _checked(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ValueError(f"not a {kind.__name__}")
    return value
