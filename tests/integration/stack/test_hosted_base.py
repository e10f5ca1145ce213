"""The local database grants its owner what a hosted project does, and refuses the rest."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from minutehand.local import migrations
from minutehand.local.migrations import MigrationFailed, migrations_in
from tests.support.databases import Database
from tests.support.paths import ROOT

PARAGRAPHS = (ROOT / "tests/fixtures/hosted/takes.sql").read_text().split("\n\n")[1:]
TABLES, *TAKEN = PARAGRAPHS
#: What hosted refuses its owner, above all in `auth`, `storage` and `realtime`, and what it says.
REFUSED = [
    ("alter table auth.users add column extra text", "must be owner of table users"),
    ("alter table storage.objects enable row level security", "must be owner of table objects"),
    ("alter table storage.objects disable trigger user", "must be owner of table objects"),
    ("create index on auth.users (created_at)", "must be owner of table users"),
    ("drop table storage.objects cascade", "must be owner of table"),
    ("drop function auth.uid() cascade", "must be owner of function"),
    ("drop trigger theirs on storage.migrations", "must be owner of trigger"),
    ("create policy own on auth.schema_migrations using (true)", "must be owner of table"),
    ("alter publication supabase_realtime add table realtime.messages", "must be owner of table"),
    (
        "create function auth.tenant_id() returns uuid language sql as 'select null::uuid'",
        "schema auth",
    ),
    ("create table storage.extra (id int)", "permission denied for schema storage"),
    ("alter function auth.uid() security definer", "must be owner of function"),
    ("comment on table auth.users is 'x'", "must be owner of table"),
    ("create rule none as on insert to auth.users do instead nothing", "must be owner"),
    ("create trigger own before insert on realtime.messages execute function handle()", "must be"),
    ("grant supabase_auth_admin to postgres", "permission denied to grant role"),
    ("set role supabase_auth_admin", "permission denied to set role"),
    ("alter database postgres set app.settings.jwt_secret to 'x'", "permission denied"),
    ("alter default privileges for role supabase_admin grant all on tables to anon", "permission"),
    ("alter role authenticator set session_preload_libraries = 'safeupdate'", "permission denied"),
    ("select pg_reload_conf()", "permission denied for function"),
    ("select pg_stat_reset()", "permission denied for function"),
]


@pytest.mark.parametrize("paragraph", TAKEN, ids=lambda text: " ".join(text.split()[:5]))
def test_hosted_takes_it(database: Database, paragraph: str) -> None:
    with database.connect(user="postgres", autocommit=False) as owner:
        owner.execute(TABLES.encode())
        owner.execute(paragraph.encode())
        owner.rollback()


@pytest.mark.parametrize(("statement", "said"), REFUSED, ids=lambda text: text[:40])
def test_hosted_refuses_it(database: Database, statement: str, said: str) -> None:
    """Else a migration would be refused by the first push only."""
    with database.connect() as superuser:
        superuser.execute(TABLES.encode())
        superuser.execute(
            "create trigger theirs before insert on storage.migrations"
            " for each row execute function handle()"
        )
    with (
        database.connect(user="postgres") as owner,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match=said),
    ):
        owner.execute(statement.encode())


def test_a_sign_up_trigger_is_tried_as_auths_own_role(database: Database) -> None:
    with database.connect(user="postgres") as owner:
        owner.execute(TABLES.encode())
        owner.execute(
            "create or replace function public.handle() returns trigger language plpgsql"
            " security definer set search_path = '' as $$ begin"
            " insert into public.notes (user_id, body) values (new.id, 'welcome');"
            " return new; end $$"
        )
        owner.execute(
            "create trigger welcome after insert on auth.users"
            " for each row execute function public.handle()"
        )
    with database.as_role("supabase_auth_admin") as auth:
        auth.execute("insert into auth.users (id) values (gen_random_uuid())")
    with database.connect() as superuser:
        assert superuser.execute("select body from public.notes").fetchall() == [("welcome",)]


def apply(database: Database, folder: Path, text: str) -> None:
    (folder / "29990101000000_theirs.sql").write_text(text)
    url = migrations.as_user(database.url, "postgres")
    migrations.apply_migrations(url, migrations_in(folder))


def test_a_migration_may_do_what_hosteds_extension_lets_it(
    database: Database, tmp_path: Path
) -> None:
    """And what hosted took until 2025 is passed over where it asks for what is so already."""
    apply(
        database,
        tmp_path,
        """
      -- files
      alter table storage.objects enable row level security;
      alter table if exists "auth"."users" enable row level security;
      create publication everything for all tables;
      drop publication everything;
      create function public.enable() returns event_trigger language plpgsql as 'begin end';
      create event trigger ensure_rls on ddl_command_end execute function public.enable();
      drop event trigger ensure_rls;
    """,
    )


def test_a_missing_extension_is_named_with_the_statement_that_needs_it(
    database: Database, tmp_path: Path
) -> None:
    with pytest.raises(MigrationFailed) as failed:
        apply(
            database,
            tmp_path,
            """
          create extension if not exists postgis with schema extensions;
          create table public.shops (id int, at extensions.geography(point));
        """,
        )

    for words in ("line 3", "extensions.geography(point)", "lacks the extension postgis", "start`"):
        assert words in str(failed.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        # RFC 3174, RFC 4122's example of version 5, jwt.io's example
        (
            "encode(extensions.digest('abc', 'sha1'), 'hex')",
            "a9993e364706816aba3e25717850c26c9cd0d89d",
        ),
        (
            "encode(extensions.digest(repeat('a', 1000), 'sha1'), 'hex')",
            "291e9a6c66994949b57ba5e650361e98fc36b1ba",
        ),
        (
            "extensions.uuid_generate_v5(extensions.uuid_ns_dns(), 'www.example.com')::text",
            "2ed6657d-e927-568b-95e1-2665a8aea6a2",
        ),
        (
            "extensions.uuid_generate_v3(extensions.uuid_ns_dns(), 'www.example.com')::text",
            "5df41881-3aed-3515-88a7-2f4a814cf09e",
        ),
        ("uuid_extract_version(extensions.uuid_generate_v1())::text", "1"),
        ("(now() - uuid_extract_timestamp(extensions.uuid_generate_v1()) < '1 min')::text", "true"),
        ("extensions.pgp_sym_decrypt(extensions.pgp_sym_encrypt('geheim', 'k'), 'k')", "geheim"),
        ("extensions.urlencode('a b&ü'::varchar)", "a%20b%26%C3%BC"),
    ],
)
def test_stand_ins_answer_as_the_extensions_do(
    database: Database, expression: str, value: str
) -> None:
    with database.connect() as connection:
        connection.execute("create extension if not exists http with schema extensions")
        assert connection.execute(f"select {expression}".encode()).fetchone() == (value,)


def test_a_token_of_the_databases_own_is_read_and_a_wrong_password_refused(
    database: Database,
) -> None:
    with database.connect() as connection:
        connection.execute("create extension if not exists pgjwt with schema extensions")
        row = connection.execute(
            "select (extensions.verify(extensions.sign('{\"sub\": \"x\"}', 's'), key)).*"
            " from unnest(array['s', 'other']) as key"
        ).fetchall()
        assert [(payload, valid) for _, payload, valid in row] == [
            ({"sub": "x"}, True),
            ({"sub": "x"}, False),
        ]
        with pytest.raises(psycopg.Error, match="Wrong key or corrupt data"):
            connection.execute(
                "select extensions.pgp_sym_decrypt(extensions.pgp_sym_encrypt('x', 'k'), 'other')"
            )
