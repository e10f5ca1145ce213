"""What is wrong with a field, in words for its sender; the values themselves stay unsaid.

Which exception becomes which answer is left to `minutehand.web.handlers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: By pydantic's stable types; its own messages speak of Python's tuples, dictionaries and inputs.
_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "string_type": "must be text",
    "string_unicode": "must be UTF-8 text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "none_required": "must be null",
    "dict_type": "must be an object",
    "mapping_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dataclass_type": "must be an object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "iterable_type": "must be a list",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "uuid_type": "must be an id: 32 hexadecimal digits, as a UUID has them",
    "uuid_parsing": "must be an id: 32 hexadecimal digits, as a UUID has them",
    "timezone_aware": "must name its zone, as in 2026-11-20T12:00:00Z",
    "url_type": "must be a URL",
    "url_parsing": "must be a URL",
    "url_scheme": "must be a URL that begins with {expected_schemes}",
    "url_too_long": "must be a URL of at most {max_length} characters",
    "json_type": "must be JSON text",
    "json_invalid": "is not valid JSON",
}
_INSTANT = "must be an ISO 8601 instant with a zone, as 2026-11-20T12:00:00Z"


def problem_of(found: Mapping[str, Any]) -> str:
    """Pydantic's finding in plain words; our own validators' messages unchanged."""
    kind = str(found.get("type", ""))
    if kind in {"value_error", "assertion_error"}:
        said = str(found.get("msg", "is not valid"))
        return said.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind.startswith("datetime_"):
        return _INSTANT
    words = _WORDS.get(kind, "is not valid")
    try:
        told = words.format(**found.get("ctx") or {})
    except KeyError:
        return "is not valid"
    # one of anything is written without the plural
    return told.removesuffix("s") if " 1 " in told else told
