"""The grammar of Postgres Changes filters, by the examples of hosted Realtime's own page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supabase_local.realtime.filters import (
    Filter,
    InvalidEntry,
    parse_entry,
    parse_filters,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("subject=eq.hey", [("subject", "eq", "hey", False)]),
        ("subject=in.(hidee,ho)", [("subject", "in", "{hidee,ho}", False)]),
        ("subject=not.like.hey%", [("subject", "like", "hey%", True)]),
        ("id=gt.0,id=lt.100", [("id", "gt", "0", False), ("id", "lt", "100", False)]),
        ('a=eq."x,y",b=in.(1,2)', [("a", "eq", "x,y", False), ("b", "in", "{1,2}", False)]),
        (r'a=eq."say \"hi\", you"', [("a", "eq", 'say "hi", you', False)]),
        ('a=in.("x,y",z)', [("a", "in", '{"x,y",z}', False)]),
        ("a=eq.1.5", [("a", "eq", "1.5", False)]),
        ("a=eq.b=c", [("a", "eq", "b=c", False)]),
        ("a=eq.", [("a", "eq", "", False)]),
        ('a=eq."x', [("a", "eq", '"x', False)]),
        ('a=eq."x"y', [("a", "eq", '"x"y', False)]),
        ("a=eq.1) , b=not.in.(2)", [("a", "eq", "1)", False), ("b", "in", "{2}", True)]),
        ("  ", []),
    ],
)
def test_filters_are_read(text: str, expected: list[tuple[Any, ...]]) -> None:
    """Commas inside parentheses or quotes do not split."""
    assert list(parse_filters(text)) == [Filter(*parts) for parts in expected]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"table": "m", "filter": "subject=foo.hey"}, '["foo", "hey"]'),
        ({"table": "m", "filter": "a=eq.1,,b=eq.2"}, "empty segments"),
        ({"table": "m", "filter": "a"}, '["a"]'),
        ({"table": "m", "filter": "a=eq"}, '["eq"]'),
        ({"table": "m", "filter": "a=in.(1"}, "must be wrapped by parentheses"),
        ({"schema": "app", "select": ["a"]}, "not supported for wildcard"),
        ({"table": 7}, '%{"table" => 7}'),
        ({"table": "m", "select": "a"}, "expected a list of column name strings"),
        ({"user_token": "secret"}, "<redacted>"),
    ],
)
def test_an_entry_without_meaning_says_why(params: dict[str, Any], message: str) -> None:
    """The texts reach the developer in a system frame."""
    with pytest.raises(InvalidEntry, match=re.escape(message)) as refused:
        parse_entry(params)

    assert "secret" not in str(refused.value)


@given(st.text(max_size=60))
def test_any_filter_text_is_read_or_refused(text: str) -> None:
    """Never another error: it comes from a client."""
    try:
        parse_filters(text)
    except InvalidEntry:
        return
