"""Parsers of the queue's responses.

After an unexpected response, the queue counts as unavailable.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json

from minutehand.queue.errors import QueueUnavailable

T = TypeVar("T")
#: Function that parses a response's body, and raises an error if the body has an unexpected form.
Parse = Callable[[bytes], T]


class QueueObject(dict[str, Any]):
    """A JSON object from the queue. A missing key means that another server sent the response."""

    def __missing__(self, name: str) -> Any:
        raise QueueUnavailable(f"the response of the Data API has no {name!r}")


def decode(content: bytes) -> Any:
    """Parse the JSON value of a response."""
    try:
        return from_json(content)
    except ValueError:
        # parse the response by `json`, which accepts deeper nesting and larger values, because one
        # unusual value must not make the whole response invalid
        return json.loads(content)


def decode_any(content: bytes) -> Any:
    """Parse any JSON value, also null, which the project's own SQL functions may return."""
    value = decode(content)
    return QueueObject(value) if isinstance(value, dict) else value


def decode_object(content: bytes) -> QueueObject:
    """Parse a response that must be a JSON object."""
    if not isinstance(value := decode(content), dict):
        raise ValueError("the response must be an object")
    return QueueObject(value)


def decode_rows(content: bytes) -> list[QueueObject]:
    """Parse the rows of a table or view from a JSON list of objects."""
    if not isinstance(value := decode(content), list) or not all(
        isinstance(x, dict) for x in value
    ):
        raise ValueError("the response must be a list of objects")
    return [QueueObject(row) for row in value]


def reading(shape: type[T]) -> Parse[T]:
    """Return a parser for a model, or for a list of models."""

    def parse(content: bytes) -> T:
        read_as: T = _adapter(shape).validate_python(decode(content))
        return read_as

    return parse


#: Creates and caches pydantic's type adapters, because an adapter for a list takes milliseconds to
#: create.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def read(content: bytes, parse: Parse[T], *, status: int = 200) -> T:
    """Parse the body of a successful call.

    A proxy, a pooler or a CDN may respond instead of the queue, with status 200 or 204 and an HTML
    page, a truncated body or no body. After an unexpected response, as after a timeout, the call
    may have had an effect.
    """
    try:
        return parse(content)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise QueueUnavailable(
            f"unexpected response from the Data API (status {status}): {error}"[:300], status=status
        ) from error
