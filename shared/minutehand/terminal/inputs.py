"""Reads the input that a command's argument names: a file, or `-` for standard input."""

import json
import sys
from pathlib import Path
from typing import Any

from minutehand.terminal.connection import CommandFailed


def read_text(source: str) -> str:
    """Read the text of a file, or of standard input if `source` is `-`."""
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{source} cannot be read: {error}", code="unreadable") from error


def loads(text: str) -> Any:
    """Parse JSON. Reject an object with a duplicate name, because its first value would be lost.

    Raises:
        ValueError: The text is not JSON, or an object contains a name twice.
    """
    return json.loads(text, object_pairs_hook=_reject_duplicates)


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return value


def parse_object(text: str, source: str) -> dict[str, Any]:
    """Parse a JSON object. Errors name `source` as the origin of the text."""
    try:
        value = loads(text)
    except ValueError as error:
        raise CommandFailed(f"{source} must be JSON: {error}", code="unreadable") from error
    if not isinstance(value, dict):
        raise CommandFailed(f"{source} must be a JSON object", code="unreadable")
    return value
