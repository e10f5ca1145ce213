"""Answers that fit an agent's window: without secrets, at most 16 kB, and what is cut says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from minutehand.redaction import MOST_READ, data_without_secrets, without_secrets

#: Of an answer as JSON, in UTF-8.
MOST_BYTES: Final = 16_000
#: Characters of one piece of a value that is read piece by piece.
PIECE: Final = 3_900
#: Characters of a text, items of a list or fields of an object, and levels: tried in turn.
_SIZES: Final = ((2000, 60, 12), (500, 60, 8), (160, 60, 5), (80, 20, 4), (40, 6, 3), (20, 3, 2))


def clean(value: Any) -> Any:
    """A job's data without secrets and without what is empty; a text is cut where it is huge."""
    return data_without_secrets(_cut(value, MOST_READ - 100, 10**6, 60))


def bounded(value: Any, most: int = MOST_BYTES) -> Any:
    """The same, cut until it fits."""
    value = clean(value)
    for texts, items, levels in _SIZES:
        cut = _cut(value, texts, items, levels)
        if size_of(cut) <= most:
            break
    return cut


def leading(rows: Sequence[Any]) -> list[Any]:
    """As many of the first rows as fit, one at least."""
    left = MOST_BYTES - 500
    kept: list[Any] = []
    for row in rows:
        row = bounded(row, MOST_BYTES - 600)
        left -= size_of(row) + 2
        if left < 0:
            break
        kept.append(row)
    return kept


def piece(value: Any, offset: int) -> dict[str, Any]:
    """A part of a value's JSON text from a character on."""
    text = json.dumps(clean(value), ensure_ascii=False)
    end = offset + PIECE
    return {
        "json": text[offset:end],
        "characters": len(text),
        "next_offset": end if end < len(text) else None,
    }


def short(text: str | None, most: int = 300) -> str | None:
    """A text on its first characters, for a row."""
    return None if text is None else _text(without_secrets(text), most)


def size_of(value: Any) -> int:
    """Bytes of a value as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _cut(value: Any, texts: int, items: int, levels: int) -> Any:
    if isinstance(value, str):
        return _text(value, texts)
    if not isinstance(value, list | dict) or not value:
        return value
    if levels == 0:
        what = "items" if isinstance(value, list) else "fields"
        return f"… (truncated: {len(value)} {what})"
    if isinstance(value, list):
        kept = [_cut(item, texts, items, levels - 1) for item in value[:items]]
        return kept + [f"… (truncated: {len(value)} items)"] * (len(value) > items)
    fields = {
        _text(str(name), 120): _cut(item, texts, items, levels - 1)
        for name, item in list(value.items())[:items]
    }
    return fields | ({"…": f"(truncated: {len(value)} fields)"} if len(value) > items else {})


def _text(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… (truncated: {len(text)} characters)"
