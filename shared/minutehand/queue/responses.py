"""How the queue's answers are read: what is not the answer that is due is no answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json

from minutehand.queue.errors import QueueUnavailable

T = TypeVar("T")
#: Makes of an answer's body what its caller takes; raises where it is something else.
Parse = Callable[[bytes], T]


class Answer(dict[str, Any]):
    """A JSON object of the queue; one that has not what its reader needs is someone else's."""

    def __missing__(self, name: str) -> Any:
        raise QueueUnavailable(f"the Data API gave an answer without {name!r}")


def decode(content: bytes) -> Any:
    """The JSON value of an answer."""
    try:
        return from_json(content)
    except ValueError:
        # one deep or huge value must not hide the others beside it: this reader stops later
        return json.loads(content)


def decode_any(content: bytes) -> Any:
    """The value that an answer is: of a project's own function it may be null."""
    said = decode(content)
    return Answer(said) if isinstance(said, dict) else said


def decode_object(content: bytes) -> Answer:
    """The object that an answer is."""
    if not isinstance(said := decode(content), dict):
        raise ValueError("an object is due")
    return Answer(said)


def decode_rows(content: bytes) -> list[Answer]:
    """The rows of a table or view."""
    if not isinstance(said := decode(content), list) or not all(isinstance(x, dict) for x in said):
        raise ValueError("rows are due")
    return [Answer(row) for row in said]


def reading(shape: type[T]) -> Parse[T]:
    """Read an answer as a model, or as a list of models."""

    def parse(content: bytes) -> T:
        read_as: T = _adapter(shape).validate_python(decode(content))
        return read_as

    return parse


#: Kept, because one of a list is made in milliseconds.
_adapter: Final[Callable[[Any], TypeAdapter[Any]]] = cache(TypeAdapter)


def read(content: bytes, parse: Parse[T], *, status: int = 200) -> T:
    """What a call that succeeded has answered.

    A proxy, a pooler or an edge may answer a call with 200 or 204 in the queue's place, with a
    page, with half of a body or with none: whether the call was done is then unknown, as it is
    after no answer.
    """
    try:
        return parse(content)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise QueueUnavailable(
            f"the Data API answered {status} with what is no answer to this call: {error}"[:300],
            status=status,
        ) from error
