"""Local replacements of pg_net, pg_cron and the Vault, which tests create and drop."""

from typing import Any

import psycopg

from supabase_local.extensions import STAND_INS

PG_NET, PG_CRON, VAULT = "pg_net", "pg_cron", "supabase_vault"


def create(connection: psycopg.Connection[Any], *names: str) -> None:
    """Create extensions after the migrations, as the dashboard does."""
    for name in names:
        if connection.info.server_version >= 180000:
            connection.execute(f"create extension if not exists {name}".encode())
        else:  # older versions cannot load our extensions
            text = next(STAND_INS.glob(f"{name}--*.sql")).read_text()
            connection.execute("create schema if not exists vault")
            connection.execute(text.replace("@extschema@", "vault").encode())


def drop(connection: psycopg.Connection[Any]) -> None:
    """Drop the extensions. The Vault, which every project has, is only emptied."""
    connection.execute("drop extension if exists pg_net")
    connection.execute("drop extension if exists pg_cron")
    if connection.info.server_version >= 180000:
        connection.execute("delete from vault.secrets")
