"""The published types of tables and functions against the catalogue that decides."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from minutehand.node import node_binary
from minutehand.resources import resource
from tests.support.databases import HOSTED, create_clone, drop
from tests.support.paths import ROOT

COLUMNS = """
select c.relname, a.attname, not a.attnotnull
from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = 'public'::regnamespace and c.relkind = %s
  and has_column_privilege('authenticated', c.oid, a.attnum, 'select')
"""
ARGUMENTS = """
select p.proname, coalesce(p.proargnames, '{}'), p.pronargs - p.pronargdefaults
from pg_proc as p
where p.pronamespace = 'public'::regnamespace
  and (has_function_privilege('authenticated', p.oid, 'execute')
    or has_function_privilege('anon', p.oid, 'execute'))
"""


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """A database with the engine's migrations and no app's."""
    name = "engine_alone"
    with psycopg.connect(postgres.url(), autocommit=True) as server:
        create_clone(server, name, template=HOSTED)
        url = postgres.url(database=name)
        own = migrations.migrations_in(resource("migrations"))
        migrations.apply_migrations(migrations.as_user(url, "postgres"), own)
        with psycopg.connect(url) as connection:
            yield connection
        drop(server, name)


def columns(sql: psycopg.Connection[Any], kind: str) -> dict[str, dict[str, bool]]:
    found: dict[str, dict[str, bool]] = {}
    for relation, column, nullable in sql.execute(COLUMNS.encode(), (kind,)):
        found.setdefault(relation, {})[column] = nullable
    return found


def test_each_table_column_and_function_that_members_use_is_declared(
    engine: psycopg.Connection[Any], unpacked: Path
) -> None:
    """Left and right by name; what is optional or may be null too."""
    declared = json.loads(
        subprocess.run(
            [
                str(node_binary()), str(Path(__file__).parent / "types.mjs"), str(unpacked),
                str(ROOT / "node_modules" / "typescript"),
            ],
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    functions = {
        name: {argument: place >= required for place, argument in enumerate(arguments)}
        for name, arguments, required in engine.execute(ARGUMENTS.encode())
    }

    assert declared["tables"] == columns(engine, "r")
    assert declared["views"] == columns(engine, "v")
    assert declared["functions"] == functions
