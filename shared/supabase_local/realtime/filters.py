"""Parses a `postgres_changes` subscription of a join: its event, table and filters."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from supabase_local.realtime.serializer import dump

OPERATORS = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "in": "= any"}
#: Pattern of commas outside of parentheses.
_BETWEEN = re.compile(r",(?![^(]*\))")


class InvalidEntry(ValueError):
    """The subscription is not valid. Realtime sends the message of the error to the client."""


@dataclass(frozen=True)
class Filter:
    """A comparison with a column. A row change must match all filters of its subscription."""

    column: str
    op: str
    value: str

    def statement(self, type_: str) -> bytes:
        """SQL that compares a value of the column with the value of the filter.

        Both are strings.
        """
        other = f"{type_}[]" if self.op == "in" else type_
        return f"select (%s::text)::{type_} {OPERATORS[self.op]} ((%s::text)::{other})".encode()


@dataclass(frozen=True)
class Entry:
    """A subscription of a join. `schema` and `table` may be `*`."""

    event: str
    schema: str
    table: str
    filters: tuple[Filter, ...]


def change_id(entry: dict[str, Any]) -> int:
    """Return a number of 27 bits, which is not 0, computed from the subscription's content."""
    digest = hashlib.sha256(dump(sorted(entry.items())).encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**27 - 1) + 1


def parse_entry(params: dict[str, Any]) -> Entry:
    """Parse a subscription.

    Raises InvalidEntry if the subscription has no table or a filter is not valid.
    """
    schema, table = params.get("schema"), params.get("table")
    if not isinstance(schema or table, str):
        raise InvalidEntry(
            "No subscription params provided."
            " Please provide at least a `schema` or `table` to subscribe to"
        )
    event = str(params.get("event", "*")).upper()
    parts = _BETWEEN.split(str(params.get("filter") or ""))
    return Entry(
        event if event in ("INSERT", "UPDATE", "DELETE") else "*",
        schema or "public",
        table or "*",
        tuple(_parse_filter(part.strip()) for part in parts if part.strip()),
    )


def _parse_filter(segment: str) -> Filter:
    column, _, rest = segment.partition("=")
    op, dot, value = rest.partition(".")
    if not dot or op not in OPERATORS:
        raise InvalidEntry(f"Error parsing `filter` params: {segment!r}")
    if op == "in":
        if not (value.startswith("(") and value.endswith(")")):
            raise InvalidEntry(
                "Error parsing `filter` params: `in` filter value must be wrapped by parentheses"
            )
        value = "{" + value[1:-1] + "}"
    return Filter(column, op, value)
