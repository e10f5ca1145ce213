"""What `install` finds in a project before it writes: tenants, what fails, where the root is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from minutehand.cli.install_check import Catalogue
from minutehand.install.rewrite import Schemas
from minutehand.install.tenancy import TenancyError, existing
from minutehand.local import migrations
from minutehand.local.postgres import Postgres, PostgresFailed
from tests.install.projects import Hosted, bakery
from tests.install.second import THIS_FILE
from tests.install.test_install import contents, run

ORGANIZATIONS = "create table organizations (id uuid primary key, name text not null);"
#: Each as a project has it, with the options that name its tables and what is against them.
LAYOUTS = {
    "one line each": (
        f"{ORGANIZATIONS} create table memberships (organization_id uuid references organizations,"
        " user_id uuid references auth.users, role text, primary key (organization_id, user_id));",
        ("organizations(id,name)", "memberships(organization_id,user_id,role)"),
        "",
    ),
    "keys by alter table, as db pull writes them": (
        'create table "public"."teams" ("id" "uuid" not null, "slug" text);'
        'create table "public"."team_users" ("id" bigint, "team_id" "uuid", "user_id" "uuid");'
        'alter table only "public"."teams" add constraint "teams_pkey" primary key ("id");'
        'alter table only "public"."team_users" add constraint "a" foreign key ("team_id")'
        ' references "public"."teams"("id");'
        'alter table only "public"."team_users" add constraint "b" foreign key ("user_id")'
        ' references "auth"."users"("id");',
        ("teams(id,slug)", "team_users(team_id,user_id)"),
        "",
    ),
    "over profiles by the same id": (
        f"{ORGANIZATIONS} create table profiles (id uuid primary key references auth.users);"
        "create table members (organization_id uuid references organizations,"
        " profile_id uuid references profiles, role text);",
        ("organizations(id,name)", "members(organization_id,profile_id,role)"),
        "",
    ),
    "over profiles by a number": (
        f"{ORGANIZATIONS} create table people (id bigint primary key,"
        " account uuid unique references auth.users);"
        "create table members (organization_id uuid references organizations,"
        " person_id bigint references people, role text);",
        ("organizations(id,name)", "members(organization_id,person_id,role)"),
        "",
    ),
    "in a schema of its own, with an enum": (
        "create schema app; create type app.role as enum ('owner', 'editor');"
        "create table app.accounts (id uuid primary key, title text);"
        "create table app.account_user (account_id uuid references app.accounts,"
        " user_id uuid references auth.users, role app.role, unique (user_id, account_id));",
        ("app.accounts(id,title)", "app.account_user(account_id,user_id,role)"),
        "",
    ),
    "bigint keys": (
        "create table organizations (id bigint primary key, name text);"
        "create table memberships (organization_id bigint references organizations,"
        " user_id uuid references auth.users, role text);",
        ("organizations(id,name)", "memberships(organization_id,user_id,role)"),
        "add column job_tenant uuid not null default gen_random_uuid() unique",
    ),
    "bigint keys beside a uuid that may repeat": (
        "create table organizations (id bigint primary key, name text, tag uuid, gone boolean);"
        "create unique index on organizations (tag) where not gone;"
        "create table memberships (organization_id bigint references organizations,"
        " user_id uuid references auth.users, role text);",
        ("organizations(id,name)", "memberships(organization_id,user_id,role)"),
        "add column job_tenant uuid",
    ),
    "bigint keys beside a uuid": (
        "create table organizations (id bigint primary key, name text,"
        " job_tenant uuid not null default gen_random_uuid() unique);"
        "create table memberships (organization_id bigint references organizations,"
        " user_id uuid references auth.users, role text);",
        ("organizations(job_tenant,name)", "memberships(organization_id,user_id,role)"),
        "",
    ),
    "letters as an ORM writes them": (
        'create table "Organization" (id uuid primary key, "displayName" text);'
        'create table "Membership" ("organizationId" uuid references "Organization",'
        ' "userId" uuid references auth.users, role text);',
        ("Organization(id,displayName)", "Membership(organizationId,userId,role)"),
        "",
    ),
    "reserved words, and a role under another name": (
        'create table "group" (id uuid primary key, label text);'
        'create table group_members ("group" uuid references "group",'
        ' "user" uuid references auth.users, member_role text);'
        'create table invitations ("group" uuid references "group",'
        " invited_by uuid references auth.users, role text);",
        ("group(id,label)", "group_members(group,user,member_role)"),
        "",
    ),
    "one organization per profile, and superiors": (
        "create table companies (id uuid primary key, legal_name text);"
        "create table employees (id uuid primary key, user_id uuid unique references auth.users,"
        " company_id uuid references companies, manager_id uuid references employees, role text);",
        ("companies(id,legal_name)", "employees(company_id,user_id,role)"),
        "",
    ),
    "memberships beside the organization shown last": (
        f"{ORGANIZATIONS} create table profiles (id uuid primary key references auth.users,"
        " role text, organization_id uuid references organizations);"
        "create table members (organization_id uuid references organizations,"
        " profile_id uuid references profiles, role text);",
        ("organizations(id,name)", "members(organization_id,profile_id,role)"),
        "",
    ),
    "none: a blog with likes": (
        "create table profiles (id uuid primary key references auth.users);"
        "create table posts (id uuid primary key, name text, author_id uuid references profiles);"
        "create table likes (post_id uuid references posts, user_id uuid references auth.users,"
        " unique (post_id, user_id));",
        None,
        "",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_tenants_are_read_from_the_catalogue(name: str, hosted_base: str) -> None:
    """However the SQL is written; what cannot be is said with the statement that mends it."""
    sql, options, against = LAYOUTS[name]
    with psycopg.connect(hosted_base) as connection:
        connection.execute(sql.encode())
        catalogue = Catalogue.read(connection)
        found = catalogue.detect()
        problem, joined = "", []
        for guess in found:
            try:
                joined.append(catalogue.complete(guess))
            except TenancyError as error:
                problem = str(error)
        for tables in joined:
            again = catalogue.complete(existing(*tables.options))
            sql = again.migration(Schemas("clients"))
            views = re.findall(r"^create view engine\..*?;", sql, re.DOTALL | re.MULTILINE)
            connection.execute("\n".join(["create schema engine;", *views]).encode())
        connection.rollback()

    named = [tables.options for tables in joined or found]
    assert named == ([] if options is None else [options])
    assert against in problem
    assert bool(against) is bool(problem)
    if name == "over profiles by a number":
        assert joined[0].profile == ("public.people", "id", "account")
    if name == "bigint keys beside a uuid":
        assert (joined[0].key, joined[0].join) == ("job_tenant", "id")


def test_tables_that_are_named_must_be_there(hosted_base: str) -> None:
    """Before a file is written, and not at the push."""
    with psycopg.connect(hosted_base) as connection:
        connection.execute(LAYOUTS["one line each"][0].encode())
        catalogue = Catalogue.read(connection)
        connection.rollback()

    for tables, said in (
        (existing("orgs.id", "memberships(organization_id,user_id)"), "no table public.orgs"),
        (existing("organizations.key", "memberships(organization_id,user_id)"), "no column key"),
        (existing("organizations.id", "memberships(organization_id,role)"), "uuid of a user"),
    ):
        with pytest.raises(TenancyError, match=said):
            catalogue.complete(tables)


@pytest.fixture(scope="module")
def hosted_base(postgres: Postgres) -> Iterator[str]:
    """The address of a database as a hosted project begins; each test rolls back."""
    hosted = Hosted(postgres, Path())
    with hosted.database() as database:
        yield database.owner_url


def test_a_check_says_what_was_found_and_writes_nothing(tmp_path: Path) -> None:
    """Tenants, what records only, and the mode that fits."""
    bakery(tmp_path)
    more = tmp_path / "supabase/migrations/20250102000000_more.sql"
    more.write_text("create table public.more ();", "utf-8-sig")
    (tmp_path / "supabase/migrations/20250103000000_folder.sql").mkdir()
    seed_by(tmp_path, 'sql_paths = ["./none.sql", "./seeds/*.sql"]')
    (tmp_path / "supabase/seeds").mkdir()
    (tmp_path / "supabase/seeds/2.sql").write_text("create extension pg_cron;")
    before = contents(tmp_path)

    said = run("install", str(tmp_path), "--check")

    assert contents(tmp_path) == before
    assert (said["problems"], said["mode"]) == ([], "minutehand dev")
    assert said["limits"] == ["pg_cron records schedules and runs none"]
    assert [(one["organizations"], one["memberships"]) for one in said["tenants"]] == [
        ("organizations(id,name)", "memberships(organization_id,user_id,role)")
    ]

    more.write_text("create extension postgis; create table places (at geography(point));")
    said = run("install", str(tmp_path), "--check")
    assert "20250102000000_more.sql, statement 2" in said["problems"][0]
    assert "minutehand dev --supabase-url" in said["mode"]

    more.write_text("select * from nowhere;")
    assert run("install", str(tmp_path), "--check")["mode"] == "minutehand dev, once that is mended"
    notes = run("install", str(tmp_path), "--yes", "--dry-run")["notes"]
    assert any("your own SQL stops `minutehand dev`: 20250102000000_more" in note for note in notes)


def test_a_check_without_a_server_says_what_brings_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An install that needs no look goes on without."""
    bakery(tmp_path)

    def broken() -> None:
        raise PostgresFailed("no room for it")

    monkeypatch.setattr("minutehand.cli.install_check.scratch_server", broken)

    assert run("install", str(tmp_path), "--check", code=1)["code"] == "not_installed"
    assert "minutehand.toml" in run("install", str(tmp_path), "--yes", "--dry-run")["planned"]


def seed_by(project: Path, line: str) -> None:
    """Let its `[db.seed]` say this."""
    with (project / "supabase/config.toml").open("a") as config:
        config.write(f"\n[db.seed]\n{line}\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (None, ["seed.sql"]),
        ("enabled = true", ["seed.sql"]),
        ("enabled = false", []),
        ('sql_paths = ["./more/*.sql", "seed.sql", "more/b.sql"]', ["a.sql", "b.sql", "seed.sql"]),
        ('sql_paths = ["../data/*.sql"]', ["c.sql"]),
        ("sql_paths = []", []),
    ],
)
def test_seeds_are_those_of_the_clis_configuration(
    line: str | None, expected: list[str], tmp_path: Path
) -> None:
    """In the order of the patterns, each file once."""
    bakery(tmp_path)
    for name in ("supabase/seed.sql", "supabase/more/b.sql", "supabase/more/a.sql", "data/c.sql"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if line is not None:
        seed_by(tmp_path, line)

    assert [path.name for path in migrations.own_seeds(tmp_path)] == expected


def test_a_configuration_that_names_no_seeds_is_a_sentence(tmp_path: Path) -> None:
    """As the CLI refuses it."""
    bakery(tmp_path)
    seed_by(tmp_path, "sql_paths = 7")

    with pytest.raises(migrations.MigrationFailed, match="must list strings"):
        migrations.own_seeds(tmp_path)


def test_an_install_that_asks_nothing_says_what_it_found(tmp_path: Path) -> None:
    """Workspaces of ours beside organizations of theirs would be a surprise."""
    bakery(tmp_path)
    theirs = run("install", str(tmp_path), "--check")["migrations"]
    alone = run("install", str(tmp_path), "--dry-run", "--tenancy", "personal")["notes"]
    assert not any("--tenancy existing" in note for note in alone)

    notes = run("install", str(tmp_path), "--yes")["notes"]

    assert any("--tenancy existing" in note and "memberships(" in note for note in notes)
    assert run("install", str(tmp_path), "--check")["migrations"] == theirs


def test_number_keys_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """The 23rd migration would have failed."""
    folder = tmp_path / "supabase" / "schemas"
    folder.mkdir(parents=True)
    (folder / "a.sql").write_text(LAYOUTS["bigint keys"][0].partition(";")[2], "utf-8-sig")
    (folder / "b.sql").write_text(LAYOUTS["bigint keys"][0].partition(";")[0])
    before = contents(tmp_path)

    refused = run("install", str(tmp_path), "--yes", "--tenancy", "existing", code=1)

    assert refused["code"] == "bad_tenancy"
    assert "job_tenant uuid" in refused["error"]
    assert contents(tmp_path) == before


def test_a_backend_in_a_monorepo_uses_the_supabase_above(tmp_path: Path) -> None:
    """Its package stays in its folder; the migrations go to the one Supabase project."""
    bakery(tmp_path)
    (tmp_path / "backend").mkdir()

    run("install", str(tmp_path / "backend"), "--yes", "--tenancy", "existing")

    after = contents(tmp_path)
    assert not (tmp_path / "backend" / "supabase").exists()
    assert "backend/jobs/processors/hello.py" in after
    assert 'source = "backend"' in after["minutehand.toml"]
    assert any(f"_{THIS_FILE}.sql" in name for name in after)
    assert run("install", str(tmp_path / "backend"))["written"] == []
    assert run("upgrade", str(tmp_path / "backend"))["written"] == []
    assert f"_{THIS_FILE}.sql" in run("uninstall", str(tmp_path / "backend"))["sql"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "minutehand.toml").write_text('apps = []\nschema = "minutehand"\n')
    apart = run("install", str(tmp_path / "other"), "--dry-run")["planned"]
    assert "supabase/config.toml" in apart, "it has answers of its own"


def test_a_package_may_lie_within_others(tmp_path: Path) -> None:
    """By its import name."""
    run("install", str(tmp_path), "--yes", "--package", "acme.background")

    after = contents(tmp_path)
    assert "acme/background/processors/hello.py" in after
    assert '"background.hello"' in after["acme/background/processors/hello.py"]
    assert 'apps = ["acme.background"]' in after["minutehand.toml"]


def test_a_project_without_tables_is_asked_to_name_them(tmp_path: Path) -> None:
    """The fix shows how."""
    refused = run("install", str(tmp_path), "--yes", "--tenancy", "existing", code=1)

    assert "--memberships 'memberships(organization_id,user_id,role)'" in refused["fix"]
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    one = LAYOUTS["one line each"][0]
    other = one.replace("organizations", "teams").replace("memberships", "team_members")
    (folder / "20250101000000_two.sql").write_text(f"{one}\n{other}")
    two = run("install", str(tmp_path), "--yes", "--tenancy", "existing", code=1)
    assert two["code"] == "tables_needed", "neither is taken unasked"
    assert "organizations(id,name)" in two["error"]
    assert "teams(id,name)" in two["error"]


def test_migrations_of_one_version_are_a_sentence(tmp_path: Path) -> None:
    """Two people, one second."""
    for name in ("20250101000000_a.sql", "20250101000000_b.sql"):
        (tmp_path / name).write_text("select 1;")

    with pytest.raises(migrations.MigrationFailed, match=r"a\.sql and .*b\.sql have the same"):
        migrations.apply_migrations("", migrations.migrations_in(tmp_path))
