"""The SQL under another schema name is the same SQL."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg

from infra.release.catalogue import as_written, catalogue, differences
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from tests.support.databases import HOSTED, Database, create_clone, drop

OTHER = Schemas("zzclients")


def test_the_catalogue_differs_in_the_two_names_alone(postgres: Postgres) -> None:
    """Tables, functions with their bodies, grants, policies, comments, publications."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        names = ("rewritten", "as_written")
        for name in names:
            create_clone(connection, name, template=HOSTED)
        try:
            renamed, written = (Database(postgres, name) for name in names)
            for database, schemas in ((renamed, OTHER), (written, Schemas())):
                with tempfile.TemporaryDirectory() as folder:
                    for one in migrations.find_migrations():
                        text = rewrite(one.path.read_text("utf-8"), schemas)
                        (Path(folder) / one.path.name).write_text(text, "utf-8")
                    owner = migrations.as_user(database.url, "postgres")
                    migrations.apply_migrations(owner, migrations.migrations_in(Path(folder)))
            found = differences(
                catalogue(written.url), as_written(catalogue(renamed.url, OTHER), OTHER)
            )
            with renamed.connect() as reader:
                left = reader.execute(
                    "select relname from pg_class where relnamespace = 'public'::regnamespace"
                ).fetchall()
        finally:
            for name in names:
                drop(connection, name)

    # a schema that was there keeps its own comment
    assert [line for line in found if "comment schema public" not in line] == []
    assert left == []
