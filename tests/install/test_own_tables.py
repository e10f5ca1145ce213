"""`minutehand init … --reads … --writes …`: whose a row is, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from minutehand.cli.own_tables import planned
from minutehand.install.project import Plan
from minutehand.local.postgres import Postgres
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from tests.install.projects import Hosted

TABLES = """
create table public.workspaces (id uuid primary key);
create table public.profiles (id uuid primary key references auth.users);
create table public.teams (id bigint primary key, workspace uuid references workspaces,
  owner uuid references profiles);
create table public.leads (id bigint primary key, team bigint references teams, "Note" text,
  size numeric not null, made bigint generated always as identity, of_lead bigint references leads);
create table public.steps (lead bigint references leads, number int, primary key (lead, number));
create table public.colours (code text primary key, said text);
create table public.classes (id int primary key, workspace_id uuid, room text, "from" text);
create table public.jobs (id int primary key, workspace_id uuid, pay int);
create table public."OrderItem" ("id" int primary key, workspace_id uuid, "unitPrice" int);
create schema app;
create table app.entries (id uuid primary key, workspace_id uuid, said text[], at timestamptz);
"""


@pytest.fixture(scope="module")
def tables(postgres: Postgres) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A hosted project with a few tables."""
    with (
        Hosted(postgres, Path()).database() as database,
        psycopg.connect(database.owner_url, autocommit=True) as connection,
    ):
        connection.execute(TABLES)
        yield connection


def plan(
    tables: psycopg.Connection[tuple[object, ...]], reads: str, writes: str = "", **answers: str
) -> Plan:
    """The files for `crm.sync`."""
    here = Project(root=Path("/nowhere"), **answers)
    return planned(tables, here, "jobs", Path(), "crm.sync", reads=reads, writes=writes)


@pytest.mark.parametrize(
    ("table", "condition"),
    [
        ("workspaces", "t.id = v_job.workspace_id"),
        ("teams", "t.workspace = v_job.workspace_id"),
        (
            "leads.size",
            "t.team in (select t1.id from public.teams as t1"
            " where t1.workspace = v_job.workspace_id)",
        ),
        ("app.entries.at", "t.workspace_id = v_job.workspace_id"),
    ],
)
def test_a_row_belongs_to_whom_its_foreign_keys_lead(
    tables: psycopg.Connection[tuple[object, ...]], table: str, condition: str
) -> None:
    """By the shortest way, in the functions that read and write alike."""
    columns = table if "." in table else f"{table}.id"
    sql = plan(tables, columns).writes[0].text

    assert re.findall(r"and (t\..*?)\);\nend", sql, re.DOTALL) == [condition]
    with tables.transaction(force_rollback=True):
        tables.execute(
            "do $$ begin create role job_worker; exception when duplicate_object then null; end $$"
        )
        tables.execute("drop table public.jobs")
        tables.execute("create table public.jobs (workspace_id uuid, payload jsonb)")
        tables.execute(
            "create schema queue; create function queue.held_job(jsonb, text[], text)"
            " returns public.jobs language sql as 'select null::public.jobs';"
            "create function public.attach_extensions() returns void language sql as ''"
        )
        tables.execute(sql.encode())


def test_columns_are_read_as_named_and_none_besides(
    tables: psycopg.Connection[tuple[object, ...]],
) -> None:
    """What is written is read too; a key and what Postgres generates are never written."""
    made = plan(tables, "leads.size", "leads.made,leads.id,leads.team")
    sql, processor, _ = (write.text for write in made.writes)

    assert re.findall(r"'(\w+)', t\.", sql) == ["size", "made", "id", "team"]
    assert re.findall(r"set (.*)\n", sql)[-1] == "team = v_row.team"
    assert made.notes == ('{"lead_id": …}',)
    assert "from decimal import Decimal\n\nfrom pydantic" in processor
    assert "    lead_id: int\n" in processor
    assert "    size: Decimal\n    made: int\n    id: int\n    team: int | None\n" in processor
    assert "class LeadChange(BaseModel):" in processor
    for write in made.writes[1:]:
        compile(write.text, str(write.path), "exec")


@pytest.mark.parametrize(
    ("reads", "payload", "model"),
    [
        ("classes.room", "class_row_id", "ClassRow"),
        ("jobs", "job_row_id", "JobRow"),
        ("OrderItem", "order_item_id", "OrderItem"),
        ('"OrderItem".unitPrice', "order_item_id", "OrderItem"),
        ("public.JOBS.pay", "job_row_id", "JobRow"),
    ],
)
def test_any_table_gives_a_module_of_python(
    tables: psycopg.Connection[tuple[object, ...]], reads: str, payload: str, model: str
) -> None:
    """A keyword, a name that the module uses, letters as an ORM writes them."""
    made = plan(tables, reads, reads)

    for write in made.writes[1:]:
        compile(write.text, str(write.path), "exec")
    assert made.notes == (f'{{"{payload}": …}}',)
    assert f"class {model}(BaseModel)" in made.writes[1].text
    assert re.findall(r"(\w+) = await", made.writes[1].text) == [payload.removesuffix("_id")]


@pytest.mark.parametrize(
    ("reads", "code"),
    [
        ("nothing", "no_table"),
        ("leads.nothing", "no_column"),
        ("classes", "bad_column"),
        ("steps", "no_key"),
        ("colours", "no_tenant"),
        ("profiles.id", "no_tenant"),
    ],
)
def test_what_cannot_be_is_refused(
    tables: psycopg.Connection[tuple[object, ...]], reads: str, code: str
) -> None:
    """Before anything is written."""
    with pytest.raises(CommandFailed) as refused:
        plan(tables, reads)

    assert refused.value.code == code
