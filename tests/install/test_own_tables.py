"""`minutehand init … --reads … --writes …`: whose a row is, and what is refused."""

from __future__ import annotations

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

Connection = psycopg.Connection[tuple[object, ...]]
ACME, GLOBEX = (f"{n}" * 8 + "-1111-4111-8111-111111111111" for n in (1, 2))
TABLES = f"""
create schema queue;
create table public.workspaces (id uuid primary key);
create table public.teams (id bigint primary key, workspace uuid references workspaces);
create table public.leads (id bigint primary key, team bigint references teams, "Note" text,
  size numeric not null, made bigint generated always as identity);
create table public.colours (code text primary key, said text);
create table public.jobs (workspace_id uuid, payload jsonb);
insert into workspaces values ('{ACME}'), ('{GLOBEX}');
insert into teams values (1, '{ACME}'), (2, '{GLOBEX}');
insert into leads values (1, 1, 'a', 1), (2, 2, 'b', 2);
create function queue.held_job(jsonb, text[], text) returns public.jobs language sql as
  $$select '{ACME}'::uuid, $1 -> 'payload'$$;
create function public.attach_extensions() returns void language sql as '';
do $$ begin create role job_worker; exception when duplicate_object then null; end $$;
"""


@pytest.fixture
def tables(postgres: Postgres) -> Iterator[Connection]:
    """A hosted project with a few tables."""
    with (
        Hosted(postgres, Path()).database() as database,
        psycopg.connect(database.owner_url, autocommit=True) as connection,
    ):
        connection.execute(TABLES.encode())
        yield connection


def plan(tables: Connection, reads: str, writes: str = "") -> Plan:
    """The files for `crm.sync`."""
    here = Project(root=Path("/nowhere"))
    return planned(tables, here, "jobs", Path(), "crm.sync", reads=reads, writes=writes)


def test_a_row_of_the_jobs_tenant_is_read_and_written_and_no_other(tables: Connection) -> None:
    """By its foreign keys; what says whose it is, is not written, and is checked again."""
    made = plan(tables, "leads.size", "leads")
    tables.execute(made.writes[0].text.encode())
    tables.execute("set search_path = public")

    def call(lead: int) -> object:
        row = '{"size": 7, "team": 2, "Note": "new", "id": 2, "made": 9}'
        asked = f'{{"payload": {{"lead_id": {lead}}}, "row": {row}}}'
        found = tables.execute("select public.sync_crm_lead(%s)", (asked,)).fetchone()
        return found and found[0]

    assert call(1) == {"size": 7}
    assert call(2) is None
    told = tables.execute('select id, team, "Note", size from leads order by id').fetchall()
    assert told == [(1, 1, "new", 7), (2, 2, "b", 2)]
    assert made.notes == ('{"lead_id": …}',)
    compile(made.writes[1].text, "processor", "exec")

    tables.execute(
        "create function moved() returns trigger language plpgsql as"
        " 'begin new.team := 2; return new; end';"
        "create trigger moved before update on leads for each row execute function moved()"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        call(1)


@pytest.mark.parametrize(
    ("reads", "code"),
    [("nothing", "bad_table"), ("leads.nothing", "no_column"), ("colours", "bad_table")],
)
def test_what_cannot_be_is_refused(tables: Connection, reads: str, code: str) -> None:
    """Before anything is written."""
    with pytest.raises(CommandFailed) as refused:
        plan(tables, reads)

    assert refused.value.code == code
