"""A database that is put back before every test, and a Data API that stays.

A clone of the template costs little; sessions that know nothing yet cost more than most tests, and
a Data API seconds. Putting the rows back costs milliseconds.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

import psycopg

from infra.bench.scratch import Gateway
from minutehand.local.ports import reserve_port
from minutehand.local.postgres import Postgres
from tests.support.databases import SEEDED, Database, create_clone, drop

BUSY_SECONDS = 60.0
#: Dead rows are read over: what left more of them than this is not for another test.
DEAD_ROWS = 20_000


class RenewedDatabase(Database):
    """A database as after the seeds, once put back or made; a test may do to it what it likes.

    Args:
        server: Has the template.
        name: The database's.
        keeps_sessions: Whether those that are open stay; else they are ended.
    """

    def __init__(self, server: Postgres, name: str, *, keeps_sessions: bool = False) -> None:
        super().__init__(server, name)
        self._keeps_sessions = keeps_sessions
        self._keeper: psycopg.Connection[Any] | None = None
        self._since, self._dead_rows = "", 0

    def renew(self) -> None:
        """Put it back, or make it anew."""
        if not self.put_back():
            self.make()

    def put_back(self) -> bool:
        """Put every row back, unless a test has changed more than rows; whether that was done."""
        if self._keeper is None or self._dead_rows > DEAD_ROWS:
            return False
        try:
            if not self._is_idle(self._keeper):
                return False
            # what it writes is counted at once, and not while a test counts what others write
            row = self._keeper.execute(
                "select o_rows, o_now, pg_stat_force_next_flush() from kept.put_back(%s)",
                (self._since,),
            ).fetchone()
        except psycopg.Error:  # the test has crashed the server, or cut every session
            return False
        assert row is not None
        rows, self._since, _ = row
        self._dead_rows += rows or 0
        return rows is not None

    def make(self) -> None:
        """Clone the template."""
        self.close()
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            create_clone(connection, self.name, template=SEEDED)
        # without triggers, for which a session forgets its plans: hence one of its own
        self._keeper = psycopg.connect(
            self.url, autocommit=True, options="-c session_replication_role=replica"
        )
        row = self._keeper.execute("select since from kept.made").fetchone()
        assert row is not None
        self._since, self._dead_rows = row[0], 0

    def close(self) -> None:
        """Drop it."""
        self.close_session()
        if self._keeper is not None:
            self._keeper.close()
            with psycopg.connect(self.server.url(), autocommit=True) as connection:
                drop(connection, self.name)
        self._keeper = None

    def _is_idle(self, keeper: psycopg.Connection[Any]) -> bool:
        """Whether no other session is at work any more: what a test left behind is waited for."""
        give_up = time.monotonic() + BUSY_SECONDS
        own = -1 if self._session is None else self._session.info.backend_pid
        others = (
            "from pg_catalog.pg_stat_activity where datname = current_database()"
            " and backend_type = 'client backend' and pid not in (pg_backend_pid(), %s)"
        )
        query = (
            f"select 1 {others} and state <> 'idle'"
            if self._keeps_sessions
            else f"select pg_terminate_backend(pid) {others}"
        )
        while keeper.execute(query.encode(), (own,)).rowcount:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.002)
        return True


class Renewed:
    """The project: `.database` and `.gateway`, as after the seeds once `renew()` has returned."""

    def __init__(self, server: Postgres) -> None:
        self.database = RenewedDatabase(server, "renewed", keeps_sessions=True)
        self.gateway = Gateway(self.database.url, 0, schema="public")
        self._process: subprocess.Popen[bytes] | None = None

    def renew(self) -> None:
        """Put every row back, the schema too if a test changed it, and have the gateway up."""
        mine = self._process  # what a test started in a thread ends with that thread
        put_back = self.database.put_back()
        if (
            not put_back
            or mine is None
            or self.gateway.process is not mine
            or mine.poll() is not None
        ):
            self.gateway.stop()
            if not put_back:
                self.database.make()
            self.gateway = Gateway(self.database.url, reserve_port(), schema="public")
            self.gateway.start()
            self._process = self.gateway.process

    def close(self) -> None:
        """Stop the Data API and drop the database."""
        self.gateway.stop()
        self.database.close()
