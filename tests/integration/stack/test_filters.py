"""The local Data API reads filters as PostgREST does: as recorded of it, and as Postgres says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from infra.truth.requests import FIXTURES
from minutehand.config import Settings
from tests.support.patience import until
from tests.support.project import ACME, Project

RECORDED: dict[str, Any] = json.loads((FIXTURES / "filters.json").read_text())
#: What may be written of each type, beside what may not.
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
OPERATORS = {
    **{"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="},
    **{"match": "~", "imatch": "~*", "cs": "@>", "cd": "<@", "ov": "&&", "sl": "<<", "sr": ">>"},
    **{"nxr": "&<", "nxl": "&>", "adj": "-|-", "isdistinct": "is distinct from"},
    **{"eq(any)": "= any", "lt(all)": "< all"},
}
#: A filter, and the condition that it is by PostgREST's grammar.
OTHERS = {
    "word=is.null": "word is null",
    "flag=not.is.true": "not flag is true",
    "flag=is.unknown": "flag is unknown",
    "number=is.not_null": "number is not null",
    'word=in.("a,b",plain)': "word in ('a,b', 'plain')",
    'word=in.("\\"quoted\\"",back\\slash)': "word in ('\"quoted\"', 'back\\slash')",
    "number=not.in.(1,-1)": "not number in (1, -1)",
    "number=in.()": "false",
    "word=like.*l*": "word like '%%l%%'",
    'word=ilike(any).{PL*,*D"}': "word ilike any ('{PL%%,%%D\"}')",
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
SCRATCH = """
create table public.scratch_types (
  id int primary key, word text, number bigint, price numeric, at timestamptz, flag boolean,
  data jsonb, list text[], span int4range
);
insert into public.scratch_types values
  (1, 'plain', 1, 0.1, '2026-11-20', true, '{"a": 1, "b": {"c": ["x", "1.0"]}}', '{a,b}', '[1,5)'),
  (2, '"quoted"', -1, 1, '2026-11-20T06:00:00Z', false, '"x"', '{"a,b",null}', 'empty'),
  (3, 'back\\slash', 12345678901234567, 'NaN', 'infinity', null, '{}', '{}', '(,3]'),
  (4, '1.0', null, null, null, null, null, null, null);
create table public.scratch_parts (
  id int primary key, whole int references public.scratch_types, word text
);
insert into public.scratch_parts values (1, 1, '"a"'), (2, 1, 'a'), (3, 2, 'a');
grant select, update, delete on public.scratch_types, public.scratch_parts to service_role;
notify pgrst, 'reload schema';
"""


@pytest.fixture
def rest(project: Project) -> Iterator[httpx.Client]:
    """The Data API alone, as the service."""
    settings: Settings = project.settings
    secret = settings.supabase_secret_key or ""
    url = f"{settings.supabase_url}/rest/v1"
    with httpx.Client(base_url=url, headers={"apikey": secret}, timeout=30) as client:
        yield client


def asked(rest: httpx.Client, table: str, column: str, filter: str, **more: str) -> Any:
    """What the rows of a filter have in a column, or the code of the error."""
    name, _, value = filter.partition("=")
    params = {"select": column, "order": column, name: value, **more}
    answer = rest.get(f"/{table}", params=params).json()
    return [row[column] for row in answer] if isinstance(answer, list) else answer["code"]


def test_a_text_is_found_as_the_real_server_found_it(project: Project, rest: httpx.Client) -> None:
    """Quotes, `null`, `true`, escapes: a value is the text that it is, and unquoted in a list."""
    for name in RECORDED["names"]:
        project.sql(
            "insert into public.accounts (workspace_id, name, domain) values (%s, %s, 'fz.test')",
            ACME,
            name,
        )

    wrong = []
    for filter, recorded in RECORDED["answers"].items():
        names = asked(rest, "accounts", "name", filter, domain="eq.fz.test")
        begins = recorded.get("begins")
        if names != recorded.get("is") and (begins is None or names[: len(begins)] != begins):
            wrong.append((filter, names, recorded))

    assert wrong == []


def test_a_value_is_read_by_the_type_of_its_column(project: Project, rest: httpx.Client) -> None:
    """Numbers, instants, JSON, arrays and ranges: what Postgres makes of a literal, errors too."""
    project.sql(SCRATCH)
    until(lambda: rest.get("/scratch_types").status_code == 200)
    conditions = {
        f"{column}={sign}.{value}": f"{column} {operator} ({literal(value)})"
        for column, (sign, operator) in itertools.product(VALUES, OPERATORS.items())
        for value in VALUES[column]
    }

    wrong = []
    for filter, condition in {**conditions, **OTHERS}.items():
        try:
            rows = project.sql(f"select id from scratch_types where {condition} order by id")
            expected: Any = [row["id"] for row in rows]
        except psycopg.Error as error:
            expected = error.sqlstate
        given = asked(rest, "scratch_types", "id", filter)
        if given != expected:
            wrong.append((filter, given, expected))

    assert len(conditions) > 784
    assert wrong == []


def test_conditions_reach_embedded_rows_and_what_is_changed(
    project: Project, rest: httpx.Client
) -> None:
    """A condition is of the table that its path names, and of each statement that takes one."""
    project.sql(SCRATCH)
    until(lambda: rest.get("/scratch_parts").status_code == 200)

    def ask(**params: str) -> Any:
        select = params.pop("select", "id,scratch_parts(id)")
        rows = rest.get("/scratch_types", params={"select": select, "order": "id", **params}).json()
        return {row["id"]: [part["id"] for part in row["scratch_parts"]] for row in rows}

    inner = "id,scratch_parts!inner(id)"
    assert ask(**{"scratch_parts.word": 'eq."a"'}) == {1: [1], 2: [], 3: [], 4: []}
    assert ask(**{"select": inner, "scratch_parts.or": '(word.eq."\\"a\\"",id.eq.3)'}) == {
        1: [1],
        2: [3],
    }
    assert ask(id="lt.4", scratch_parts="is.null") == {3: []}
    assert ask(scratch_parts="not.is.null") == {1: [1, 2], 2: [3]}
    unknown = rest.get("/scratch_types", params={"other.word": "eq.a"})
    assert (unknown.status_code, unknown.json()["code"]) == (400, "PGRST108")
    mixed = {"select": inner, "or": "(scratch_parts.is.null,id.eq.1)"}
    refused = rest.get("/scratch_types", params=mixed)
    assert (refused.status_code, refused.json()["code"]) == (501, "not_implemented")
    assert rest.patch("/scratch_parts?word=eq.%22a%22", json={"id": 9}).status_code == 204
    assert rest.delete("/scratch_parts?or=(word.eq.a,id.eq.0)").status_code == 204
    assert project.sql("select id, word from scratch_parts") == [{"id": 9, "word": '"a"'}]


@pytest.mark.parametrize(
    "filter", ["word=foo.1", "word=x", "number=in.1", "flag=is.maybe", "or=(word.eq.1", "or=()"]
)
def test_what_is_no_filter_is_refused_by_name(rest: httpx.Client, filter: str) -> None:
    """PostgREST's code, with the text and the place where it stopped to understand."""
    name, _, value = filter.partition("=")

    answer = rest.get("/accounts", params={name: value})

    assert (answer.status_code, answer.json()["code"]) == (400, "PGRST100")
    assert f"({value})" in answer.json()["message"]


def literal(value: str) -> str:
    """A literal of no type yet."""
    return "'" + value.replace("'", "''") + "'"
