"""Restrictions that a hosted project's Data API sets for the text of SQL functions."""

import re
from collections.abc import Iterator

from tests.support.engine import Engine

FUNCTIONS = """
select n.nspname || '.' || p.proname, p.prosrc
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
where n.nspname in ('public', 'queue')
"""
COMMENT_OR_TEXT = re.compile(r"--[^\n]*|'(?:[^']|'')*'")
CHANGE = re.compile(r"(?<!for )(?<!do )(?<!on )\b(?:update|delete\s+from)\s+(?!of |skip |nowait)")
REPEATED = re.compile(
    r"raise\b[^;]*(?:40001|40P01|serialization_failure|deadlock_detected)", re.IGNORECASE
)


def unconditional(source: str) -> Iterator[str]:
    """Return the UPDATE and DELETE statements without WHERE in a function's text."""
    text = re.sub(r"\s+", " ", COMMENT_OR_TEXT.sub("''", source).lower())
    for found in CHANGE.finditer(text):
        depth, end = 0, found.end()
        while end < len(text) and text[end] != ";" and depth >= 0:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        if " where " not in text[found.start() : end]:
            yield text[found.start() : end]


def test_every_change_has_a_condition(engine: Engine) -> None:
    """No function contains an UPDATE or DELETE without a condition.

    Hosted projects load the extension safeupdate, which rejects such statements.
    """
    sources = engine.connection.execute(FUNCTIONS).fetchall()
    found = {name: [*unconditional(source)] for name, source in sources}

    assert len(found) > 200
    assert {name: changes for name, changes in found.items() if changes} == {}
    assert [
        *unconditional("update a set b = 1; delete from a where c; update d set e = 'where '")
    ] == ["update a set b = 1", "update d set e = ''"]


def test_no_function_raises_what_postgrest_repeats(engine: Engine) -> None:
    """No function raises a serialization failure or a deadlock.

    PostgREST 14 would repeat the call forever and never respond.
    """
    sources = engine.connection.execute(FUNCTIONS).fetchall()

    assert [name for name, source in sources if REPEATED.search(source)] == []
