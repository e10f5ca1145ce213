"""One project that is put back before every test: a database, and a Data API that stays.

A database and a Data API of a test's own cost seconds; putting the rows back costs milliseconds.
"""

from __future__ import annotations

import subprocess
import time

import psycopg
from psycopg import sql

from infra.bench.scratch import Gateway
from minutehand.local.ports import reserve_port
from minutehand.local.postgres import Postgres
from tests.support.databases import SCHEMAS, SEEDED, Database, create_clone, drop

NAME = "renewed"
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
# everything but rows: a test that changes any of this gets the next one a database anew
SCHEMA = f"""
  select md5(string_agg(line, ' ' order by line)) from (
    select p::text from pg_catalog.pg_proc as p where pronamespace in {OURS}
    union all
    select (oid, relname, relkind, relacl, reloptions, relrowsecurity, relforcerowsecurity)::text
    from pg_catalog.pg_class where relnamespace in {OURS}
    union all
    select (attrelid, attname, atttypid, attnotnull, attacl)::text
    from pg_catalog.pg_attribute join pg_catalog.pg_class on pg_class.oid = attrelid
    where relnamespace in {OURS} and attnum > 0
    union all
    select c::text from pg_catalog.pg_constraint as c where connamespace in {OURS}
    union all
    select (tgrelid, tgname, tgenabled)::text from pg_catalog.pg_trigger where not tgisinternal
    union all
    select (polrelid, polname, polqual, polwithcheck)::text from pg_catalog.pg_policy
    union all
    select s::text from pg_catalog.pg_db_role_setting as s
  ) as lines (line)
"""
BUSY = """
  select count(*) from pg_catalog.pg_stat_activity
  where datname = current_database() and backend_type = 'client backend'
    and state <> 'idle' and pid <> pg_backend_pid()
"""
BUSY_SECONDS = 60.0


class Renewed:
    """The project: `.database` and `.gateway`, as after the seeds once `renew()` has returned."""

    def __init__(self, server: Postgres) -> None:
        self.database = Database(server, NAME)
        self.gateway = Gateway(self.database.url, 0, schema=SCHEMAS.clients)
        self._process: subprocess.Popen[bytes] | None = None
        self._server = server
        self._put_back = b""
        self._schema: str | None = None

    def renew(self) -> None:
        """Put every row back, the schema too if a test changed it, and have the gateway up."""
        if not self._renew_rows():
            self.close()
            self._make()
        # what a test started in a thread ends with that thread
        mine = self._process
        if mine is None or self.gateway.process is not mine or mine.poll() is not None:
            self.gateway.stop()
            self.gateway = Gateway(self.database.url, reserve_port(), schema=SCHEMAS.clients)
            self.gateway.start(seconds=90)
            self._process = self.gateway.process

    def close(self) -> None:
        """Stop the Data API and drop the database."""
        self.gateway.stop()
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            if self._schema is not None:
                drop(connection, NAME)
        self._schema = None

    def _make(self) -> None:
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            create_clone(connection, NAME, template=SEEDED)
        steps: list[sql.Composable] = [
            sql.SQL("begin; set local session_replication_role = replica")
        ]  # no triggers
        with self.database.connect() as connection:
            connection.execute("create schema kept")
            for number, (schema, name, names) in enumerate(connection.execute(TABLES).fetchall()):
                table, kept = sql.Identifier(schema, name), sql.Identifier("kept", f"t{number}")
                columns = sql.SQL(", ").join(map(sql.Identifier, names))
                connection.execute(
                    sql.SQL("create table {} as select {} from {}").format(kept, columns, table)
                )
                steps.append(sql.SQL("delete from {}").format(table))
                if connection.execute(sql.SQL("select from {} limit 1").format(kept)).rowcount:
                    steps.append(
                        sql.SQL("insert into {} ({}) overriding system value table {}").format(
                            table, columns, kept
                        )
                    )
            steps.append(sql.SQL("commit"))
            self._put_back = sql.SQL("; ").join(steps).as_bytes(connection)
            self._schema = self._read_schema(connection)

    def _renew_rows(self) -> bool:
        """Put the rows back unless there is no such schema any more."""
        if self._schema is None:
            return False
        with self.database.connect() as connection:
            give_up = time.monotonic() + BUSY_SECONDS
            while connection.execute(BUSY).fetchone() != (0,):
                if time.monotonic() > give_up:
                    return False
                time.sleep(0.01)
            if self._read_schema(connection) != self._schema:
                return False
            connection.execute(self._put_back)
        return True

    def _read_schema(self, connection: psycopg.Connection[tuple[object, ...]]) -> str:
        row = connection.execute(SCHEMA.encode()).fetchone()
        assert row is not None
        return str(row[0])
