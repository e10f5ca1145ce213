"""Waiting for what a statement sees."""

from __future__ import annotations

import time

from tests.support.databases import Database
from tests.support.stacks import RunningStack


def until(database: Database | RunningStack, statement: str, value: int) -> None:
    """Wait until a statement answers at least this."""
    give_up = time.monotonic() + 60
    with database.connect() as connection:
        while time.monotonic() < give_up:
            row = connection.execute(statement.encode()).fetchone()
            if row is not None and row[0] >= value:
                return
            time.sleep(0.02)
    raise AssertionError(f"not {value}: {statement}")


def until_waiting(database: Database, sessions: int = 1) -> None:
    """Wait until so many sessions of the database wait for a lock."""
    until(
        database,
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        " and datname = current_database()",
        sessions,
    )
