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
    inspect,
    parse_entry,
    parse_filters,
)
from supabase_local.realtime.join import change_id, parse_join


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


def test_defaults_of_an_entry() -> None:
    """Schema only means all its tables, table only means public."""
    assert str(parse_entry({"schema": "app"})) == (
        "event: *, schema: app, table: *, filters: [], select: nil"
    )
    assert str(parse_entry({"table": "m", "event": "insert", "filter": None})) == (
        "event: INSERT, schema: public, table: m, filters: [], select: nil"
    )
    chosen = {"table": "m", "event": "truncate", "select": ["a", 1]}
    assert str(parse_entry(chosen)) == (
        'event: *, schema: public, table: m, filters: [], select: ["a"]'
    )


@given(st.text(max_size=60))
def test_any_filter_text_is_read_or_refused(text: str) -> None:
    """Never another error: it comes from a client."""
    try:
        parse_filters(text)
    except InvalidEntry:
        return


def test_values_print_as_hosted_prints_them() -> None:
    """Messages are compared by people who search for them."""
    assert inspect([("a", None, True, {"k": [1]})]) == '[{"a", nil, true, %{"k" => [1]}}]'


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(), max_size=4))
def test_an_entrys_id_depends_on_its_content_alone(entry: dict[str, Any]) -> None:
    """It must survive a rejoin, and zero means nothing to a client."""
    number = change_id(entry)

    assert 0 < number < 2**27
    assert number == change_id(dict(reversed(entry.items())))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["config", "broadcast", "presence", "postgres_changes", "private", "replay", "key",
                 "enabled", "since", "limit", "ack", "self", "access_token"]
            ),
            inner,
            max_size=5,
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_join_payload_is_read(payload: Any) -> None:
    """Bad values become defaults."""
    request = parse_join(payload)

    assert isinstance(request.private, bool)
