"""The schema goes to the stage's project: the real Supabase CLI against stand-ins of a project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from minutehand.cli import supabase_cli
from minutehand.cli.supabase_cli import SupabaseCli, how_to_migrate
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from tests.support.databases import HOSTED, create_clone, drop
from tests.support.hosted_project import LOGIN_ROLE, PASSWORD, HostedProject, hosted_project
from tests.support.supabase_cli import supabase_program

REF = "abcdefghijklmnopqrst"
OTHER = "zyxwvutsrqponmlkjihg"
PUSHED_TO, ELSEWHERE = "pushed_to", "never_pushed_to"


@pytest.fixture
def hosted(postgres: Postgres, tmp_path: Path) -> Iterator[HostedProject]:
    """A project whose database is as a hosted one is before its first migration."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name in (PUSHED_TO, ELSEWHERE):
            create_clone(connection, name, template=HOSTED)
        migrations.set_project_owner(postgres.url(), PASSWORD)
        connection.execute(
            f"create role {LOGIN_ROLE} login noinherit in role postgres"
            f" password '{PASSWORD}'".encode()
        )
        try:
            url = postgres.url(database=PUSHED_TO, user="postgres")
            with hosted_project(REF, url, tmp_path) as project:
                yield project
        finally:
            for name in (PUSHED_TO, ELSEWHERE):
                drop(connection, name)
            connection.execute(f"drop role {LOGIN_ROLE}".encode())
            # roles are the server's, which the tests after this one share
            migrations.set_project_owner(postgres.url(), postgres.password)


def versions(postgres: Postgres, database: str) -> list[str]:
    """The migrations that were applied."""
    with psycopg.connect(postgres.url(database=database)) as connection:
        rows = connection.execute(
            "select version from supabase_migrations.schema_migrations order by 1"
        )
        return [row[0] for row in rows]


@pytest.fixture
def bakery(tmp_path: Path, postgres: Postgres) -> Project:
    """A project of one migration, whose local stack is another database that answers."""
    folder = tmp_path / "bakery"
    (folder / "supabase" / "migrations").mkdir(parents=True)
    port = postgres.url().rsplit(":", 1)[1].split("/")[0]
    (folder / "supabase" / "config.toml").write_text(
        f'project_id = "bakery"\n\n[db]\nport = {port}\nmajor_version = 17\n'
    )
    first = folder / "supabase" / "migrations" / "20260101000000_create_ovens.sql"
    first.write_text("create table public.ovens (id bigint primary key);\n")
    return Project.at(folder)


def cli(major: int, monkeypatch: pytest.MonkeyPatch, hosted: HostedProject) -> SupabaseCli:
    """The real CLI of a major version, in a shell that signed in."""
    for name, value in hosted.environment().items():
        monkeypatch.setenv(name, value)
    program = supabase_program(major)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    found = SupabaseCli.find()
    assert found.version[0] == major
    return found


def link(project: Project, ref: str) -> None:
    """What `supabase link` leaves in the folder."""
    temp = project.root / "supabase" / ".temp"
    temp.mkdir()
    (temp / "project-ref").write_text(ref)


def only_the_named_project_changes(there: SupabaseCli, bakery: Project, postgres: Postgres) -> None:
    """Nothing by a dry run, and by a push REF's database alone."""
    there.push(REF, bakery, dry_run=True)
    assert versions(postgres, PUSHED_TO) == []
    there.push(REF, bakery)

    assert versions(postgres, PUSHED_TO) == ["20260101000000"]
    assert versions(postgres, ELSEWHERE) == []


def test_the_schema_goes_to_the_named_project_release_by_release_and_to_no_local_stack(
    monkeypatch: pytest.MonkeyPatch, hosted: HostedProject, bakery: Project, postgres: Postgres
) -> None:
    """Even where the folder is linked elsewhere, a local stack answers, and the shell says so.

    A second release continues from the first, and a third push has nothing to do.
    """
    link(bakery, OTHER)
    there = cli(3, monkeypatch, hosted)
    monkeypatch.setenv("SUPABASE_PROJECT_ID", OTHER)

    only_the_named_project_changes(there, bakery, postgres)
    assert {session.split(".")[1] for session in hosted.sessions} == {REF}
    assert not [asked for asked in hosted.asked if OTHER in asked]

    second = bakery.root / "supabase" / "migrations" / "20260201000000_add_heat.sql"
    second.write_text("alter table public.ovens add column heat integer;\n")

    there.push(REF, bakery)
    there.push(REF, bakery)

    assert versions(postgres, PUSHED_TO) == ["20260101000000", "20260201000000"]


@pytest.mark.parametrize("linked", [None, OTHER])
def test_version_2_refuses_a_folder_that_is_linked_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    hosted: HostedProject,
    bakery: Project,
    postgres: Postgres,
    linked: str | None,
) -> None:
    """It would push to the linked project, whatever the stage says."""
    if linked is not None:
        link(bakery, linked)
    with pytest.raises(CommandFailed) as caught:
        cli(2, monkeypatch, hosted).push(REF, bakery)

    assert caught.value.code == "linked_elsewhere"
    assert caught.value.fix is not None
    assert f"supabase link --project-ref {REF}" in caught.value.fix
    assert hosted.asked == []


def fake_cli(folder: Path, says: str) -> str:
    """A program named supabase that knows its version alone."""
    program = folder / "supabase"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return str(folder)


def test_a_missing_or_old_cli_is_refused(tmp_path: Path) -> None:
    """Without the schema the first tick fails, after minutes of CloudFormation."""
    with pytest.raises(CommandFailed) as missing:
        SupabaseCli.find(str(tmp_path))
    with pytest.raises(CommandFailed) as old:
        SupabaseCli.find(fake_cli(tmp_path, "1.226.4"))
    with pytest.raises(CommandFailed, match=r"is version dev; 2\.0 or newer"):
        SupabaseCli.find(fake_cli(tmp_path, "dev"))

    assert missing.value.code == "no_supabase_cli"
    assert old.value.code == "old_supabase_cli"
    assert missing.value.fix == old.value.fix == supabase_cli.INSTALL


def test_the_way_to_migrate_names_its_target() -> None:
    """A plain push would go wherever the CLI's version sends it."""
    url = f"https://{REF}.supabase.co/"

    assert how_to_migrate(url) == f"supabase db push --remote={REF}"
    assert how_to_migrate(url, "prod") == "minutehand deploy prod"
    assert how_to_migrate("http://127.0.0.1:54321").endswith("supabase migration up")
