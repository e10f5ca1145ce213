"""Conversion of a processor's values to JSON of bounded size.

The functions catch every error that an object of a user's class raises.
"""

import math
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError, from_json, to_json

#: Maximum bytes of a result, step or error as JSON.
MAX_BYTES = 1_000_000
#: Maximum depth of nested values. JSON parsers reject values that are nested about twice as deep.
MAX_LEVELS = 100
#: Maximum characters of a log message or progress message, and maximum bytes of a log row's
#: metadata.
MAX_TEXT = 4_000
MAX_METADATA = 4_000
#: Maximum number of keys in the path to a rejected part of a value, and of the parts of a list or
#: mapping that are checked for this path.
_MAX_PATH = 20
_MAX_PARTS = 1_000
#: What a message adds if `is_unawaited`.
UNAWAITED = "; a call was not awaited"
_ADVICE = "store it elsewhere and keep a reference"
_REPLACEMENT = "\ufffd"
_NULS = "NUL characters were replaced"
_SURROGATES = "broken surrogates were replaced"
#: Invisible characters that Unicode classifies as letters or symbols.
_UNSEEN = frozenset("\u115f\u1160\u2800\u3164\uffa0")
#: Formats containers for people, with a maximum depth and length.
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxlist = _REPR.maxdict = 20
_REPR.maxstring = _REPR.maxother = 500
_CONTAINERS = (dict, list, tuple, set, frozenset)
_LEAVES = frozenset({int, float, bool, type(None)})


class Sanitized(NamedTuple):
    """The JSON-safe value (None if rejected), the changes to it, and the reason for a rejection."""

    value: Any
    changed: str | None = None
    refused: str | None = None


_NOTHING = Sanitized(None)


def sanitize(value: Any, *, max_bytes: int = MAX_BYTES) -> Sanitized:
    """Convert `value` to bounded, JSON-safe data. Never raises.

    The function rejects values that JSON cannot express, such as NaN, values larger than
    `max_bytes`, and values nested deeper than `MAX_LEVELS`. In a pydantic model, the model's
    setting `ser_json_inf_nan` decides about NaN. The function replaces NUL characters and lone
    surrogates, because Postgres does not accept them.
    """
    if value is None:
        return _NOTHING
    try:
        return _plain(value, max_bytes)
    except BaseException as error:  # methods of a user's class may raise anything
        reason = text(error, 500) or type(error).__name__
        reason += UNAWAITED if is_unawaited(error) else ""
        with suppress(BaseException):
            reason += _path(value, max_bytes)
        return Sanitized(None, refused=reason)


def _path(value: Any, max_bytes: int) -> str:
    """Return the path to the innermost part of a rejected value that would itself be rejected."""
    path: list[str] = []
    while len(path) < _MAX_PATH:
        for key, part in islice(_named_parts(value), _MAX_PARTS):
            try:
                _plain(part, max_bytes)
            except BaseException:
                path.append(f"[{_REPR.repr(key)}]")
                value = part
                break
        else:
            break
    return f" (at {clean_text(''.join(path))})" if path else ""


def _named_parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, list | tuple):
        return enumerate(value)
    if hasattr(type(value), "model_fields") or hasattr(type(value), "__dataclass_fields__"):
        value = getattr(value, "__dict__", {})
    return value.items() if isinstance(value, dict) else ()


def text(value: object, limit: int = MAX_TEXT, by: Callable[[object], str] = str) -> str:
    """Convert `value` to clean text of up to `limit` characters. Never raises."""
    try:
        if isinstance(value, BaseException) and type(value).__str__ is BaseException.__str__:
            [value] = value.args if len(value.args) == 1 else [value]
        by = _REPR.repr if isinstance(value, _CONTAINERS) else by
        string = value if type(value) is str else by(value)
    except BaseException:  # methods of a user's class may raise anything
        string = f"<{type(value).__name__} without a text>"
    return clean_text(string if len(string) <= limit else string[: limit - 1] + "…")


def is_unawaited(error: BaseException) -> bool:
    """Return whether code used a coroutine as if it were the result of the call."""
    is_misuse = isinstance(error, TypeError | AttributeError | PydanticSerializationError)
    pattern = r"'coroutine'(?! object is not callable)|type coroutine"
    return is_misuse and re.search(pattern, text(error)) is not None


def is_blank(value: str) -> bool:
    """Return whether a string has no visible characters."""
    return not _has_of(value, "LNSPM")


def has_text(value: str) -> bool:
    """Return whether a string has a letter, a digit or a symbol, and not only punctuation."""
    return _has_of(value, "LNS")


def _has_of(value: str, kinds: str) -> bool:
    return any(unicodedata.category(sign)[0] in kinds and sign not in _UNSEEN for sign in value)


def log_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the metadata of a log line to small JSON-safe data. Never raises.

    A value that is not JSON, or that is too long, is replaced by a shortened string.
    """
    sanitized = sanitize(metadata, max_bytes=MAX_METADATA)
    if sanitized.refused is None:
        return dict(sanitized.value)
    result: dict[str, Any] = {}
    left = MAX_METADATA
    for key, value in metadata.items():
        if left < 100:
            result["…"] = f"{len(metadata) - len(result)} more were left out"
            break
        name = text(key, 100)
        sanitized = sanitize(value, max_bytes=left)
        result[name] = sanitized.value
        if sanitized.refused is not None:
            result[name] = text(value, left // 2, repr)
            if len(to_json(result[name])) > left:
                result[name] = text(value, left // 8, repr)  # JSON may need six bytes for one
        left -= len(to_json({name: result[name]}))
    return result


def clean_text(text: str) -> str:
    """Replace NUL characters and lone surrogates in `text`, and join surrogate pairs."""
    text = text.replace("\x00", _REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class TextCleaner:
    """Cleans text that arrives in chunks. Half of a surrogate pair waits for the next chunk."""

    #: Description of the characters that were replaced, or None.
    replaced: str | None = None
    _pending = ""

    def add(self, chunk: str) -> str:
        """Return the clean text of a chunk, without half of a surrogate pair at the chunk's end."""
        text = self._pending + chunk
        self._pending = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return self._clean(text[:-1] if self._pending else text)

    def end(self) -> str:
        """Return a replacement if half of a surrogate pair is left, otherwise an empty string."""
        pending, self._pending = self._pending, ""
        return self._clean(pending)

    def _clean(self, text: str) -> str:
        cleaned = clean_text(text)
        # two halves that are joined to a surrogate pair do not count as a replacement
        if cleaned != text and cleaned.count(_REPLACEMENT) > text.count(_REPLACEMENT):
            self.replaced = _NULS if "\x00" in text else _SURROGATES
        return cleaned


def _reject_unbounded(value: Any, max_bytes: int) -> None:
    """Reject iterators and too large containers, because their serialization may not end."""
    left, size = [([value], 0)], 0
    while left:
        parts, level = left.pop()
        size += len(parts)
        for part in parts:
            if type(part) is str:
                size += len(part)
            elif type(part) not in _LEAVES:
                left.append((_parts_of(part), level + 1))
        if size > max_bytes or level > MAX_LEVELS:
            raise ValueError(
                f"value of more than {max_bytes} bytes or {MAX_LEVELS} levels; {_ADVICE}"
            )


def _parts_of(value: Any) -> list[Any]:
    """Return the items of a container, or the iterators in a model."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, _CONTAINERS):
        return list(value)
    if isinstance(value, Iterator):
        raise ValueError("an iterator may have no end; use a list")
    attributes = getattr(value, "__dict__", {}).values()
    return [item for item in attributes if isinstance(item, Iterator)]


def _plain(value: Any, max_bytes: int) -> Sanitized:
    _reject_unbounded(value, max_bytes)
    changed = None
    try:
        raw = to_json(value, inf_nan_mode="constants", by_alias=True)
    except ValueError as error:
        if "surrogates not allowed" not in str(error):
            raise
        raw = to_json(_clean(value), inf_nan_mode="constants", by_alias=True)
        changed = _SURROGATES
    if len(raw) > max_bytes:
        raise ValueError(f"value of {len(raw)} bytes is larger than {max_bytes}; {_ADVICE}")
    if raw.count(b"[") + raw.count(b"{") > MAX_LEVELS:
        # the parser rejects more than 200 levels, so a value inside 100 lists has at most 100
        # levels
        from_json(b"[" * MAX_LEVELS + raw + b"]" * MAX_LEVELS)
    read = from_json(raw)
    if b"NaN" in raw or b"Infinity" in raw:
        _reject_not_finite(read)
    if b"\\u0000" in raw and (clean := _clean(read)) != read:
        read, changed = clean, _NULS
    return Sanitized(read, changed)


def _reject_not_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a value is {value}, which JSON cannot express; use None or a string")
    for _, part in _named_parts(value):
        _reject_not_finite(part)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if hasattr(value, "model_dump"):
        return _clean(value.model_dump(by_alias=True))
    return value
