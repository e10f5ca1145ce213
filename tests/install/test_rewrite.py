# ruff: noqa: E501 - a case a line
"""The SQL under other schema names: nothing stale, and the same catalogue but for the two names."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from infra.release.catalogue import as_written, catalogue, differences
from minutehand.install.rewrite import Schemas, rename_in_text, rewrite
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from tests.support.databases import (
    HOSTED,
    SCHEMAS,
    Database,
    apply_renamed,
    create_clone,
    drop,
)
from tests.support.paths import ROOT

OTHER = Schemas("zzclients", "zzengine")
FILES = sorted(
    [
        *ROOT.glob("supabase/migrations/*.sql"),
        *ROOT.glob("shared/minutehand_apps/*/migrations/*.sql"),
    ]
)


@pytest.mark.parametrize(
    ("source", "renamed"),
    [
        ("select * from public.jobs", "select * from zzclients.jobs"),
        ('select * from "public"."jobs"', 'select * from "zzclients"."jobs"'),
        ("select jobs.queue, j.public from queue.jobs as j", "select jobs.queue, j.public from zzengine.jobs as j"),
        ("select j.queue.name, j.public[1] from j", "select j.queue.name, j.public[1] from j"),
        ("create schema if not exists queue", "create schema if not exists zzengine"),
        ("drop schema if exists queue, public", "drop schema if exists zzengine, zzclients"),
        ("revoke all on schema queue from public", "revoke all on schema zzengine from public"),
        ("grant execute on function public.f to public, anon", "grant execute on function zzclients.f to public, anon"),
        ("revoke all on all tables in schema public, queue from public", "revoke all on all tables in schema zzclients, zzengine from public"),
        ("set search_path = public, extensions", "set search_path = zzclients, extensions"),
        ("select 'queue'::regnamespace, 'queue'::text", "select 'zzengine'::regnamespace, 'queue'::text"),
        ("where oid::regnamespace::text in ('public', 'queue')", "where oid::regnamespace::text in ('zzclients', 'zzengine')"),
        ("where nspname in ('public', 'queue') and kind = 'queue'", "where nspname in ('zzclients', 'zzengine') and kind = 'queue'"),
        ("where schemaname <> 'queue' or name = 'public'", "where schemaname <> 'zzengine' or name = 'public'"),
        ("execute format('alter table queue.%I', t)", "execute format('alter table zzengine.%I', t)"),
        ("execute format('alter table %I.%I', 'queue', t)", "execute format('alter table %I.%I', 'zzengine', t)"),
        ("execute 'select 1 where nspname = ''queue'''", "execute 'select 1 where nspname = ''zzengine'''"),
        ("do $$ begin perform queue.f('queue'); end $$", "do $$ begin perform zzengine.f('queue'); end $$"),
        ("select 'public.jobs'::regclass", "select 'zzclients.jobs'::regclass"),
        ("-- functions in public; the queue's order, in queue.jobs", "-- functions in zzclients; the queue's order, in zzengine.jobs"),
        ("/* in queue /* queue.a */ in public */ select queue in queue", "/* in zzengine /* zzengine.a */ in zzclients */ select queue in queue"),
        ("comment on table queue.a is 'Beside those in public.'", "comment on table zzengine.a is 'Beside those in zzclients.'"),
        ("select 'joins it in queue order'", "select 'joins it in queue order'"),
        ("select extensions.f(), realtime.topic(), auth.uid()", "select extensions.f(), realtime.topic(), auth.uid()"),
        ("perform set_config('queue.checked', '', true)", "perform set_config('zzengine.checked', '', true)"),
        ("execute 'create schema if not exists queue'", "execute 'create schema if not exists zzengine'"),
        ("execute 'drop schema public cascade'", "execute 'drop schema zzclients cascade'"),
        ("execute 'where nspname != ''public'''", "execute 'where nspname != ''zzclients'''"),
        ("execute 'x = ''queue''::regnamespace'", "execute 'x = ''zzengine''::regnamespace'"),
        ("-- the schema queue, seldom queue", "-- the schema zzengine, seldom queue"),
        ("do $a$ begin perform queue.f('queue'); end $a$", "do $a$ begin perform zzengine.f('queue'); end $a$"),
        ("where nspname = x or kind = 'queue'", "where nspname = x or kind = 'queue'"),
        ("case when nspname = x then 'queue' end", "case when nspname = x then 'queue' end"),
        ("select nspname from a where kind = 'queue'", "select nspname from a where kind = 'queue'"),
        ("for nspname in f() loop perform g('queue')", "for nspname in f() loop perform g('queue')"),
        ("select nspname, (select 'queue')", "select nspname, (select 'queue')"),
        ("select nspname = x; perform g('queue')", "select nspname = x; perform g('queue')"),
        ("select oid::regnamespace = 'queue'", "select oid::regnamespace = 'queue'"),
        ("select 'queue' :: regnamespace", "select 'zzengine' :: regnamespace"),
        ("set search_path to queue, extensions", "set search_path to zzengine, extensions"),
        ("create schema public; drop schema queue", "create schema zzclients; drop schema zzengine"),
        ("select has_schema_privilege('me', 'queue', 'usage')", "select has_schema_privilege('me', 'zzengine', 'usage')"),
        ("select to_regnamespace('queue')", "select to_regnamespace('zzengine')"),
        ("select format('%s %I', 'queue')", "select format('%s %I', 'queue')"),
        (r"select E'it\'s queue.a', e'public'::regnamespace", r"select E'it\'s zzengine.a', e'zzclients'::regnamespace"),
        ("select QUEUE.jobs, a$queue.b", "select zzengine.jobs, a$queue.b"),
        ("/* in queue", "/* in zzengine"),
        ("insert into public.jobs (queue) values ('queue')", "insert into zzclients.jobs (queue) values ('queue')"),
    ],
)  # fmt: skip
def test_a_token_is_renamed_where_postgres_reads_a_schema(source: str, renamed: str) -> None:
    """Columns, roles and words that look alike keep their names."""
    assert rewrite(source, OTHER) == renamed


@pytest.mark.parametrize(
    "column",
    [
        "nspname", "schemaname", "schema_name", "table_schema", "routine_schema",
        "specific_schema", "udt_schema", "event_object_schema", "constraint_schema",
    ],
)  # fmt: skip
def test_a_column_of_the_catalogue_is_compared_with_the_other_name(column: str) -> None:
    """Also within a string that is executed."""
    source = f"select 1 where {column} = 'queue'; execute 'where {column} = ''public'''"

    assert rewrite(source, OTHER) == (
        f"select 1 where {column} = 'zzengine'; execute 'where {column} = ''zzclients'''"
    )


def test_the_sources_own_names_change_nothing() -> None:
    """This repository uses the source as it is."""
    text = FILES[0].read_text()

    assert rewrite(text, Schemas()) == text
    assert rename_in_text("see public.jobs", Schemas("a", "b")) == "see a.jobs"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_keeps_a_stale_name(path: Path) -> None:
    """Looked for by plain patterns, independent of the reader of tokens."""
    text = rewrite(path.read_text("utf-8"), OTHER)

    stale = [
        line
        for line in text.splitlines()
        if re.search(r'(?<![\w.])"?(public|queue)"?\.["a-z_%]', line)
        or re.search(r"\bschema\s+\"?(public|queue)\b", line)
        or (
            re.search(r"'(public|queue)'", line)
            and re.search(r"nspname|schemaname|_schema\b|regnamespace|search_path\s*(=|to)", line)
        )
    ]
    assert stale == []


def test_the_catalogue_differs_in_the_two_names_alone(postgres: Postgres) -> None:
    """Tables, functions with their bodies, grants, policies, comments, publications."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        names = ("rewritten", "as_written")
        for name in names:
            create_clone(connection, name, template=HOSTED)
        try:
            renamed, written = (Database(postgres, name) for name in names)
            for database, schemas in ((renamed, OTHER), (written, Schemas())):
                apply_renamed(migrations.as_user(database.url, "postgres"), schemas)

            found = differences(
                catalogue(written.url), as_written(catalogue(renamed.url, OTHER), OTHER)
            )
            with renamed.connect(cursor_factory=psycopg.Cursor) as reader:
                left = reader.execute(
                    "select relname from pg_class where relnamespace = 'public'::regnamespace"
                ).fetchall()
                grants = reader.execute(
                    "select nspacl::text from pg_namespace where nspname = 'public'"
                ).fetchone()
        finally:
            for name in names:
                drop(connection, name)

    # a schema that was there keeps its own comment
    assert [line for line in found if "comment schema public" not in line] == []
    assert left == []
    assert grants is not None
    assert "job_worker" not in grants[0]


def test_the_suite_can_run_under_other_names() -> None:
    """`make test-schema` sets the variable; without it the names are those of the source."""
    assert SCHEMAS.as_written or SCHEMAS.engine == f"{SCHEMAS.clients}_engine"
