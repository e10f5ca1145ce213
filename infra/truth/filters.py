"""Filters of each operator over each type, and what Postgres and PostgREST make of them.

Of texts the answers are PostgREST's, recorded where its reading surprised us. All others are what
Postgres answers to the condition that a filter is by PostgREST's grammar (`pOpExpr`, `pListVal` and
`pLogicTree` of its QueryParams.hs, 14.17), which hands a value on as a parameter of unknown type.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import psycopg

from infra.truth.requests import RECORDED, Wrong

#: What may be written of each type, beside what may not.
VALUES: Final = {
    "word": ["plain", '"quoted"', "a,b", "back\\slash", "null", "true", "1.0", " lead", "{x}", ""],
    "number": ["1", "12345678901234567", "-1", "1.0", "null", "x", ""],
    "price": ["1", "0.10", "1e3", "NaN", "12345678901234567890.5", "x"],
    "at": ["2026-11-20", "2026-11-20T08:00:00+02:00", "infinity", "x"],
    "flag": ["true", "t", "0", "null", "x"],
    "data": ["{}", '{"a":1}', '"x"', "1", "null", "x"],
    "list": ["{}", "{a,b}", '{"a,b",null}', "a", "{"],
    "span": ["[1,5)", "empty", "(,3]", "x"],
}
_SIGNS: Final = (
    "eq =, neq <>, gt >, gte >=, lt <, lte <=, match ~, imatch ~*, cs @>, cd <@, ov &&, sl <<, "
    "sr >>, nxr &<, nxl &>, adj -|-, isdistinct is distinct from, eq(any) = any, lt(all) < all"
)
OPERATORS: Final = dict(pair.split(" ", 1) for pair in _SIGNS.split(", "))
#: A filter, and the condition that it is.
OTHERS: Final = {
    "word=is.null": "word is null",
    "flag=not.is.true": "not flag is true",
    "flag=is.unknown": "flag is unknown",
    "number=is.not_null": "number is not null",
    'word=in.("a,b",plain)': "word in ('a,b', 'plain')",
    'word=in.("\\"quoted\\"",back\\slash)': "word in ('\"quoted\"', 'back\\slash')",
    "number=not.in.(1,-1)": "not number in (1, -1)",
    "number=in.()": "false",
    "word=like.*l*": "word like '%l%'",
    'word=ilike(any).{PL*,*D"}': "word ilike any ('{PL%,%D\"}')",
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
    "word=fts.plain": "to_tsvector(word) @@ to_tsquery('plain')",
    "word=plfts(english).quoted": (
        "to_tsvector('english', word) @@ plainto_tsquery('english', 'quoted')"
    ),
}
#: The writes of our pages, which show what was written: method, filter, name.
WRITES: Final = (("POST", "", "new"), ("PATCH", "&name=eq.new", "newer"))
SHOWN: Final = {"prefer": "return=representation"}
TABLES: Final = """
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
DROP: Final = """
drop table if exists public.scratch_types, public.scratch_names;
notify pgrst, 'reload schema';
"""
_LITERAL: Final = re.compile(r"'([^']*)'")
Sql = Callable[..., list[dict[str, Any]]]


def wrong_answers(client: httpx.Client, sql: Sql) -> Iterator[Wrong]:
    """Compare every filter over the tables of `TABLES`.

    Args:
        client: Of the Data API, with the secret key.
        sql: Runs a statement as an owner of the database.
    """
    recorded = json.loads((RECORDED / "filters.json").read_text())
    sql("insert into public.scratch_names select unnest(%s::text[])", recorded["names"])
    for filter, answer in recorded["answers"].items():
        given = _asked(client, "scratch_names", "name", filter)
        begin = answer.get("begins")
        if given[: len(begin)] != begin if begin else given != answer["is"]:
            yield Wrong(filter, answer, given)
    for filter, condition in {**generated(), **OTHERS}.items():
        try:
            where, values = _with_parameters(condition)
            rows = sql(f"select id from public.scratch_types where {where} order by id", *values)
            expected: Any = [row["id"] for row in rows]
        except psycopg.Error as error:
            expected = error.sqlstate
        given = _asked(client, "scratch_types", "id", filter)
        if given != expected:
            yield Wrong(filter, expected, given)
    for method, filter, name in WRITES:
        asked = f"/scratch_names?select=*{filter}"
        answer = client.request(method, asked, json={"name": name}, headers=SHOWN).json()
        if answer != [{"name": name}]:
            yield Wrong(f"{method} {asked}", [{"name": name}], answer)


def generated() -> dict[str, str]:
    """Every value of every type by every operator, each with its condition."""
    return {
        f"{column}={sign}.{value}": f"{column} {operator} ('{value}')"
        for column, (sign, operator) in itertools.product(VALUES, OPERATORS.items())
        for value in VALUES[column]
    }


def _with_parameters(condition: str) -> tuple[str, list[str]]:
    """A condition as PostgREST sends it: each text in it a parameter of no type.

    As a literal Postgres reads it while it parses, and so before it looks for the operator.
    """
    return _LITERAL.sub("%s", condition), _LITERAL.findall(condition)


def _asked(client: httpx.Client, table: str, column: str, filter: str) -> Any:
    """What the rows of a filter have in a column, or the code of the error."""
    name, _, value = filter.partition("=")
    answer = client.get(f"/{table}", params={"select": column, "order": column, name: value})
    body = answer.json()
    return [row[column] for row in body] if isinstance(body, list) else body["code"]
