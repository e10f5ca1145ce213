"""Decodes messages of Postgres's logical replication, in protocol version 1.

References:
    https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

import datetime
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


class Unchanged:
    """Placeholder for a large value that did not change, and that Postgres does not send."""


UNCHANGED = Unchanged()
Value = str | None | Unchanged


@dataclass(frozen=True)
class Column:
    """A column of a table in the description that Postgres sends."""

    name: str
    in_identity: bool


@dataclass(frozen=True)
class Relation:
    """A table.

    Postgres describes a table before its first change, and after changes of its definition.
    """

    oid: int
    schema: str
    table: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Change:
    """A change of one row in a committed transaction."""

    action: Literal["I", "U", "D"]
    relation: Relation
    committed_at: datetime.datetime
    #: Id of the transaction with 32 bits.
    transaction_id: int
    new: tuple[Value, ...] | None
    old: tuple[Value, ...] | None

    def row(self) -> dict[str, Value]:
        """The values of the new row by column."""
        names = (column.name for column in self.relation.columns)
        return dict(zip(names, self.new or (), strict=bool(self.new)))


class Decoder:
    """Decoder of one replication stream, with the stream's tables and current transaction."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._committed_at = _EPOCH
        self._transaction_id = 0

    def decode(self, messages: Iterable[bytes]) -> Iterator[Change]:
        """Yield the row changes in `messages`, in the order of commits."""
        for data in messages:
            kind = data[:1]
            if kind in (b"I", b"U", b"D"):
                yield self._change(data)
            elif kind == b"B":
                micros = int.from_bytes(data[9:17], "big", signed=True)
                self._committed_at = _EPOCH + datetime.timedelta(microseconds=micros)
                self._transaction_id = int.from_bytes(data[17:21], "big")
            elif kind == b"R":
                relation = _relation(data)
                self._relations[relation.oid] = relation

    def _change(self, data: bytes) -> Change:
        """Decode a row's change: the table, the old row (K or O) if there is one, the new (N)."""
        action: Any = data[:1].decode()
        relation = self._relations[int.from_bytes(data[1:5], "big")]
        new = old = None
        at = 5
        if data[at] in b"KO":
            old, at = _tuple(data, at + 1)
        if action != "D":
            new, _ = _tuple(data, at + 1)
        return Change(action, relation, self._committed_at, self._transaction_id, new, old)


def _tuple(data: bytes, at: int) -> tuple[tuple[Value, ...], int]:
    count = int.from_bytes(data[at : at + 2], "big")
    at += 2
    values: list[Value] = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == 0x74:  # t
            size = int.from_bytes(data[at : at + 4], "big")
            at += 4
            values.append(data[at : at + size].decode())
            at += size
        else:
            values.append(UNCHANGED if kind == 0x75 else None)
    return tuple(values), at


def _relation(data: bytes) -> Relation:
    (oid,) = struct.unpack_from("!I", data, 1)
    schema, at = _string(data, 5)
    table, at = _string(data, at)
    (count,) = struct.unpack_from("!H", data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        flags = data[at]
        name, at = _string(data, at + 1)
        at += 8  # skip the type and the type modifier
        columns.append(Column(name, bool(flags & 1)))
    return Relation(oid, schema or "pg_catalog", table, tuple(columns))


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1
