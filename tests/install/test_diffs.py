"""Tools that compare a declared schema with the database propose no drop of our objects."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from infra.release.supabase_cli import fetch
from infra.release.wheels import Environment
from minutehand.node import node_binary
from supabase_local.migrations import (
    apply_migrations,
    migrations_in,
    prepare_hosted,
    set_project_owner,
)
from supabase_local.postgres import Postgres
from tests.install.projects import Hosted, HostedDatabase
from tests.support.paths import ROOT

pytestmark = [pytest.mark.timeout(600), pytest.mark.weekly(only=True)]
PAGE = ROOT / "shared/minutehand/install/README.md"
TABLES = {
    "schemas/1_people/organizations.sql": (
        "create table public.organizations (id uuid primary key, name text not null);\n"
    ),
    "schemas/2_memberships.sql": (
        "create table public.memberships (organization_id uuid references public.organizations (id)"
        ", user_id uuid, role text, primary key (organization_id, user_id));\n"
    ),
}
TENANTS = (
    *("--organizations", "organizations(id,name)"),
    *("--memberships", "memberships(organization_id,user_id,role)"),
)
CONFIG = 'project_id = "shop"\n\n[api]\nschemas = ["public", "minutehand"]\n'

#: The same tables for Drizzle, and a column more.
DRIZZLE = """
import { foreignKey, pgTable, primaryKey, text, uuid } from "drizzle-orm/pg-core";
export const organizations = pgTable("organizations", {
  id: uuid().primaryKey(), name: text().notNull(), note: text(),
});
export const memberships = pgTable("memberships", {
  organization_id: uuid().notNull(), user_id: uuid().notNull(), role: text(),
}, (own) => [
  primaryKey({ name: "memberships_pkey", columns: [own.organization_id, own.user_id] }),
  foreignKey({ name: "memberships_organization_id_fkey", columns: [own.organization_id],
    foreignColumns: [organizations.id] }),
]);
"""


@pytest.fixture
def hosted(postgres: Postgres) -> Hosted:
    """A server for databases like those of hosted projects."""
    return Hosted(postgres, Path())


@pytest.fixture
def project(environment: Environment, tmp_path: Path) -> Path:
    """A project whose tables are declared, with a migration of the declarations."""
    files = {
        **TABLES,
        "migrations/20250101120000_create.sql": "".join(TABLES.values()),
        "config.toml": CONFIG,
    }
    for name, text in files.items():
        path = tmp_path / "supabase" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_declared_schema_drops_nothing_of_ours(
    project: Path, environment: Environment, hosted: Hosted
) -> None:
    """`supabase db diff` proposes no drop with the line that install prints."""
    [note] = environment.minutehand(project, "install", *TENANTS)["notes"][-1:]
    config = project / "supabase" / "config.toml"
    [line] = re.findall(r"^ +(schema_paths = .*)$", note, re.MULTILINE)
    config.write_text(f"{config.read_text()}\n[db.migrations]\n{line}\n")
    assert environment.minutehand(project, "install")["notes"] == []
    with hosted.database() as migrated, hosted.database() as declared:
        apply_migrations(migrated.owner_url, migrations_in(project / "supabase/migrations"))
        for path in declared_files(project):
            declared.as_owner(path.read_text())
        assert diff(migrated, declared) == ""


def test_a_generated_declaration_holds_ours(
    project: Path, environment: Environment, hosted: Hosted, tmp_path: Path
) -> None:
    """`supabase db schema declarative sync` keeps the files that `generate` writes."""
    environment.minutehand(project, "install", *TENANTS)
    declared = project / "supabase/database"
    [role] = re.findall(r"`(create role .+?;)`", PAGE.read_text())
    # as the CLI's shadow, which is a separate server
    with another_server(tmp_path) as shadow, hosted.database() as migrated:
        apply_migrations(migrated.owner_url, migrations_in(project / "supabase/migrations"))
        pg_delta("schema", "export", "--source", migrated.owner_url, "--out-dir", str(declared))
        assert (declared / "schemas/minutehand/functions/enqueue_job.sql").exists()
        with psycopg.connect(shadow, autocommit=True) as owner:
            owner.execute(role.encode())
        # as the CLI's shadow, which already has the extensions of a new project
        shutil.rmtree(declared / "cluster/extensions")
        options = ("--shadow", shadow, "--isolated-shadow", "--target", migrated.owner_url)
        output = pg_delta("schema", "apply", "--dir", str(declared), *options, "--dry-run")
        assert "Planning: 0 action(s)" in output, output


def test_drizzle_pushes_past_our_schemas(
    project: Path, environment: Environment, hosted: Hosted
) -> None:
    """With its first configuration, it adds a column to their table and changes nothing else."""
    environment.minutehand(project, "install", *TENANTS)
    packages = ("drizzle-kit@0.31.11", "drizzle-orm@0.45.1", "pg@8.16.3")
    (project / "node_modules").symlink_to(fetch("drizzle", *packages))
    (project / "schema.ts").write_text(DRIZZLE)
    with hosted.database() as database:
        apply_migrations(database.owner_url, migrations_in(project / "supabase/migrations"))
        before = database.everything()
        (project / "drizzle.config.json").write_text(
            json.dumps(
                {
                    "dialect": "postgresql",
                    "schema": "./schema.ts",
                    "dbCredentials": {"url": database.owner_url},
                }
            )
        )
        program = "node_modules/drizzle-kit/bin.cjs"
        done = subprocess.run(
            [node_binary(), program, "push", "--force", "--config", "drizzle.config.json"],
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        note = (
            "select count(*) from pg_attribute where attname = 'note' and attrelid = %s::regclass"
        )
        assert database.run(note, "organizations") == [(1,)], done.stdout + done.stderr
        assert database.everything() == before


@contextmanager
def another_server(folder: Path) -> Iterator[str]:
    """Run a separate server with a project's database and yield its address as the owner."""
    server = Postgres(folder / "server", scratch=True)
    server.start()
    try:
        prepare_hosted(server.url())
        set_project_owner(server.url(), server.password)
        yield server.url(user="postgres")
    finally:
        server.destroy()


def pg_delta(*arguments: str) -> str:
    """Run the tool by which version 3 of the CLI compares, and return its output."""
    modules = fetch("pg-delta", "@supabase/pg-delta@1.0.0-alpha.34")
    program = modules / "@supabase/pg-delta/dist/cli/main.js"
    done = subprocess.run(
        [node_binary(), program, *arguments, "--profile", "supabase"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def declared_files(project: Path) -> list[Path]:
    """List the files of `schema_paths` as the CLI does: by pattern, each file once.

    A pattern without a match fails the test.
    """
    home = project / "supabase"
    config = tomllib.loads((home / "config.toml").read_text())
    files: dict[Path, None] = {}
    for pattern in config["db"]["migrations"]["schema_paths"]:
        matches = sorted(home.glob(pattern))
        assert matches, pattern
        files |= dict.fromkeys(matches)
    return list(files)


def diff(migrated: HostedDatabase, declared: HostedDatabase) -> str:
    """Return the SQL that would turn the migrated database into the declared one."""
    modules = fetch("migra", "@pgkit/migra@0.6.1")
    script = modules.parent / "schema_diff.mjs"
    # next to its modules; always replaced, because another checkout may have left its own there
    draft = script.with_suffix(f".{os.getpid()}.mjs")
    draft.write_text(Path(__file__).with_name(script.name).read_text())
    draft.replace(script)
    done = subprocess.run(
        [node_binary(), "--preserve-symlinks-main", script, migrated.url, declared.url],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
