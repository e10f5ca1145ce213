"""Performs what the local pg_net and pg_cron record, as the extensions' background workers do.

Requests after their transaction has committed, schedules when they are due.
"""

from __future__ import annotations

import threading
from typing import Any

import httpx
import psycopg

from minutehand.local.extensions import STAND_INS
from tests.support.databases import Database

PG_NET, PG_CRON, VAULT = "pg_net", "pg_cron", "supabase_vault"


def create(connection: psycopg.Connection[Any], *names: str) -> None:
    """Switch extensions on, as the dashboard does: after the migrations."""
    for name in names:
        if connection.info.server_version >= 180000:
            connection.execute(f"create extension if not exists {name}".encode())
        else:  # no extensions of ours there: their text alone
            text = next(STAND_INS.glob(f"{name}--*.sql")).read_text()
            connection.execute("create schema if not exists vault")
            connection.execute(text.replace("@extschema@", "vault").encode())


def drop(connection: psycopg.Connection[Any]) -> None:
    """Switch them off again; the Vault, which a project begins with, is emptied."""
    connection.execute("drop extension if exists pg_net")
    connection.execute("drop extension if exists pg_cron")
    if connection.info.server_version >= 180000:
        connection.execute("delete from vault.secrets")


class Caller:
    """Performs committed requests, and the schedules when `minute` is called.

    Use as a context manager. What came back is in `net._http_response`, as pg_net leaves it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pg_net")

    def __enter__(self) -> Caller:
        """Start the background worker."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._stopping.set()
        self._thread.join()

    def minute(self) -> None:
        """Run what pg_cron has for every minute, each in a session of its owner."""
        with self._database.connect() as connection:
            due = connection.execute(
                "select command, username from cron.job where active and schedule = '* * * * *'"
            ).fetchall()
        for command, username in due:
            with self._database.connect() as connection:
                connection.execute(f'set role "{username}"'.encode())
                connection.execute(command.encode())

    def _run(self) -> None:
        with self._database.connect() as connection, httpx.Client() as client:
            while not self._stopping.wait(0.02):
                for number, url, headers, body in connection.execute(
                    "delete from net.http_request_queue returning id, url, headers, body"
                ).fetchall():
                    answer = client.post(url, headers=headers, content=body, timeout=60)
                    connection.execute(
                        "insert into net._http_response (id, status_code, content)"
                        " values (%s, %s, %s)",
                        (number, answer.status_code, answer.text),
                    )
