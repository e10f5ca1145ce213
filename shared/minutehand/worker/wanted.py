"""What an option must be, in words and as a check: a wrong one is refused where it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple


class Kind(NamedTuple):
    """What a value must be."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


COUNT: Final = Kind("a whole number", _is_count)
NUMBER: Final = Kind("a number", _is_number)
LENGTH: Final = Kind(
    "seconds, as a number or a timedelta",
    lambda value: isinstance(value, timedelta) or _is_number(value),
)
FLAG: Final = Kind("True or False", lambda value: isinstance(value, bool))
NAME: Final = Kind("a name", lambda value: isinstance(value, str) and bool(value))
MAPPING: Final = Kind("a mapping", lambda value: isinstance(value, Mapping))


def one_of(*names: str) -> Kind:
    """One of these words."""
    words = " or ".join(map(repr, names))
    return Kind(words, lambda value: isinstance(value, str) and value in names)


def made(kind: type, example: str) -> Kind:
    """An object of a class."""
    return Kind(f"a {kind.__name__}, as {example}", lambda value: isinstance(value, kind))


def require(owner: str, option: str, value: Any, kind: Kind) -> None:
    """Refuse a value of another kind.

    Raises:
        TypeError: It names the option, whose it is, and what it must be.
    """
    if not kind.fits(value):
        more = "; leave it out for the default" if value is None else ""
        raise TypeError(f"{option} of {owner} must be {kind.words}, not {value!r}{more}")
