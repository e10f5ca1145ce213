"""Migrations and seeds as projects on Supabase have them go into the local database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from supabase_local import migrations
from supabase_local.migrations import apply_migrations, apply_seed, migrations_in
from supabase_local.postgres import Postgres
from tests.support.databases import HOSTED, create_clone, drop
from tests.support.paths import ROOT

STARTERS = sorted((ROOT / "tests" / "fixtures" / "starters").glob("*.sql"))


@pytest.fixture
def project(postgres: Postgres) -> Iterator[str]:
    """The address of a fresh project's database, as its owner."""
    name = f"starter_{uuid4().hex[:8]}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        create_clone(connection, name, template=HOSTED)
        connection.execute(f"alter database {name} owner to postgres".encode())
        try:
            yield migrations.as_user(postgres.url(database=name), "postgres")
        finally:
            drop(connection, name)


def migrate(project: str, folder: Path, text: str) -> None:
    (folder / "20250101000000_starter.sql").write_text(text)
    apply_migrations(project, migrations_in(folder))


@pytest.mark.parametrize("starter", STARTERS, ids=lambda path: path.stem)
def test_a_starter_is_taken_as_it_is(starter: Path, project: str, tmp_path: Path) -> None:
    """Extensions, storage, the Vault, webhooks, Auth's columns; each row of its seed arrives."""
    schema, _, rows = starter.read_text().partition("-- seed\n")
    seed = tmp_path / "seed.sql"
    seed.write_text(rows)

    migrate(project, tmp_path, schema)

    assert apply_seed(project, seed)
