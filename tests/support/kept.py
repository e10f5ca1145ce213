"""What puts a seeded database back between two tests: part of the template, so that clones have it.

In the schema `kept` are copies of all rows and a function over them, with plans of its own.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

OURS = """(
  select oid from pg_catalog.pg_namespace
  where nspname !~ '^pg_' and nspname not in ('information_schema', 'kept')
)"""
TABLES = f"""
  select nspname, relname, (
    select array_agg(attname::text order by attnum) from pg_catalog.pg_attribute
    where attrelid = tables.oid and attnum > 0 and attgenerated = '' and not attisdropped
  )
  from pg_catalog.pg_class as tables
  join pg_catalog.pg_namespace as schemas on schemas.oid = tables.relnamespace
  where relkind = 'r' and relnamespace in {OURS}
  order by tables.oid
"""
SEQUENCES = f"""
  select nspname, relname
  from pg_catalog.pg_class as sequences
  join pg_catalog.pg_namespace as schemas on schemas.oid = sequences.relnamespace
  where relkind = 'S' and relnamespace in {OURS}
"""
#: Everything but rows, and what the planner knows: how much, and what was written since.
CATALOGUES = {
    "pg_proc": f"pronamespace in {OURS} and oid <> '{{clock}}'::regprocedure",
    "pg_class": f"relnamespace in {OURS}",
    "pg_attribute": "attrelid > 16383",
    "pg_constraint": f"connamespace in {OURS}",
    "pg_trigger": "true",
    "pg_policy": "true",
    "pg_namespace": "true",
    "pg_db_role_setting": "true",
    "pg_statistic": "true",
}
WRITTEN = "select count(*), count(*) filter (where age(xmin) < age({since}::xid)) from {table}"
PUT_BACK = """
create function kept.put_back(p_since text, out o_rows bigint, out o_now text)
language plpgsql as $do$
declare
  n bigint;
begin
  -- null: a test has changed more than rows
  if ({state}) <> (select state from kept.made) then
    return;
  end if;
  if (select prosrc from pg_catalog.pg_proc where oid = {clock}::regprocedure) <> {body} then
    execute {definition};
  end if;
  o_rows := 0;
  {steps}
  o_now := pg_catalog.pg_current_xact_id()::text;
end
$do$
"""
EMPTY = "delete from {table}; get diagnostics n = row_count; o_rows := o_rows + n;"
SEEDED = """
if exists (select from {table} having count(*) <> {count}
    or count(*) filter (where age(xmin) < age(p_since::xid)) > 0) then
  {empty}
  insert into {table} ({columns}) overriding system value table {kept};
end if;
"""


def keep(connection: psycopg.Connection[Any], engine: str) -> None:
    """Make the schema.

    Args:
        connection: A superuser's, to a database with all its seeds.
        engine: The schema of the engine, whose clock tests move.
    """

    def one(query: str, *values: Any) -> Any:
        row = connection.execute(query.encode(), values or None).fetchone()
        assert row is not None
        return row[0]

    connection.execute("create schema kept")
    connection.execute("create table kept.made (since text, state bigint[])")
    steps: list[sql.Composable] = []
    for number, (schema, name, names) in enumerate(connection.execute(TABLES).fetchall()):
        table, kept = sql.Identifier(schema, name), sql.Identifier("kept", f"t{number}")
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        empty = sql.SQL(EMPTY).format(table=table)
        [count] = connection.execute(
            sql.SQL("select count(*) from {}").format(table)
        ).fetchone() or [0]
        if not count:
            steps.append(empty)
            continue
        connection.execute(
            sql.SQL("create table {} as select {} from {}").format(kept, columns, table)
        )
        steps.append(
            sql.SQL(SEEDED).format(
                table=table, kept=kept, columns=columns, count=sql.Literal(count), empty=empty
            )
        )
    for schema, name in connection.execute(SEQUENCES).fetchall():
        sequence = sql.Identifier(schema, name)
        [last, called] = connection.execute(
            sql.SQL("select last_value, is_called from {}").format(sequence)
        ).fetchone() or [1, False]
        steps.append(
            sql.SQL("perform pg_catalog.setval({}, {}, {});").format(
                sql.Literal(sequence.as_string(connection)), sql.Literal(last), sql.Literal(called)
            )
        )
    clock = f"{engine}.clock()"
    since = one("select pg_current_xact_id()::text")
    state = " union all ".join(
        WRITTEN.format(since=f"'{since}'", table=f"pg_catalog.{table}")
        + f" where {ours.format(clock=clock)}"
        for table, ours in CATALOGUES.items()
    )
    state = f"select array_agg(array[a, b]) from ({state}) as written (a, b)"
    connection.execute(
        sql.SQL(PUT_BACK).format(
            state=sql.SQL(state),
            steps=sql.SQL("\n").join(steps),
            clock=sql.Literal(clock),
            body=sql.Literal(one("select prosrc from pg_proc where oid = %s::regprocedure", clock)),
            definition=sql.Literal(one("select pg_get_functiondef(%s::regprocedure)", clock)),
        )
    )
    connection.execute(f"insert into kept.made select '{since}', ({state})".encode())
