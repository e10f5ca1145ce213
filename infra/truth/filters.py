"""Compares the local Data API's filters, of each operator and type, with Postgres and PostgREST.

The results of filters on texts are compared with recorded results of PostgREST, because PostgREST
parses texts in surprising ways. The results of all other filters are compared with the rows that
Postgres returns for the filter's condition. The module translates each filter to an SQL condition
by PostgREST's grammar (`pOpExpr`, `pListVal` and `pLogicTree` in QueryParams.hs). Each value in the
condition is a parameter of unknown type.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg

from infra.truth.requests import RECORDED, Difference

#: Valid and invalid values of filters for the column of each type, by the column's name.
VALUES = {
    "word": ["plain", '"quoted"', "a,b", "back\\slash", "null", "true", "1.0", " lead", "{x}", ""],
    "number": ["1", "12345678901234567", "-1", "1.0", "null", "x", ""],
    "price": ["1", "0.10", "1e3", "NaN", "12345678901234567890.5", "x"],
    "at": ["2026-11-20", "2026-11-20T08:00:00+02:00", "infinity", "x"],
    "flag": ["true", "t", "0", "null", "x"],
    "data": ["{}", '{"a":1}', '"x"', "1", "null", "x"],
    "list": ["{}", "{a,b}", '{"a,b",null}', "a", "{"],
    "span": ["[1,5)", "empty", "(,3]", "x"],
}
_SIGNS = (
    "eq =, neq <>, gt >, gte >=, lt <, lte <=, match ~, imatch ~*, cs @>, cd <@, ov &&, sl <<, "
    "sr >>, nxr &<, nxl &>, adj -|-"
)
OPERATORS = dict(pair.split(" ", 1) for pair in _SIGNS.split(", "))
#: Conditions in SQL, by filter.
OTHERS = {
    "word=is.null": "word is null",
    "flag=not.is.true": "not flag is true",
    "flag=is.unknown": "flag is unknown",
    "number=is.not_null": "number is not null",
    'word=in.("a,b",plain)': "word in ('a,b', 'plain')",
    'word=in.("\\"quoted\\"",back\\slash)': "word in ('\"quoted\"', 'back\\slash')",
    "number=not.in.(1,-1)": "not number in (1, -1)",
    "number=in.()": "false",
    "word=like.*l*": "word like '%l%'",
    'or=(word.eq."\\"quoted\\"",number.eq.1)': "word = '\"quoted\"' or number = 1",
    'or=(word.eq."back\\\\slash",and(number.gt.0,not.or(flag.is.false,price.gt.1)))': (
        "word = 'back\\slash' or (number > 0 and not (flag is false or price > 1))"
    ),
    "not.and=(list.cs.{a,b},id.lt.3)": "not (list @> '{a,b}' and id < 3)",
    "and=(id.not.in.(2,3),word.neq.1.0)": "not id in (2, 3) and word <> '1.0'",
    "data->>a=eq.1": "data->>'a' = '1'",
    "data->b->c->>-1=eq.1.0": "data->'b'->'c'->>-1 = '1.0'",
    'data->b->c=cs.["x"]': "data->'b'->'c' @> '[\"x\"]'",
    "list->>0=eq.a": "to_jsonb(list)->>0 = 'a'",
}
#: Writes that return the written rows, as clients of Supabase send them: method, filter, and name.
WRITES = (("POST", "", "new"), ("PATCH", "&name=eq.new", "newer"))
RETURN_ROWS = {"prefer": "return=representation"}
TABLES = """
create table public.scratch_types (
  id int primary key, word text, number bigint, price numeric, at timestamptz, flag boolean,
  data jsonb, list text[], span int4range
);
insert into public.scratch_types values
  (1, 'plain', 1, 0.1, '2026-11-20', true, '{"a": 1, "b": {"c": ["x", "1.0"]}}', '{a,b}', '[1,5)'),
  (2, '"quoted"', -1, 1, '2026-11-20T06:00:00Z', false, '"x"', '{"a,b",null}', 'empty'),
  (3, 'back\\slash', 12345678901234567, 'NaN', 'infinity', null, '{}', '{}', '(,3]'),
  (4, '1.0', null, null, null, null, null, null, null);
create table public.scratch_names (name text collate "C");
grant select, insert, update, delete on public.scratch_types, public.scratch_names to service_role;
notify pgrst, 'reload schema';
"""
DROP = """
drop table if exists public.scratch_types, public.scratch_names;
notify pgrst, 'reload schema';
"""
_LITERAL = re.compile(r"'([^']*)'")
Sql = Callable[..., list[dict[str, Any]]]


def compare_filters(client: httpx.Client, sql: Sql) -> Iterator[Difference]:
    """Compare the results of all filters on the tables in `TABLES`.

    Args:
        client: HTTP client of the Data API, with the secret key.
        sql: Function that runs a SQL statement as the database's owner.
    """
    recorded = json.loads((RECORDED / "filters.json").read_text())
    sql("insert into public.scratch_names select unnest(%s::text[])", recorded["names"])
    for filter, answer in recorded["answers"].items():
        actual = _read(client, "scratch_names", "name", filter)
        beginning = answer.get("begins")
        if actual[: len(beginning)] != beginning if beginning else actual != answer["is"]:
            yield Difference(filter, answer, actual)
    for filter, condition in {**generate_filters(), **OTHERS}.items():
        try:
            where, values = _with_parameters(condition)
            rows = sql(f"select id from public.scratch_types where {where} order by id", *values)
            expected: Any = [row["id"] for row in rows]
        except psycopg.Error as error:
            expected = error.sqlstate
        actual = _read(client, "scratch_types", "id", filter)
        if actual != expected:
            yield Difference(filter, expected, actual)
    for method, filter, name in WRITES:
        path = f"/scratch_names?select=*{filter}"
        rows = client.request(method, path, json={"name": name}, headers=RETURN_ROWS).json()
        if rows != [{"name": name}]:
            yield Difference(f"{method} {path}", [{"name": name}], rows)


def generate_filters() -> dict[str, str]:
    """Return filters with each operator and value, and the SQL condition of each filter."""
    return {
        f"{column}={sign}.{value}": f"{column} {operator} ('{value}')"
        for column, (sign, operator) in itertools.product(VALUES, OPERATORS.items())
        for value in VALUES[column]
    }


def _with_parameters(condition: str) -> tuple[str, list[str]]:
    """Replace the texts in a condition by parameters of unknown type, as PostgREST does.

    Otherwise Postgres would parse a text value before Postgres has found the operator.
    """
    return _LITERAL.sub("%s", condition), _LITERAL.findall(condition)


def _read(client: httpx.Client, table: str, column: str, filter: str) -> Any:
    """Read a column of the rows that match a filter. For an error, return its code."""
    name, _, value = filter.partition("=")
    response = client.get(f"/{table}", params={"select": column, "order": column, name: value})
    body = response.json()
    return [row[column] for row in body] if isinstance(body, list) else body["code"]
