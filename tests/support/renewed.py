"""A seeded database of a test process, which is reset before every test, and its Data API."""

import subprocess
from typing import Any

import psycopg

from infra.bench.scratch import Gateway
from supabase_local.ports import reserve_port
from supabase_local.postgres import Postgres
from tests.support.databases import SEEDED, Database, create_clone, drop
from tests.support.patience import until


class Renewed(Database):
    """The seeded database. `renew` resets it, and a test may change it in any way."""

    def __init__(self, server: Postgres) -> None:
        super().__init__(server, "renewed")
        self._keeper: psycopg.Connection[Any] | None = None
        self._gateway = Gateway(self.url, 0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def gateway(self) -> Gateway:
        """The Data API, started at its first use, and again if a test stopped it."""
        mine = self._process  # a thread that a test started ends with it
        if mine is None or self._gateway.process is not mine or mine.poll() is not None:
            self._gateway.stop()
            self._gateway = Gateway(self.url, reserve_port())
            self._gateway.start()
            self._process = self._gateway.process
        return self._gateway

    def renew(self, *, fresh: bool = False) -> None:
        """Reset the rows.

        Create the database again if a test needs a new one or changed more than rows.
        """
        if fresh or not self._put_back():
            self._make()

    def close(self) -> None:
        self._gateway.stop()
        self.close_session()
        if self._keeper is not None:
            self._keeper.close()
            with psycopg.connect(self.server.url(), autocommit=True) as connection:
                drop(connection, self.name)
        self._keeper = None

    def _put_back(self) -> bool:
        """Reset the rows. Return False if a test has changed more than rows."""
        keeper = self._keeper
        if keeper is None:
            return False
        # The session may still be in a transaction, which the method `session` ends.
        own = -1 if self._session is None else self._session.info.backend_pid
        busy = (
            "select from pg_catalog.pg_stat_activity where datname = current_database()"
            " and backend_type = 'client backend' and state <> 'idle'"
            f" and pid not in (pg_backend_pid(), {own})"
        )
        try:
            # Wait for transactions that a test left open.
            until(lambda: not keeper.execute(busy.encode()).rowcount, every=0.002)
            # Flush the statistics of this write now, so that no test counts it.
            put_back = "select kept.put_back(), pg_stat_force_next_flush()"
            [(is_done, _)] = keeper.execute(put_back.encode()).fetchall()
        except (psycopg.Error, TimeoutError):  # the test crashed the server or closed every session
            return False
        return bool(is_done)

    def _make(self) -> None:
        self.close()
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            create_clone(connection, self.name, template=SEEDED)
        # This separate session runs without triggers. A session that switches triggers off discards
        # its query plans.
        self._keeper = psycopg.connect(
            self.url, autocommit=True, options="-c session_replication_role=replica"
        )
