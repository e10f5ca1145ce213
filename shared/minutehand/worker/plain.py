"""Values as Postgres can keep them: plain JSON without NUL characters or broken surrogates.

Used at the edge where a processor's values enter the worker.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic_core import from_json, to_json

#: Largest result, step or error kept, in bytes of JSON.
MAX_BYTES = 1_000_000
#: Deepest nesting kept; JSON readers stop at about twice as much.
MAX_LEVELS = 100


def plain(value: Any) -> Any:
    """`value` as JSON reads it back: models dumped, tuples as lists.

    Raises:
        ValueError: JSON cannot hold it, as NaN and infinities, or it is larger than `MAX_BYTES`
            or deeper than `MAX_LEVELS`.
    """
    raw = to_json(value, inf_nan_mode="constants", by_alias=True)
    if len(raw) > MAX_BYTES:
        raise ValueError(
            f"value of {len(raw)} bytes is larger than {MAX_BYTES}; store it elsewhere and keep "
            "a reference"
        )
    if raw.count(b"[") + raw.count(b"{") > MAX_LEVELS:
        # a reader stops at 200 levels: what still reads inside 100 more has at most 100
        from_json(b"[" * MAX_LEVELS + raw + b"]" * MAX_LEVELS)
    read = from_json(raw)
    if b"NaN" in raw or b"Infinity" in raw:
        _refuse_not_finite(read, "the value")
    # jsonb has no NUL character, and one would make the whole batch fail
    return _without_nul(read) if b"\\u0000" in raw else read


def _refuse_not_finite(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} is {value}, which JSON cannot hold; use None or a string")
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_not_finite(item, f"{path}[{key!r}]")


def clean_text(text: str) -> str:
    """`text` with NUL characters and lone surrogates replaced."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    return value
