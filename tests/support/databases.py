"""A scratch Postgres per test process and a fresh database per test, cloned from a template.

There are two templates: all migrations, and the same with the demo users and the seeds. With
`TEST_SCHEMA=minutehand` in the environment both are built under other schema names, as an install
does it, and what tests say in SQL is renamed on its way: `make test-schema`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from minutehand.install.rewrite import Schemas, rename_in_text, rewrite
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from minutehand.local.users import create_demo_users

TEMPLATE = "template_minutehand"
SEEDED = "template_seeded"
_numbers = itertools.count(1)
#: The names of this run's schemas: the clients', and the engine's.
SCHEMAS = (
    Schemas(os.environ["TEST_SCHEMA"], f"{os.environ['TEST_SCHEMA']}_engine")
    if os.environ.get("TEST_SCHEMA")
    else Schemas()
)


class RenamingCursor(psycopg.Cursor[Any]):
    """Sends what a test says with the schemas' names of this run."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Run the renamed query."""
        if isinstance(params, tuple):
            params = tuple(map(_renamed_value, params))
        return super().execute(_renamed(query), params, **options)

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """Run the renamed query for each parameters."""
        super().executemany(_renamed(query), params_seq, **options)


def _renamed_value(value: Any) -> Any:
    # `queue` alone is a column or a kind more often than a schema
    named = isinstance(value, str) and re.fullmatch(r"public|(?:public|queue)\.\w+", value)
    return rename_in_text(f"{value}.x", SCHEMAS).removesuffix(".x") if named else value


def _renamed(query: Any) -> Any:
    match query:
        case str():
            return rewrite(query, SCHEMAS)
        case bytes():
            return rewrite(query.decode(), SCHEMAS).encode()
        case _:
            return query


class Database:
    """One test's own database, with every migration applied and no rows of anyone else."""

    def __init__(self, server: Postgres, name: str) -> None:
        self.server = server
        self.name = name
        self.url = server.url(database=name)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """Open an autocommit connection, as the superuser unless `user` says otherwise."""
        options.setdefault("autocommit", True)
        if not SCHEMAS.as_written:
            options.setdefault("cursor_factory", RenamingCursor)
            options.setdefault("options", f"-c search_path={SCHEMAS.clients},public")
        return psycopg.connect(self.url, **options)

    @contextmanager
    def as_role(
        self, role: str, claims: Mapping[str, Any] | None = None, **options: Any
    ) -> Iterator[psycopg.Connection[Any]]:
        """Connect as the Data API would: under `role`, with the claims of a user's token."""
        with self.connect(**options) as connection:
            connection.execute(
                "select set_config('request.jwt.claims', %s, false)",
                (json.dumps({"role": role, **(claims or {})}),),
            )
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
            yield connection

    def seed(self) -> None:
        """Add the demo users and what `supabase/seed.sql` and its like add."""
        create_demo_users(self.url)
        with tempfile.TemporaryDirectory(prefix="minutehand-seeds-") as folder:
            for path in migrations.seed_files():
                renamed = path if SCHEMAS.as_written else _written(path, Path(folder))
                migrations.apply_seed(migrations.as_user(self.url, "postgres"), renamed)


def start_scratch_server(folder: Path) -> Postgres:
    """Start a server that forgets durability and never meets another one's port or data.

    `POSTGRES_BINARIES` names the folder of another version's binaries, see `make compatibility`.
    """
    binaries = os.environ.get("POSTGRES_BINARIES")
    server = Postgres(folder, scratch=True, binaries=Path(binaries) if binaries else None)
    server.start()
    return server


def build_template(server: Postgres) -> None:
    """Make the database that every test's own one is cloned from."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {TEMPLATE}")
    prepare(server, TEMPLATE)


def build_seeded_template(server: Postgres) -> None:
    """Make the template whose clones need no `seed()`."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        create_clone(connection, SEEDED, template=TEMPLATE)
    Database(server, SEEDED).seed()


def prepare(server: Postgres, name: str) -> None:
    """Bring a bare database to hosted base plus all migrations."""
    url = server.url(database=name)
    migrations.prepare_hosted(url)
    migrations.set_project_owner(url, server.password)
    apply_renamed(migrations.as_user(url, "postgres"), SCHEMAS)


def apply_renamed(url: str, schemas: Schemas) -> None:
    """Apply every migration of the checkout under other schema names."""
    with tempfile.TemporaryDirectory(prefix="minutehand-schema-") as folder:
        for migration in migrations.find_migrations():
            _written(migration.path, Path(folder), schemas)
        migrations.apply_migrations(url, migrations.migrations_in(Path(folder)))


def _written(path: Path, folder: Path, schemas: Schemas = SCHEMAS) -> Path:
    target = folder / path.name
    target.write_text(rewrite(path.read_text("utf-8"), schemas), "utf-8")
    return target


@contextmanager
def fresh_database(server: Postgres, *, template: str = TEMPLATE) -> Iterator[Database]:
    """Clone `template` for the length of a test; connections left open are cut at the end."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        create_clone(connection, name, template=template)
        try:
            yield Database(server, name)
        finally:
            drop(connection, name)


def create_clone(connection: psycopg.Connection[Any], name: str, *, template: str) -> None:
    """Copy a template; those of a project belong to the project's owner."""
    owner = " owner postgres" if template in (TEMPLATE, SEEDED) else ""
    connection.execute(
        f"create database {name} template {template}{owner} strategy file_copy".encode()
    )


def drop(connection: psycopg.Connection[Any], name: str) -> None:
    """Cut who is connected, then drop; `with (force)` alone looks again only every 100 ms."""
    give_up = time.monotonic() + 5
    while (
        time.monotonic() < give_up
        and connection.execute(
            "select pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where datname = %s",
            (name,),
        ).fetchall()
    ):
        time.sleep(0.002)
    connection.execute(f"drop database {name} with (force)".encode())
