"""What a prompt says of a payload: its shape, and no value."""

from __future__ import annotations

import json
from typing import Any

from minutehand.functions.status.prompt import MOST_FIELDS, shape


def test_a_shape_has_names_and_types_alone() -> None:
    """A list's kinds once each, what is deep or wide in short, and no key that is a secret."""
    given = {
        "customer": {"name": "Ada Lovelace", "age": 36, "ratio": 0.5, "vip": True, "notes": None},
        "rows": [{"n": 1}, {"n": 2}, {"n": "three"}],
        "by": {"Bearer abcdefgh12345678": 1},
    }

    assert shape(given) == {
        "customer": {
            "name": "string", "age": "integer", "ratio": "number", "vip": "boolean",
            "notes": "null",
        },
        "rows": [{"n": "integer"}, {"n": "string"}],
        "by": {"Bearer [hidden]": "integer"},
    }  # fmt: skip


def test_a_shape_stays_short() -> None:
    """A payload of 256 kB fills no window."""
    deep: Any = "end"
    for _ in range(200):
        deep = {"next": deep}
    wide = {f"field {n}": "x" for n in range(5_000)}

    told = shape({"deep": deep, "wide": wide})

    assert told["wide"]["…"] == "5000 fields"
    assert len(told["wide"]) == MOST_FIELDS + 1
    assert len(json.dumps(told)) < 2_000
