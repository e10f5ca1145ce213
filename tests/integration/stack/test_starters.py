"""Migrations and seeds as public starters of Supabase have them go into the local database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest

from minutehand.local import migrations
from minutehand.local.migrations import MigrationFailed, apply_migrations, apply_seed, migrations_in
from minutehand.local.postgres import Postgres
from tests.support.databases import HOSTED, create_clone, drop
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack, end, launch, wait_ready

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


def test_a_seeded_password_signs_in(stack: RunningStack) -> None:
    """What crypt makes is a hash that Auth reads."""
    email = f"{uuid4().hex}@example.com"
    with stack.connect() as connection:
        connection.execute(
            "insert into auth.users (instance_id, id, aud, role, email, encrypted_password,"
            " email_confirmed_at, confirmation_token) values (%s, gen_random_uuid(),"
            " 'authenticated', 'authenticated', %s, extensions.crypt(%s,"
            " extensions.gen_salt('bf')), now(), '')",
            ("00000000-0000-0000-0000-000000000000", email, stack.demo_password),
        )

        assert stack.sign_in(email)


def test_the_way_out_is_walked(stack: RunningStack, tmp_path: Path) -> None:
    """`dev --supabase-url` beside a Supabase that runs: worker, API and console alone.

    Its keys come by the names that `supabase status -o env` prints.
    """
    keys = {
        "PUBLISHABLE_KEY": stack.supabase_publishable_key,
        "SECRET_KEY": stack.supabase_secret_key,
        "JWT_SECRET": stack.supabase_jwt_secret,
        "DB_URL": stack.database_url,
    }
    arguments = ("--no-demo", "--supabase-url", stack.supabase_url)
    launcher = launch(tmp_path, *arguments, **keys)
    try:
        beside = wait_ready(tmp_path, launcher)

        assert beside.supabase_url == stack.supabase_url
        assert beside.api_url != stack.api_url
        token = stack.sign_in("ada@acme.test")
        answer = httpx.get(f"{beside.api_url}/api/jobs", headers=beside.headers(token))
        assert answer.status_code == 200, answer.text
        assert not (tmp_path / "postgres").exists()
    finally:
        end(tmp_path, launcher)


@pytest.mark.parametrize(
    "text",
    [
        "create extension postgis; create table places (at geography(point));",
        "select extensions.encrypt('a', 'b', 'aes');",
        "create extension nowhere_known;",
        "select * from storage.buckets_analytics;",
        "create function f() returns int language plv8 as 'return 1';",
        "create foreign data wrapper stripe handler stripe_fdw_handler;",
        "create extension pg_stat_statements; select * from pg_stat_statements;",
    ],
)
def test_what_needs_supabase_itself_says_so(project: str, tmp_path: Path, text: str) -> None:
    """The way out is in the message."""
    with pytest.raises(MigrationFailed, match="minutehand dev --supabase-url"):
        migrate(project, tmp_path, text)


def test_a_slip_of_ones_own_names_no_way_out(project: str, tmp_path: Path) -> None:
    """It would lead astray."""
    with pytest.raises(MigrationFailed, match="nowhere") as refused:
        migrate(project, tmp_path, "select * from nowhere;")

    assert "supabase start" not in str(refused.value)


@pytest.mark.parametrize("asked", [True, False])
def test_new_tables_reach_the_data_api_where_the_project_says_so(
    asked: bool, project: str, tmp_path: Path
) -> None:
    """As an older project has it, whose migrations grant nothing; its policies decide."""
    (tmp_path / "supabase").mkdir()
    config = f"[api]\nauto_expose_new_tables = {str(asked).lower()}\n"
    (tmp_path / "supabase" / "config.toml").write_text(config)

    migrations.expose_new_tables(project, tmp_path)
    migrate(project, tmp_path, "create table public.notes (id bigserial primary key);")

    with psycopg.connect(project) as connection:
        may = "select has_table_privilege('authenticated', 'public.notes', 'insert')"
        assert connection.execute(may.encode()).fetchone() == (asked,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"insert into t values ('M\xfcller');", "must be UTF-8"),
        (b"\\restrict abc\ncreate table u ();", r"statement 1: \\restrict is for psql"),
        (b"COPY public.t (n) FROM stdin;\nMary\n\\.\n", "FROM stdin is for psql"),
    ],
)
def test_what_is_no_sql_is_a_sentence(text: bytes, said: str, project: str, tmp_path: Path) -> None:
    """As dumps and editors of Windows write it."""
    seed = tmp_path / "seed.sql"
    seed.write_bytes(text)

    with pytest.raises(MigrationFailed, match=said):
        apply_seed(project, seed)


def test_an_extension_that_is_there_already_is_no_error(project: str, tmp_path: Path) -> None:
    """The dashboard had it switched on where the file was written."""
    migrate(project, tmp_path, 'create extension pgcrypto;\ncreate extension "uuid-ossp";')
