"""Idempotency keys and page cursors: what callers hand back is checked like any input."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.web import paging
from minutehand.web.errors import ApiError
from minutehand.web.idempotency import key_of_part, parse_key


@pytest.mark.parametrize("header", ["", '""', " ", "x" * 256, "tab\there", "schlüssel", "nul\x00"])
def test_an_unusable_key_is_refused_and_not_ignored(header: str) -> None:
    """Ignoring it would enqueue twice."""
    with pytest.raises(ApiError) as refused:
        parse_key(header)

    assert refused.value.status_code == 400
    [problem] = refused.value.info
    assert (problem["field"], problem["location"]) == ("Idempotency-Key", "header")


def test_each_job_of_a_bulk_request_gets_a_key_of_its_own() -> None:
    """Repeating the request finds each of its jobs again."""
    assert [key_of_part("k", index) for index in range(3)] == ["k#0", "k#1", "k#2"]
    assert key_of_part(None, 0) is None


@given(st.text(), st.integers(min_value=-(2**53), max_value=2**53), st.uuids())
def test_a_cursor_gives_back_what_it_was_made_of(text: str, number: int, identity: UUID) -> None:
    """Whatever the values, the cursor survives a URL."""
    cursor = paging.encode(text, number, str(identity))

    assert all(sign.isalnum() or sign in "-_" for sign in cursor)
    assert paging.decode(cursor, str, int, UUID) == (text, number, str(identity))


@given(st.text(max_size=40))
def test_a_cursor_that_is_none_is_a_400(cursor: str) -> None:
    """Never a 500, and never a query with rubbish in it."""
    with pytest.raises(ApiError) as refused:
        paging.decode(cursor, datetime, UUID)

    assert refused.value.status_code == 400
