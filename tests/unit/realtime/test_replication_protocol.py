"""Postgres' logical replication messages."""

from __future__ import annotations

import struct

from supabase_local.realtime.pgoutput import UNCHANGED, Decoder


def string(text: str) -> bytes:
    return text.encode() + b"\0"


def cells(*values: str | object | None) -> bytes:
    out = struct.pack("!H", len(values))
    for value in values:
        if value is None:
            out += b"n"
        elif value is UNCHANGED:
            out += b"u"
        else:
            data = str(value).encode()
            out += b"t" + struct.pack("!I", len(data)) + data
    return out


BEGIN = b"B" + struct.pack("!QqI", 1, 1_000_000, 5)
RELATION = (
    b"R" + struct.pack("!I", 77) + string("public") + string("jöbs") + b"d"
    + struct.pack("!H", 2) + b"\x01" + string("id") + struct.pack("!Ii", 20, -1)
    + b"\x00" + string("name") + struct.pack("!Ii", 25, -1)
)  # fmt: skip


def test_changes_are_decoded_in_order() -> None:
    """Insert, update with and without an old key, delete."""
    oid = struct.pack("!I", 77)
    messages = [
        BEGIN,
        RELATION,
        b"I" + oid + b"N" + cells("1", "ä"),
        b"U" + oid + b"N" + cells("1", UNCHANGED),
        b"U" + oid + b"K" + cells("1", None) + b"N" + cells("2", None),
        b"D" + oid + b"K" + cells("2", None),
        b"C" + b"\0" * 25,
    ]

    changes = list(Decoder().decode(messages))

    assert [(c.action, c.new, c.old) for c in changes] == [
        ("I", ("1", "ä"), None),
        ("U", ("1", UNCHANGED), None),
        ("U", ("2", None), ("1", None)),
        ("D", None, ("2", None)),
    ]
    assert changes[0].relation.table == "jöbs"
    assert [c.in_identity for c in changes[0].relation.columns] == [True, False]
    assert changes[0].committed_at.isoformat() == "2000-01-01T00:00:01+00:00"


def test_what_is_not_a_row_change_is_skipped() -> None:
    """Types, origins, truncates and messages."""
    skipped = [b"Y" + b"\0" * 8, b"O" + b"\0" * 9, b"T" + b"\0" * 9, b"M" + b"\0" * 20]

    assert list(Decoder().decode(skipped)) == []
