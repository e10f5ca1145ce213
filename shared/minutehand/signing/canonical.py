"""Canonical JSON after RFC 8785 and the digests made of it: one value, one text, one digest.

`queue.canonical` in SQL makes the same text of everything that receipts hold.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

#: Whole numbers beyond this are not exact in JSON as browsers read it (RFC 7493).
EXACT = 2**53 - 1
_LARGEST = 10**21


def canonical(value: Any) -> str:
    """The one text of a JSON value.

    Raises:
        ValueError: It holds what JSON cannot carry unchanged: NaN, an infinity, a whole number
            beyond 2^53, a key that is not text, or a lone surrogate.

    References:
        https://www.rfc-editor.org/rfc/rfc8785
    """
    if value is None or isinstance(value, bool | str):
        return _scalar(value)
    if isinstance(value, int):
        if abs(value) > EXACT and (abs(value) > _LARGEST or _number(float(value)) != str(value)):
            raise ValueError(f"{value} is beyond the whole numbers that JSON keeps exact")
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key must be text")
        # by UTF-16 code units, as the standard sorts
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{_scalar(key)}:{canonical(value[key])}" for key in keys) + "}"
    raise ValueError(f"{type(value).__name__} is not a JSON value")


def digest(text: str) -> str:
    """SHA-256 over a text in UTF-8, as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def digest_of(value: Any) -> str:
    """The digest of a value's canonical text; raises ValueError as `canonical` does."""
    return digest(canonical(value))


def digest_or_none(value: Any) -> str | None:
    """The digest of a value; None where it has no canonical form."""
    try:
        return digest_of(value)
    except (ValueError, RecursionError):
        return None


def _scalar(value: bool | str | None) -> str:
    text = json.dumps(value, ensure_ascii=False)
    text.encode()  # a lone surrogate is not text: UnicodeEncodeError is a ValueError
    return text


def _number(value: float) -> str:
    """As ECMAScript writes it: the shortest digits that read back as the same number."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON value")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, power = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction.rstrip("0")) if fraction != "0" else whole
    point = len(whole) + int(power or 0)
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    digits = stripped.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    exponent = point - 1
    shown = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{shown}e{'+' if exponent > 0 else '-'}{abs(exponent)}"
