"""The reads that the product's code sends, found in its text, and what Postgres makes of them.

Over-counted: each parameter that a file names, of each table that it names. By PostgREST's grammar
a parameter is a clause of SQL, so no server need have recorded it to hold one to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import httpx

from infra.truth.filters import OPERATORS, Sql
from infra.truth.requests import Wrong
from minutehand.resources import PACKAGE

ROOT: Final = PACKAGE.parents[1]
SOURCES: Final = ("shared/**/*.py", "shared/**/console/**/*.js", "infra/console/**/*.js")
READS: Final = re.compile(r"\bselect\(|/rest/v1/[\w{]|\buseLatest\(")
LITERAL: Final = re.compile(r'"([\w*,()]+)"|/rest/v1/(\w+)|select=(\w[\w,]*)')
#: `("id", f"gt.{after}")`, `?id=in.(…)` in Python; `.gt("id", after)`, `}.ilike.*` in JavaScript
FILTER: Final = re.compile(
    r'\((?:"([\w>-]+)"|\w+), f"([a-z]+)\.|[?&](\w+)=([a-z]+)\.'
    r'|\.(?:(n?eq|[gl]te?|i?like|is|in|contains|overlaps)\("([\w>-]+)")|\}\.([a-z]+)\.(?=[$*])'
)
#: `("order", "id.desc")` in Python, `.order("id", { ascending: false })`, `useLatest(…, "id")`.
ORDER: Final = re.compile(
    r'"order", "(\w+)(?:\.(\w+))?"|\.order\("(\w+)"(?:, \{ ascending: (false|true) \})?'
    r'|(useLatest)\("\w+", [\w.]+, "(\w+)"'
)
EMBED: Final = re.compile(r"(\w+)s\(([\w,]+)\)")
EMBEDDED: Final = r"(select to_json(e) from (select \2 from \1s a where a.id = \1_id) e) as \1s"
COLUMNS: Final = """
select table_name as table,
  json_object_agg(column_name, data_type order by ordinal_position) as types
from information_schema.columns where table_schema = 'public' group by 1
"""


class Read(NamedTuple):
    """A request to a table, and the query that it is by PostgREST's grammar."""

    table: str
    params: tuple[tuple[str, str], ...]
    query: str


def wrong_reads(client: httpx.Client, sql: Sql) -> Iterator[Wrong]:
    """Compare every read with the tables' rows; the arguments are those of `wrong_answers`."""
    for table, params, query in sorted(reads(sql)):
        [row] = sql(f"select coalesce(json_agg(one), '[]') as rows from ({query}) as one")
        given = client.get(f"/{table}", params=params).json()
        if given != row["rows"]:
            yield Wrong(f"{table}?{httpx.QueryParams(params)}", row["rows"], given)


def reads(sql: Sql) -> set[Read]:
    """List what the code reads of the tables that are there."""
    types = {row["table"]: row["types"] for row in sql(COLUMNS)}
    found: set[Read] = set()
    for text in texts():
        words = {"".join(word) for word in LITERAL.findall(text)}
        for table in words & types.keys():
            found |= {*_of_table(table, types[table], text, words, sql)}
    return found


def texts() -> list[str]:
    """The files of the product that ask the Data API."""
    paths = {path for one in SOURCES for path in ROOT.glob(one)}
    return [text for path in paths if READS.search(text := path.read_text("utf-8"))]


def _of_table(
    table: str, types: dict[str, str], text: str, words: set[str], sql: Sql
) -> Iterator[Read]:
    key, last = ["id", "id"] if "id" in types else [*types][:2]

    def value_of(field: str) -> str:
        nothing = "00000000-0000-4000-8000-000000000000" if types.get(field) == "uuid" else "0"
        return str(sql(f"select min(({field})::text) as value from {table}")[0]["value"] or nothing)

    def read(where: str, select: str, columns: str, order: str, *params: tuple[str, str]) -> Read:
        page = (("select", select), ("order", order.replace(" ", ".")), ("limit", "99"))
        query = f"select {columns} from {table} where {where} order by {order} limit 99"
        return Read(table, (*params, *page), query.replace("%", "%%"))

    for a, b, c, d, e, f, g in FILTER.findall(text):
        # a field that is a variable may be any text
        named = [a + c + f] if a + c + f else [name for name in types if types[name] == "text"]
        for field, operator in ((one, b + d + e + g) for one in named):
            column, _, path = field.partition("->>")
            if column in types:
                left = f"{column}->>'{path}'" if path else column
                value = value_of(left)
                written, meant = value, f"{OPERATORS.get(operator)} '{value}'"
                if operator == "in":
                    written, meant = f"({value})", f"in ('{value}')"
                elif operator == "ilike":
                    written, meant = f"*{value[1:4]}*", f"ilike '%{value[1:4]}%'"
                yield read(f"{left} {meant}", key, key, key, (field, f"{operator}.{written}"))
    for a, way, c, ascending, latest, e in ORDER.findall(text):
        if (column := a + c + e) in types:
            way = way or ("desc" if latest or ascending == "false" else "asc")
            yield read("true", column, column, f"{column} {way}")
    value = value_of(key)
    for word in words:
        chosen = {*EMBED.sub(r"\1_id", word).split(",")}
        if chosen - {"*"} <= types.keys():
            columns = EMBED.sub(EMBEDDED, word)
            yield read(f"{key} = '{value}'", word, columns, last, (key, f"eq.{value}"))
