"""A Postgres server per test process, and a new database per test, cloned from a template.

The templates are created once a day for equal sources: a hosted project, all migrations, and the
seeds. Each server starts on a copy of the templates' data folder.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from minutehand.install import catalog
from minutehand.local.database import apply_project, seed_files
from minutehand.local.migrations import find_migrations
from minutehand.local.users import create_demo_users
from supabase_local import migrations
from supabase_local.postgres import Postgres
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.shared import made_once_in

HOSTED = "template_hosted"
TEMPLATE = "template_minutehand"
SEEDED = "template_seeded"
KEPT = Path(__file__).with_name("kept.sql")
_CACHE = ROOT / ".local" / "test-templates"
_numbers = itertools.count(1)


class SuperuserAccess:
    """Access to a database as its superuser."""

    database_url: str

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        options.setdefault("autocommit", True)
        return psycopg.connect(self.database_url, **options)

    def run(self, statement: str, *values: Any) -> list[Any]:
        """Run an SQL statement in a new session, and return its rows."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []


class Database(SuperuserAccess):
    """The database of one test, with all migrations applied and no other rows."""

    def __init__(self, server: Postgres, name: str, url: str = "") -> None:
        self.server = server
        self.name = name
        self.url = self.database_url = url or server.url(database=name)
        self._session: psycopg.Connection[Any] | None = None
        #: The idle sessions of `as_role`.
        self._idle: list[psycopg.Connection[Any]] = []

    def session(self) -> psycopg.Connection[Any]:
        """Return a superuser's session without settings and locks.

        The session is reused, so it keeps its query plans between tests.
        """
        if self._session is not None:
            try:
                _reset(self._session)
            except psycopg.Error:
                self._session.close()
        if self._session is None or self._session.closed:
            self._session = self.connect()
        return self._session

    def close_session(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def as_role(
        self, role: str, claims: Mapping[str, Any] | None = None
    ) -> Iterator[psycopg.Connection[Any]]:
        """Return a session as in the Data API, with `role` and the claims of a user's token.

        The session is reused, so it keeps its query plans between tests.
        """
        connection = self._idle.pop() if self._idle else self.connect()
        try:
            connection.execute(
                "select set_config('request.jwt.claims', %s, false)",
                (json.dumps({"role": role, **(claims or {})}),),
            )
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
            yield connection
            connection.commit()
            _reset(connection)
            self._idle.append(connection)
        except BaseException:
            connection.close()
            raise


def _reset(session: psycopg.Connection[Any]) -> None:
    """End a session's transaction, and remove its settings, locks and statistics."""
    session.rollback()
    session.execute(
        "close all; set session authorization default; reset all; unlisten *;"
        " select pg_advisory_unlock_all(), pg_stat_force_next_flush(); discard temp"
    )


def prepared_server(folder: Path) -> Postgres:
    """Return a server that has the templates and is not started.

    A stack's launcher can also use it.
    """
    prepared = made_once_in(_CACHE / _fingerprint(), _make_prepared)
    _copy(prepared / "postgres.password", folder / "postgres.password")
    server = _scratch_server(folder)
    _copy(prepared / "postgres", server.data_dir)
    return server


def _scratch_server(folder: Path) -> Postgres:
    """Return a server that does not write durably.

    POSTGRES_BINARIES may name another version's folder.
    """
    binaries = os.environ.get("POSTGRES_BINARIES")
    return Postgres(folder, scratch=True, binaries=Path(binaries) if binaries else None)


def _fingerprint() -> str:
    shared = ROOT / "shared"
    local, supabase = shared / "minutehand" / "local", shared / "supabase_local"
    files = [
        *find_migrations(),
        *seed_files(),
        *supabase.rglob("*.sql"),
        *(local / f"{name}.py" for name in ("migrations", "database", "users")),
        *(supabase / f"{name}.py" for name in ("migrations", "postgres")),
        *(ROOT / "requirements-dev.lock", Path(__file__), KEPT, catalog.QUERY),
    ]
    binaries, today = os.environ.get("POSTGRES_BINARIES", ""), datetime.now(UTC).date()
    texts = (f"{path.name}\n{path.read_text()}" for path in files)
    parts = [binaries, str(today), *texts]  # the seeds' rows depend on the day
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _make_prepared(folder: Path) -> None:
    for older in sorted(filter(Path.is_dir, _CACHE.iterdir()), key=os.path.getmtime)[:-3]:
        older.with_name(f"{older.name}.whole").unlink(missing_ok=True)
        shutil.rmtree(older)
    server = _scratch_server(folder / "server")
    try:
        server.start()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # Each test chooses the planner's statistics itself.
            connection.execute("alter system set autovacuum = off")
        make_templates(server)
        server.stop()
        _copy(server.data_dir, folder / "postgres")
        _copy(server.state_dir / "postgres.password", folder / "postgres.password")
    finally:
        server.destroy()


def _copy(source: Path, target: Path) -> None:
    # `cp -a` keeps the owner, because root starts the server as another user.
    subprocess.run(["cp", "-a", source, target], check=True)


def make_templates(server: Postgres) -> None:
    url = server.url(database="postgres")
    owner = migrations.as_owner(url)
    migrations.prepare_hosted(url)
    migrations.set_project_owner(url, server.password)
    apply_project(owner)
    with psycopg.connect(server.url(database="template1"), autocommit=True) as connection:
        create_clone(connection, TEMPLATE, template="postgres")
        create_clone(connection, HOSTED, template="template0")
    migrations.prepare_hosted(server.url(database=HOSTED))
    create_demo_users(url)
    for path in seed_files():
        migrations.apply_seed(owner, path, root=ROOT)
    with psycopg.connect(server.url(database="template1"), autocommit=True) as connection:
        create_clone(connection, SEEDED, template="postgres")
    with psycopg.connect(server.url(database=SEEDED)) as connection:
        connection.execute(KEPT.read_text().encode())


@contextmanager
def fresh_database(server: Postgres, *, template: str = TEMPLATE) -> Iterator[Database]:
    """Clone `template` for the duration of a test. Open connections are closed at the end."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        create_clone(connection, name, template=template)
        database = Database(server, name)
        try:
            yield database
        finally:
            database.close_session()
            drop(connection, name)


def create_clone(connection: psycopg.Connection[Any], name: str, *, template: str) -> None:
    """Create a database as a copy of a template.

    A copy of a project's template belongs to the project's owner.
    """
    owner = "" if template == "template0" else " owner postgres"
    connection.execute(
        f"create database {name} template {template}{owner} strategy file_copy".encode()
    )


def drop(connection: psycopg.Connection[Any], name: str) -> None:
    """Close a database's connections, and then drop it.

    `with (force)` alone would wait in steps of 100 ms.
    """
    cut = "select pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where datname = %s"
    until(lambda: not connection.execute(cut, (name,)).rowcount, every=0.002)
    connection.execute(f"drop database {name} with (force)".encode())
