"""The database a test is given is a hosted project's, and nobody else's."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.databases import Database


def test_each_test_gets_an_empty_database(database: Database) -> None:
    """What one test leaves behind must never reach another."""
    with database.connect() as connection:
        connection.execute("create table public.left_behind ()")

    with database.connect() as connection:
        name = connection.execute("select current_database()").fetchone()

    assert name == (database.name,)


def test_a_new_table_is_closed_to_every_api_role(database: Database) -> None:
    """Hosted projects grant nothing on new objects any more, so neither may the local one."""
    with database.connect(user="postgres") as connection:
        connection.execute("create table public.fresh (id int)")

    for role in ("anon", "authenticated", "service_role"):
        with (
            database.as_role(role) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("select * from public.fresh")


def test_migrations_are_applied_without_a_superuser(database: Database) -> None:
    """`supabase db push` runs as postgres, who is no superuser on a hosted project."""
    with database.connect(user="postgres") as connection:
        row = connection.execute(
            "select rolsuper, rolcreaterole from pg_roles where rolname = current_user"
        ).fetchone()

    assert row == (False, True)


def test_claims_reach_policies(database: Database) -> None:
    """Policies ask auth.uid() and auth.jwt(), so tests must be able to be somebody."""
    user_id = "aaaaaaaa-0000-4000-8000-000000000001"

    with database.as_role("authenticated", {"sub": user_id, "email": "a@b.test"}) as connection:
        row = connection.execute(
            "select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'sub', current_user"
        ).fetchone()

    assert row == (user_id, "authenticated", "a@b.test", user_id, "authenticated")
