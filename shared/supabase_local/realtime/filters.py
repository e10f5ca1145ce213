"""Reads one `postgres_changes` entry of a join: event, table, filters and selected columns.

The grammar and every message follow supabase/realtime (Apache-2.0), which clients were written for.
"""

from __future__ import annotations

import dataclasses
from typing import Any

OPERATORS = (
    "eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is", "match", "imatch",
    "isdistinct",
)  # fmt: skip
_NO_PARAMS = (
    "No subscription params provided."
    " Please provide at least a `schema` or `table` to subscribe to:"
)
_SELECT_LIST = (
    "Error parsing `select` params: expected a list of column name strings,"
    ' e.g. select: ["col1", "col2"]'
)
_SELECT_WILDCARD = (
    "Column selection is not supported for wildcard subscriptions."
    " Provide an explicit schema and table name."
)


class InvalidEntry(ValueError):
    """The entry cannot be subscribed to; the text goes to the client."""


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """One comparison; all of an entry's filters must hold."""

    column: str
    op: str
    value: str
    negate: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One subscription. `schema` and `table` may be `*`."""

    event: str
    schema: str
    table: str
    filters: tuple[Filter, ...]
    select: tuple[str, ...] | None

    def __str__(self) -> str:
        filters = [(f.column, f.op, f.value, f.negate) for f in self.filters]
        return (
            f"event: {self.event}, schema: {self.schema}, table: {self.table},"
            f" filters: {inspect(filters)}, select: {inspect(self.select and list(self.select))}"
        )


def parse_entry(params: dict[str, Any]) -> Entry:
    """Read one entry.

    Raises:
        InvalidEntry: With the message hosted Supabase sends.
    """
    select = _parse_select(params.get("select"))
    known = {k: v for k, v in params.items() if v is not None}
    schema, table, text = known.get("schema"), known.get("table"), known.get("filter")
    usable = all(isinstance(v, str) for v in (schema, table, text) if v is not None)
    if not usable or (schema is None and table is None):
        secret = "user_token" in params or "auth_token" in params
        raise InvalidEntry(f"{_NO_PARAMS} {'<redacted>' if secret else inspect(params)}")
    filters: tuple[Filter, ...] = ()
    if text is not None:
        try:
            filters = parse_filters(text)
        except InvalidEntry as error:
            raise InvalidEntry(f"Error parsing `filter` params: {error}") from error
    entry = Entry(
        _event(params.get("event")),
        schema if schema is not None else "public",
        table if table is not None else "*",
        filters,
        select,
    )
    if select is not None and "*" in (entry.schema, entry.table):
        raise InvalidEntry(_SELECT_WILDCARD)
    return entry


def _event(value: Any) -> str:
    name = value.upper() if isinstance(value, str) else "*"
    return name if name in ("INSERT", "UPDATE", "DELETE") else "*"


def _parse_select(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        raise InvalidEntry(_SELECT_LIST)
    if not isinstance(value, list):
        return None
    return tuple(column for column in value if isinstance(column, str)) or None


def parse_filters(text: str) -> tuple[Filter, ...]:
    """Read comma-separated filters; blank text is none.

    Raises:
        InvalidEntry: A part is not a filter.
    """
    if not text.strip():
        return ()
    return tuple(_parse_filter(part) for part in _split(text.strip()))


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses and double quotes."""
    parts, current, depth, quoted, before = [], "", 0, False, ""
    at = 0
    while at < len(text):
        char = text[at]
        if quoted and char == "\\" and at + 1 < len(text):
            current += text[at : at + 2]
            before = text[at + 1]
            at += 2
            continue
        if char == '"' and (quoted or before in (".", "(", ",")):
            quoted = not quoted
        elif not quoted and char == "(":
            depth += 1
        elif not quoted and char == ")":
            depth = max(0, depth - 1)
        elif not quoted and depth == 0 and char == ",":
            parts.append(current)
            current, before = "", ""
            at += 1
            continue
        current += char
        before = char
        at += 1
    return [*parts, current]


def _parse_filter(segment: str) -> Filter:
    segment = segment.strip()
    if not segment:
        raise InvalidEntry("filter must not contain empty segments (check for extra commas)")
    column, equals, rest = segment.partition("=")
    if not equals:
        raise InvalidEntry(inspect([segment]))
    negate = rest.startswith("not.")
    rest = rest.removeprefix("not.")
    op, dot, value = rest.partition(".")
    if not dot:
        raise InvalidEntry(inspect([rest]))
    if op not in OPERATORS:
        raise InvalidEntry(inspect([op, value]))
    if op == "in":
        if not (len(value) >= 2 and value[0] == "(" and value[-1] == ")"):
            raise InvalidEntry("`in` filter value must be wrapped by parentheses")
        return Filter(column, op, "{" + value[1:-1] + "}", negate)
    return Filter(column, op, _unquote(value), negate)


def _unquote(value: str) -> str:
    if not value.startswith('"'):
        return value
    inner, at = "", 1
    while at < len(value):
        if value[at] == '"':
            return inner if at == len(value) - 1 else value
        if value[at] == "\\" and at + 1 < len(value):
            at += 1
        inner += value[at]
        at += 1
    return value


def inspect(value: Any) -> str:
    """A value as hosted's messages print it (Elixir's notation)."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        items = ", ".join(f"{inspect(k)} => {inspect(v)}" for k, v in sorted(value.items()))
        return "%{" + items + "}"
    if isinstance(value, tuple):
        return "{" + ", ".join(inspect(v) for v in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inspect(v) for v in value) + "]"
    return str(value)
