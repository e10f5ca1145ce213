"""Fixtures, one per module: a database with policies for the tests, and a Realtime server."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest

from supabase_local.postgres import Postgres
from tests.supabase_local.realtime.support import Server, Socket, open_socket
from tests.support.databases import HOSTED, Database, fresh_database
from tests.support.stacks import TRUTH_URL

#: A table with rights per topic, which the policies read as in a real project.
POLICIES = """
  drop table if exists rt_rights cascade; -- of a run that was interrupted
  create table rt_rights (
    topic text, user_id uuid, can_read boolean, can_write boolean
  );
  grant select on rt_rights to authenticated;
  create function rt_right() returns rt_rights language sql stable as $$
    select r from rt_rights as r
    where r.topic = (select realtime.topic()) and r.user_id = (select auth.uid())
  $$;
  create policy "rt tests read" on realtime.messages for select to authenticated
    using ((rt_right()).can_read);
  create policy "rt tests write" on realtime.messages for insert to authenticated
    with check ((rt_right()).can_write);
"""

#: Statements that drop everything that a module's tests have created.
DROPS = """
  select format('drop table if exists %s cascade', oid::regclass) from pg_class
  where relkind = 'r' and relnamespace in ('public'::regnamespace, to_regnamespace('tasks'))
  union all select format('drop function if exists %s cascade', oid::regprocedure) from pg_proc
  where pronamespace = 'public'::regnamespace
  union all select format('drop schema %I', nspname) from pg_namespace where nspname !~ '^pg_'
"""


@pytest.fixture(scope="module")
def project(postgres: Postgres) -> Iterator[Database]:
    """A hosted project's database with the policies, and without the engine."""
    if TRUTH_URL:
        database = Database(postgres, "", os.environ["DATABASE_URL"])
        with database.connect() as connection:
            kept = connection.execute(DROPS).fetchall()
            connection.execute(POLICIES)
            yield database
            for row in connection.execute(DROPS).fetchall():
                if row not in kept:
                    connection.execute(row[0])
        return
    with fresh_database(postgres, template=HOSTED) as database:
        database.run(POLICIES)
        yield database


@pytest.fixture(scope="module")
def server(project: Database) -> Iterator[Server]:
    """The Realtime server of this module."""
    running = Server(project.url)
    yield running
    running.stop()


@pytest.fixture
def sql(project: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection in autocommit mode."""
    with project.connect() as connection:
        # A scratch server flushes its write-ahead log late, and Realtime streams only flushed
        # changes.
        connection.execute("set synchronous_commit = on")
        yield connection


@pytest.fixture
def grant(sql: psycopg.Connection[Any]) -> Callable[..., None]:
    def give(topic: str, user: str, *, read: bool = True, write: bool = True) -> None:
        sql.execute("insert into rt_rights values (%s, %s, %s, %s)", [topic, user, read, write])

    return give


Open = Callable[..., Awaitable[Socket]]


@pytest.fixture
async def connect(server: Server) -> AsyncIterator[Open]:
    """A function that opens raw sockets to the module's Realtime server, or to `server=`.

    The sockets are closed after the test.
    """
    sockets: list[Socket] = []

    async def open_one(**options: Any) -> Socket:
        socket = await open_socket(options.pop("server", server), **options)
        sockets.append(socket)
        return socket

    yield open_one
    for socket in sockets:
        await socket.connection.close()
