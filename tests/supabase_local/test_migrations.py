"""Local migrations leave a database in which `supabase db push` has nothing to do."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minutehand.local.migrations import find_migrations
from supabase_local import migrations
from supabase_local.migrations import MigrationFailed, migrations_in, version_of
from supabase_local.stack import Stack
from tests.support.databases import Database


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def apply(database: Database, folder: Path) -> list[str]:
    url = migrations.as_owner(database.url)
    return [version_of(done) for done in migrations.apply_migrations(url, migrations_in(folder))]


def test_history_is_what_the_cli_would_have_written(database: Database) -> None:
    """The migration history has the versions, names and statements that the Supabase CLI writes."""
    rows = database.run(
        "select version, name, statements from supabase_migrations.schema_migrations"
        " order by version"
    )

    files = [path.name for path in find_migrations()]
    assert [f"{version}_{name}.sql" for version, name, _ in rows] == files
    assert all(statements for *_, statements in rows)
    assert not any(text.rstrip().endswith(";") for *_, texts in rows for text in texts)


def test_a_failing_statement_leaves_nothing_of_its_file(database: Database, tmp_path: Path) -> None:
    """If a statement of a migration fails, nothing of the file is applied."""
    write(tmp_path, "29990101000000_first.sql", "create table scratch_first ();")
    second = "create table scratch_second ();"
    path = write(
        tmp_path, "29990101000001_second.sql", f"{second}\nselect * from nowhere_to_be_found;"
    )

    with pytest.raises(MigrationFailed, match=r"second\.sql, line 2.*nowhere") as failed:
        apply(database, tmp_path)
    assert "`supabase start`" in str(failed.value)

    found = (
        "select to_regclass('scratch_first') is not null, to_regclass('scratch_second') is not null"
    )
    assert database.run(found) == [(True, False)]
    path.write_text(second)
    assert apply(database, tmp_path) == ["29990101000001"]


async def test_a_stack_goes_on_after_a_file_that_cannot_be_applied(
    database: Database, tmp_path: Path
) -> None:
    """The stack prints each failure once, and applies the migration later."""
    said: list[str] = []
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    server = SimpleNamespace(url=lambda: "host=127.0.0.1 port=1")
    given: Any = {"state": None, "logs": None, "say": said.append, "postgres": server}
    stack = Stack(root=tmp_path, values={}, environment={}, parts=[], **given)

    path = write(folder, "29990101000000_saved.sql", "select '\0';")
    await stack._apply_new_files()
    await stack._apply_new_files()
    server.url = lambda: database.url
    await stack._apply_new_files()
    write(folder, path.name, "create table scratch_saved ();")
    await stack._apply_new_files()

    *failures, applied = said
    assert [text.partition(":")[0] for text in failures] == [
        "[bold red]a migration was not applied[/]"
    ] * 2
    assert path.name in applied


def test_an_index_is_created_concurrently(database: Database, tmp_path: Path) -> None:
    """A migration may create an index concurrently, which Postgres rejects in a transaction."""
    write(
        tmp_path,
        "29990101000000_index.sql",
        "create table scratch (a text);\n"
        "create index concurrently scratch_a on scratch (a);\n"
        "insert into scratch values ('last');",
    )

    assert apply(database, tmp_path) == ["29990101000000"]
    assert apply(database, tmp_path) == []
    found = "select to_regclass('scratch_a') is not null, a from scratch"
    assert database.run(found) == [(True, "last")]


def test_an_edited_or_a_late_migration_is_refused(database: Database, tmp_path: Path) -> None:
    """An edited migration that was applied is rejected.

    A new one that sorts before it is rejected too.
    """
    path = write(tmp_path, "29990101000000_first.sql", "create table scratch_first ();")
    apply(database, tmp_path)
    path.write_text("create table scratch_first (id int);")
    with pytest.raises(MigrationFailed, match="was edited after it was applied"):
        apply(database, tmp_path)

    write(tmp_path, "00000101000000_late.sql", "create table scratch_late ();")
    with pytest.raises(MigrationFailed, match="is older than"):
        apply(database, tmp_path)


def test_the_seed_runs_once_and_an_edited_one_is_only_noted(
    database: Database, tmp_path: Path
) -> None:
    """A seed runs once. An edited seed is reported and does not run again."""
    url = migrations.as_owner(database.url)
    with database.connect(user="postgres") as connection:
        connection.execute("create table scratch_seeded (n int)")
    seed = write(tmp_path, "seed.sql", "insert into scratch_seeded values (1);")

    first, second = migrations.apply_seed(url, seed), migrations.apply_seed(url, seed)
    seed.write_text("insert into scratch_seeded values (2);")
    third = migrations.apply_seed(url, seed)

    assert (first, second, third) == (True, False, False)
    assert database.run("select n from scratch_seeded") == [(1,)]
    rows = database.run("select hash from supabase_migrations.seed_files where path = 'seed.sql'")
    assert rows == [(hashlib.sha256(seed.read_bytes()).hexdigest(),)]


def test_a_migration_may_do_what_hosteds_extension_lets_it(
    database: Database, tmp_path: Path
) -> None:
    """The local Supabase skips statements that changed nothing in hosted projects until 2025."""
    text = """
      -- files
      alter table storage.objects enable row level security;
      alter table if exists "auth"."users" enable row level security;
      create publication everything for all tables;
      drop publication everything;
      create function enable() returns event_trigger language plpgsql as 'begin end';
      create event trigger ensure_rls on ddl_command_end execute function enable();
      drop event trigger ensure_rls;
    """
    write(tmp_path, "29990101000000_theirs.sql", text)
    assert apply(database, tmp_path) == ["29990101000000"]


def test_a_missing_extension_is_named_with_the_statement_that_needs_it(
    database: Database, tmp_path: Path
) -> None:
    text = """
      create extension if not exists postgis with schema extensions;
      create table shops (id int, at extensions.geography(point));
    """
    write(tmp_path, "29990101000000_theirs.sql", text)

    with pytest.raises(MigrationFailed) as failed:
        apply(database, tmp_path)

    for words in (
        "line 3",
        "extensions.geography(point)",
        "of postgis, because it lacks",
        "start`",
    ):
        assert words in str(failed.value)
