"""The division of an SQL script into statements."""

import pytest

from supabase_local.statements import split_statements


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        ("-- nothing but words;", []),
        (";;", []),
        ("select 1", ["select 1"]),
        ("select 1; select 2;", ["select 1", "select 2"]),
        ("select ';'; select 2", ["select ';'", "select 2"]),
        ("select 'it''s;'; select 2", ["select 'it''s;'", "select 2"]),
        (r"select E'a\';b'; select 2", [r"select E'a\';b'", "select 2"]),
        ('select 1 as "a;b"; select 2', ['select 1 as "a;b"', "select 2"]),
        ("do $$ begin; end $$; select 2", ["do $$ begin; end $$", "select 2"]),
        ("do $a$ $$;$$ $a$; select 2", ["do $a$ $$;$$ $a$", "select 2"]),
        ("select a$b; select c$d", ["select a$b", "select c$d"]),
        ("select 1 -- one;\n; select 2", ["select 1 -- one;", "select 2"]),
        ("/* ; /* ; */ ; */ select 1; select 2", ["/* ; /* ; */ ; */ select 1", "select 2"]),
        (
            "create rule r as on insert to t do (a; b); c",
            ["create rule r as on insert to t do (a; b)", "c"],
        ),
        (
            "create function f() begin atomic select case when a then 1 end; end; select 2",
            ["create function f() begin atomic select case when a then 1 end; end", "select 2"],
        ),
        ("begin; select 1; end; select 2", ["begin", "select 1", "end", "select 2"]),
    ],
)
def test_a_semicolon_ends_a_statement_only_where_postgres_thinks_so(
    text: str, statements: list[str]
) -> None:
    """A script is divided at semicolons that end a statement.

    Semicolons in strings or bodies do not count.
    """
    assert split_statements(text) == statements
