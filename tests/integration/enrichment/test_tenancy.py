"""Who may see and do what: rows by policy, columns and functions by grant, for every role."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.enrichment.conftest import BOB, EVE, GLOBEX, INITECH
from tests.support.databases import Database
from tests.support.functions import open_to, unkempt
from tests.support.project import ACME, ADA

TABLES = ["workspace_settings", "accounts", "contacts", "account_imports", "account_import_errors"]
USER_FUNCTIONS = {
    "get_workspace_settings",
    "put_workspace_settings",
    "enrich_account",
    "enrich_contact",
    "enrich_accounts",
    "reseal_apollo_key",
    "apollo_key_ticket",
    "create_account_import",
}
WORKER_FUNCTIONS = {
    "enrichment_load",
    "enrichment_begin_call",
    "enrichment_finish_call",
    "enrichment_abandon_call",
    "enrichment_apply",
    "enrichment_pause",
    "enrichment_load_key",
    "enrichment_swap_key",
    "enrichment_load_import",
    "enrichment_import_batch",
}


def count(database: Database, user: str, table: str) -> int:
    columns = "workspace_id" if table != "account_import_errors" else "import_id"
    with database.as_role("authenticated", {"sub": user}) as connection:
        row = connection.execute(f"select count({columns}) from public.{table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def refuses(database: Database, role: str, statement: str, user: str | None = ADA) -> None:
    """The statement is beyond the role's rights."""
    claims = {} if user is None else {"sub": user}
    with (
        database.as_role(role, claims) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_members_see_their_own_rows_and_no_one_elses(seeded: Database) -> None:
    """Eve manages Globex; of Acme she sees nothing, not even credits."""
    assert [count(seeded, BOB, table) for table in TABLES[:3]] == [1, 8, 2]
    assert [count(seeded, EVE, table) for table in TABLES[:3]] == [1, 2, 1]


def test_a_stranger_changes_and_deletes_nothing(seeded: Database) -> None:
    """Not by update, not by delete, not by moving a row of her own into another workspace."""
    with seeded.as_role("authenticated", {"sub": EVE}) as connection:
        updated = connection.execute(
            "update public.accounts set name = 'Mine' where id = %s", (INITECH,)
        )
        deleted = connection.execute("delete from public.accounts where id = %s", (INITECH,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(
                "insert into public.accounts (workspace_id, name) values (%s, 'Mine')", (ACME,)
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("update public.accounts set workspace_id = %s", (ACME,))

    assert (updated.rowcount, deleted.rowcount) == (0, 0)


@pytest.mark.parametrize("role", ["anon", "authenticated", "job_worker"])
def test_the_ciphertext_is_readable_to_no_client(seeded: Database, role: str) -> None:
    """Column by column, and so by `*` as well."""
    table = "public.workspace_settings"
    for columns in ("apollo_api_key_encrypted", "*", "md5(apollo_api_key_encrypted)"):
        refuses(seeded, role, f"select {columns} from {table}")
    # a condition on a secret column is a slow way of reading it
    probe = "apollo_api_key_encrypted like 'test%'"
    refuses(seeded, role, f"select workspace_id from {table} where {probe}")


def test_managers_change_switches_and_members_do_not(seeded: Database) -> None:
    """By policy; the columns that count money are granted to nobody."""
    statement = "update public.workspace_settings set apollo_auto_enrich = true"

    with seeded.as_role("authenticated", {"sub": ADA}) as connection:
        by_manager = connection.execute(statement)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("update public.workspace_settings set enrichment_credits_used = 0")
    with seeded.as_role("authenticated", {"sub": BOB}) as connection:
        by_member = connection.execute(statement)

    assert (by_manager.rowcount, by_member.rowcount) == (1, 0)


@pytest.mark.parametrize("table", ["accounts", "contacts"])
@pytest.mark.parametrize("column", ["enriched_at", "metadata", "edited_at"])
def test_what_enrichment_writes_is_not_a_members_to_write(
    seeded: Database, table: str, column: str
) -> None:
    """Else a page could claim that Apollo said it, or that nobody had edited."""
    refuses(seeded, "authenticated", f"update public.{table} set {column} = default")


def test_guests_see_no_table_at_all(seeded: Database) -> None:
    """No grant, so not even an empty answer."""
    for table in TABLES:
        refuses(seeded, "anon", f"select 1 from public.{table}", user=None)


def test_functions_are_granted_by_name_and_to_no_one_else(seeded: Database) -> None:
    """The catalogue, function by role; a new function must say whose it is."""
    helpers = {"require_member", "record_job", "enqueue_one"}
    named = USER_FUNCTIONS | WORKER_FUNCTIONS
    for role, allowed in {
        "anon": set(),
        "authenticated": USER_FUNCTIONS,
        "job_worker": WORKER_FUNCTIONS,
        "service_role": named,
    }.items():
        assert named & {*open_to(seeded, role, "public")} == allowed
        used = helpers if role in {"authenticated", "service_role"} else set()
        assert {*open_to(seeded, role, "enrichment")} == used


def test_the_apps_own_schema_is_commented_and_closed(seeded: Database) -> None:
    """As the catalogue's test asks of public and queue."""
    assert unkempt(seeded, "enrichment") == []


def test_indexes_serve_the_queries_they_were_made_for(seeded: Database) -> None:
    """An import looks up a hundred thousand domains; a page lists the newest accounts."""
    with seeded.connect() as connection:
        connection.execute(
            "insert into public.accounts (workspace_id, name, domain)"
            " select %s, 'n' || n, 'n' || n || '.example' from generate_series(1, 3000) as n",
            (GLOBEX,),
        )
        connection.execute("analyze public.accounts")
        plans = [
            str(connection.execute(f"explain {query}".encode()).fetchall())
            for query in (
                f"select id from public.accounts where workspace_id = '{GLOBEX}'"
                " and lower(domain) = 'n5.example' order by created_at, id limit 1",
                f"select id from public.accounts where workspace_id = '{GLOBEX}'"
                " order by created_at desc, id desc limit 50",
                f"select id from public.accounts where workspace_id = '{GLOBEX}'"
                " order by name, id limit 101",
                f"select id from public.accounts where workspace_id = '{GLOBEX}'"
                " and name > 'n5' order by name, id limit 101",
            )
        ]

    assert "accounts_by_domain" in plans[0]
    assert "accounts_newest_by_workspace" in plans[1]
    assert all("accounts_by_name" in plan and "Sort" not in plan for plan in plans[2:])


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-1", "1e19", "1e130000", "1e-16000"])
def test_a_revenue_is_an_amount_every_reader_can_read(seeded: Database, amount: str) -> None:
    """Numeric takes more digits than a reader of JSON does: each job of the account would fail."""
    change = b"update public.accounts set annual_revenue = %s::numeric where id = %s"
    with seeded.as_role("authenticated", {"sub": ADA}) as connection:
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(change, (amount, INITECH))
        for sane in ("0", "1234.56", "999999999999999999.999999", None):
            connection.execute(change, (sane, INITECH))
