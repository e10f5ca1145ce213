"""The seeded database of a test process, put back before every test, and its Data API.

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


class Renewed(Database):
    """As after the seeds once `renew` has returned; a test may do to it what it likes."""

    def __init__(self, server: Postgres) -> None:
        super().__init__(server, "renewed")
        self._keeper: psycopg.Connection[Any] | None = None
        self._since, self._dead_rows = "", 0
        self._gateway = Gateway(self.url, 0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def gateway(self) -> Gateway:
        """Its Data API, started for the first who asks, and again if a test stopped it."""
        mine = self._process  # what a test started in a thread ends with that thread
        if mine is None or self._gateway.process is not mine or mine.poll() is not None:
            self._gateway.stop()
            self._gateway = Gateway(self.url, reserve_port())
            self._gateway.start()
            self._process = self._gateway.process
        return self._gateway

    def renew(self, *, fresh: bool = False) -> None:
        """Put every row back; or make it again if a test has changed more, or for a fresh one."""
        if fresh or not self._put_back():
            self._make()

    def close(self) -> None:
        """Stop its Data API and drop it."""
        self._gateway.stop()
        self.close_session()
        if self._keeper is not None:
            self._keeper.close()
            with psycopg.connect(self.server.url(), autocommit=True) as connection:
                drop(connection, self.name)
        self._keeper = None

    def _put_back(self) -> bool:
        """Put every row back, unless a test has changed more than rows; whether that was done."""
        if self._keeper is None or self._dead_rows > DEAD_ROWS:
            return False
        try:
            if not self._is_idle(self._keeper):
                return False
            # what it writes is counted at once, and not while a test counts what others write
            row = self._keeper.execute(
                "select o_rows, o_now::text, pg_stat_force_next_flush() from kept.put_back(%s)",
                (self._since,),
            ).fetchone()
        except psycopg.Error:  # the test has crashed the server, or cut every session
            return False
        assert row is not None
        rows, self._since, _ = row
        self._dead_rows += rows or 0
        return rows is not None

    def _make(self) -> None:
        self.close()
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            create_clone(connection, self.name, template=SEEDED)
        # without triggers, for which a session forgets its plans: hence one of its own
        self._keeper = psycopg.connect(
            self.url, autocommit=True, options="-c session_replication_role=replica"
        )
        row = self._keeper.execute("select since::text from kept.made").fetchone()
        assert row is not None
        self._since, self._dead_rows = row[0], 0

    def _is_idle(self, keeper: psycopg.Connection[Any]) -> bool:
        """Whether no other session is at work any more: what a test left behind is waited for."""
        give_up = time.monotonic() + BUSY_SECONDS
        own = -1 if self._session is None else self._session.info.backend_pid
        busy = (
            "select from pg_catalog.pg_stat_activity where datname = current_database()"
            " and backend_type = 'client backend' and state <> 'idle'"
            " and pid not in (pg_backend_pid(), %s)"
        )
        while keeper.execute(busy, (own,)).rowcount:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.002)
        return True
