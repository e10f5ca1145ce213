"""Sends the generated requests, and holds each answer to what the request means.

Of a real server the answers can be recorded as well: what follows from no statement of Postgres
(counts, media types, words of errors, headers) is then held to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg

from infra.truth import grammar
from infra.truth.grammar import Asked
from infra.truth.requests import HEADERS, RECORDED, Place, Wrong

LIBRARY: Final = Path(__file__).with_name("library.sql")
RECORD: Final = RECORDED / "generated.json"
DROP: Final = """
do $$
declare
  v_one text;
begin
  for v_one in
    select 'function ' || p.oid::regprocedure from pg_catalog.pg_proc as p
    where p.proname like 'scratch\\_%' and p.pronamespace = 'public'::regnamespace
  loop
    execute 'drop ' || v_one || ' cascade';
  end loop;
end $$;
drop view if exists public.scratch_shelf;
drop table if exists public.scratch_books_labels, public.scratch_labels, public.scratch_books,
  public.scratch_authors cascade;
notify pgrst, 'reload schema';
"""
#: The rows, as before each request.
ROWS: Final = """
delete from public.scratch_books_labels; delete from public.scratch_labels;
delete from public.scratch_books; delete from public.scratch_authors;
alter sequence public.scratch_books_id_seq restart;
insert into public.scratch_authors values
  (1, 'Ada', '1815-12-10', '{"k": {"a b": [1, "x"]}, "n": 1, "s": "x"}', '{a,b}', 4.50,
    9007199254740993, true, '[1,5)', '2026-01-02T03:04:05.678901Z'),
  (2, 'Eve', null, '{"n": 2.50, "z": null}', '{}', null, -1, false, 'empty', 'infinity'),
  (3, 'ünï "q", (x)', '2000-02-29', '[]', '{"a,b"}', 1e10, null, null, null, null);
insert into public.scratch_books (title, author_id, price, data, code) values
  ('First book', 1, 10.00, '{"a": 1, "t": "the quick brown fox"}', 'abc'),
  ('Second', 1, 20.5, '{"a": 2}', 'd'), ('Third', 2, 0, '{"a": [1, 2]}', null),
  ('Lost', null, null, 'null', null);
insert into public.scratch_labels values (1, 'red'), (2, 'blue');
insert into public.scratch_books_labels values (1, 1), (1, 2), (2, 1);
"""


def wrong_answers(place: Place, owner: psycopg.Connection[Any]) -> Iterator[Wrong]:
    """Compare every answer; the tables are made before and dropped after.

    Args:
        place: The Data API.
        owner: A superuser's connection to its database, which commits by itself.
    """
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for asked, given, expected in _answered(place, owner):
        if expected is not None and not _is_meant(asked, given, expected):
            yield Wrong(asked.name, expected, given)
        elif asked.name in recorded and given != recorded[asked.name]:
            yield Wrong(asked.name, recorded[asked.name], given)


def record(place: Place, owner: psycopg.Connection[Any]) -> None:
    """Write the answers of this server as those that are expected of every other one."""
    found = {asked.name: given for asked, given, _ in _answered(place, owner)}
    lines = (f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found))
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _answered(
    place: Place, owner: psycopg.Connection[Any]
) -> Iterator[tuple[Asked, dict[str, Any], Any]]:
    """Each request with its answer and with what it means: `{code, status}`, or a body."""
    owner.execute(DROP.encode())
    owner.execute(LIBRARY.read_bytes())
    owner.execute(ROWS.encode())
    owner.execute("analyze public.scratch_authors, public.scratch_books")
    try:
        with httpx.Client(base_url=place.rest_url, timeout=30) as client:
            _wait_for_schema(client, place)
            for asked in grammar.requests():
                expected = _meaning(asked, owner)
                yield asked, _sent(client, place, asked), expected
                if asked.writes:
                    owner.execute(ROWS.encode())
    finally:
        owner.execute(DROP.encode())


def _wait_for_schema(client: httpx.Client, place: Place) -> None:
    headers = place.headers("service")
    for _ in range(1000):
        if client.get("/rpc/scratch_first", headers=headers).status_code == 200:
            return
    raise TimeoutError("the Data API has not read the new tables")


def _meaning(asked: Asked, owner: psycopg.Connection[Any]) -> Any:
    if asked.fails:
        return {"status": asked.fails[0], "code": asked.fails[1]}
    if asked.means is None:
        return None
    statement, values = asked.means
    try:
        with owner.transaction(force_rollback=asked.writes):
            [row] = owner.execute(statement.encode(), values or None).fetchall()
            return row[0]
    except psycopg.Error as error:
        return {"code": error.sqlstate}
    finally:
        if asked.writes:  # a sequence is not rolled back
            owner.execute("alter sequence public.scratch_books_id_seq restart with 5")


def _sent(client: httpx.Client, place: Place, asked: Asked) -> dict[str, Any]:
    given = {"content-type": "application/json"} if asked.body is not None else {}
    # what a gateway before PostgREST adds, and profiles that are asked for in none
    headers = {
        name: value
        for name, value in place.headers(asked.caller).items()
        if name in ("apikey", "authorization")
    }
    response = client.request(
        asked.method,
        asked.path,
        headers={**headers, **given, **asked.headers},
        content=None if asked.body is None else asked.body.encode(),
    )
    try:
        body = response.json()
    except ValueError:
        body = response.text
    found = {name: response.headers[name] for name in HEADERS if name in response.headers}
    return {"status": response.status_code, "body": body, "headers": found}


def _is_meant(asked: Asked, given: dict[str, Any], expected: Any) -> bool:
    """Whether an answer is what its request means; of an error that of Postgres its code alone."""
    body = given["body"]
    if isinstance(expected, dict) and "code" in expected:
        is_code = isinstance(body, dict) and body.get("code") == expected["code"]
        return is_code and expected.get("status", given["status"]) == given["status"]
    return given["status"] < 300 and bool(body == expected)
