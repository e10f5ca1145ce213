"""Comparison of the product's reads with the rows that Postgres returns.

The reads are found in the source code, each parameter of a file with each table of the file, which
are too many. In PostgREST's grammar a parameter is a clause of SQL, so no recorded response of a
server is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import httpx

from infra.truth.filters import OPERATORS, Sql
from infra.truth.requests import Difference
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
    """A request to a table, and its query by PostgREST's grammar."""

    table: str
    params: tuple[tuple[str, str], ...]
    query: str


def compare_reads(client: httpx.Client, sql: Sql) -> Iterator[Difference]:
    """Compare all reads with the tables' rows; the arguments are those of `compare_filters`."""
    for table, params, query in sorted(reads(sql)):
        [row] = sql(f"select coalesce(json_agg(one), '[]') as rows from ({query}) as one")
        actual = client.get(f"/{table}", params=params).json()
        if actual != row["rows"]:
            yield Difference(f"{table}?{httpx.QueryParams(params)}", row["rows"], actual)


def reads(sql: Sql) -> set[Read]:
    """List the reads in the code from existing tables."""
    types = {row["table"]: row["types"] for row in sql(COLUMNS)}
    result: set[Read] = set()
    for text in texts():
        words = {"".join(word) for word in LITERAL.findall(text)}
        for table in words & types.keys():
            result |= {*_reads_of_table(table, types[table], text, words, sql)}
    return result


def texts() -> list[str]:
    """Return the texts of the product's files that use the Data API."""
    paths = {path for pattern in SOURCES for path in ROOT.glob(pattern)}
    return [text for path in paths if READS.search(text := path.read_text("utf-8"))]


def _reads_of_table(
    table: str, types: dict[str, str], text: str, words: set[str], sql: Sql
) -> Iterator[Read]:
    key, last = ["id", "id"] if "id" in types else [*types][:2]

    def value_of(field: str) -> str:
        default = "00000000-0000-4000-8000-000000000000" if types.get(field) == "uuid" else "0"
        return str(sql(f"select min(({field})::text) as value from {table}")[0]["value"] or default)

    def read(where: str, select: str, columns: str, order: str, *params: tuple[str, str]) -> Read:
        page = (("select", select), ("order", order.replace(" ", ".")), ("limit", "99"))
        query = f"select {columns} from {table} where {where} order by {order} limit 99"
        return Read(table, (*params, *page), query.replace("%", "%%"))

    for a, b, c, d, e, f, g in FILTER.findall(text):
        # a field in a variable may be any column of type text
        fields = [a + c + f] if a + c + f else [name for name in types if types[name] == "text"]
        for field, operator in ((name, b + d + e + g) for name in fields):
            column, _, path = field.partition("->>")
            if column in types:
                left = f"{column}->>'{path}'" if path else column
                value = value_of(left)
                parameter, condition = value, f"{OPERATORS.get(operator)} '{value}'"
                if operator == "in":
                    parameter, condition = f"({value})", f"in ('{value}')"
                elif operator == "ilike":
                    parameter, condition = f"*{value[1:4]}*", f"ilike '%{value[1:4]}%'"
                yield read(f"{left} {condition}", key, key, key, (field, f"{operator}.{parameter}"))
    for a, direction, c, ascending, latest, e in ORDER.findall(text):
        if (column := a + c + e) in types:
            default = "desc" if latest or ascending == "false" else "asc"
            yield read("true", column, column, f"{column} {direction or default}")
    value = value_of(key)
    for word in words:
        selected = {*EMBED.sub(r"\1_id", word).split(",")}
        if selected - {"*"} <= types.keys():
            columns = EMBED.sub(EMBEDDED, word)
            yield read(f"{key} = '{value}'", word, columns, last, (key, f"eq.{value}"))
