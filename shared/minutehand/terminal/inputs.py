"""What a person names on the command line: a file, or `-` for standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from minutehand.terminal.connection import CommandFailed


def read_text(source: str) -> str:
    """The text of a file, or of standard input for `-`."""
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{source} cannot be read: {error}", code="unreadable") from error


def loads(text: str) -> Any:
    """JSON in which no object has a name twice: of two values the last would win without a word.

    Raises:
        ValueError: It is not JSON, or an object has a name twice.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def parse_object(text: str, source: str) -> dict[str, Any]:
    """A JSON object from `text`, which came from `source`."""
    try:
        value = loads(text)
    except ValueError as error:
        raise CommandFailed(f"{source} is not JSON: {error}", code="unreadable") from error
    if not isinstance(value, dict):
        raise CommandFailed(f"{source} must be a JSON object", code="unreadable")
    return value
