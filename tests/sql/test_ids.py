"""Ids are version 7 UUIDs that rise with time, one by one and by the batch."""

from __future__ import annotations

import time
import uuid

import pytest

from tests.support.engine import Engine


@pytest.mark.parametrize(
    "statement",
    [
        "select queue.new_id() from generate_series(1, 500)",
        "select unnest(queue.new_ids(4096))",
    ],
    ids=["one by one", "a batch"],
)
def test_ids_rise_and_carry_their_time(engine: Engine, statement: str) -> None:
    """RFC 9562: milliseconds, version 7, variant 10; what is made later sorts later."""
    before = time.time_ns() // 1_000_000 - 1
    made = [uuid.UUID(str(row)) for row in engine.rows(statement)]
    after = time.time_ns() // 1_000_000 + 1

    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    assert all(before <= each.int >> 80 <= after for each in made)
    assert len(set(made)) == len(made)
    assert {each.int & 0xFF for each in made} == {0}  # reserved for the number of a cell
    # two calls within the same quarter of a microsecond fall by chance; so fast is no call
    assert [each.int >> 64 for each in made] == sorted(each.int >> 64 for each in made)
