"""An install changes no object of the project, and its removal drops none."""

import re
from pathlib import Path

import psycopg
import pytest

from minutehand.install.removal import removal_sql
from supabase_local.migrations import MigrationFailed
from tests.install.projects import HostedDatabase, install
from tests.support.extensions import PG_CRON
from tests.support.paths import ROOT

QUEUE = """
create schema queue; grant usage on schema queue to authenticated;
create table queue.tickets (id integer primary key);
grant select on queue.tickets to authenticated;
insert into queue.tickets values (1), (2);
"""
APP = """
create schema app; create table app.users (id integer primary key);
insert into app.users values (1);
create function app.hello() returns integer language sql as 'select count(*)::int from app.users';
"""
FUNCTION = "create function app.enqueue_job() returns int language sql as 'select 1'"


#: For each test: the requested schema, the project's existing objects, and the object that the
#: error names.
TAKEN = [
    ("public", QUEUE, "a schema queue"),
    ("minutehand", "create schema minutehand_engine", "a schema minutehand_engine"),
    ("public", "create table public.jobs (id int)", "public: jobs"),
    ("app", FUNCTION, "app: enqueue_job"),
    ("app", "create type app.workspaces as enum ('a')", "app: workspaces"),
    ("app", FUNCTION.replace("enqueue_job", "put_webhook"), "app: put_webhook"),
]


@pytest.mark.parametrize(("schema", "theirs", "named"), TAKEN)
def test_a_name_that_is_taken_stops_the_install(
    hosted: HostedDatabase, tmp_path: Path, schema: str, theirs: str, named: str
) -> None:
    """If the project already has an object of a needed name, the install changes nothing.

    The error names the object and the option for another schema.
    """
    hosted.as_owner(APP + theirs)
    before = hosted.everything()
    install(tmp_path, schema)
    with pytest.raises(MigrationFailed) as error:
        hosted.apply(tmp_path)

    assert named in str(error.value)
    assert "minutehand install --schema" in str(error.value)
    assert hosted.everything() == before
    assert "Delete what the install wrote" in str(error.value)


def test_another_schema_is_installed_although_other_names_are_taken(
    hosted: HostedDatabase, tmp_path: Path
) -> None:
    hosted.as_owner(APP + ";".join(theirs for _, theirs, _ in TAKEN))
    install(tmp_path, "tasks")
    hosted.apply(tmp_path)


def test_a_schema_of_theirs_may_be_shared_and_stays(hosted: HostedDatabase, tmp_path: Path) -> None:
    """An install may use a schema that contains tables of the project.

    The removal stops while objects of the project use the engine, and later leaves the project's
    tables.
    """
    hosted.as_owner(APP.replace("app", "minutehand"))
    hosted.as_owner("grant usage on schema minutehand to anon, authenticated, service_role")
    hosted.as_owner(f"create extension {PG_CRON}")
    hosted.as_owner("select cron.schedule('theirs', '* * * * *', 'select 1')")
    before = hosted.everything()
    install(tmp_path, "minutehand")
    hosted.apply(tmp_path)
    hosted.run("select cron.schedule('minutehand-tick', '* * * * *', 'select 2')")
    removal = removal_sql(tmp_path)
    hosted.as_owner("""
      create function public.bake() returns void language sql as
        $$ select minutehand.enqueue_job(null, 'jobs.hello') $$;
      create view minutehand.queued as select id from minutehand.jobs;
      create table minutehand.mine (
        job uuid constraint minutehand_job references minutehand.jobs (id), w uuid);
      create policy own on minutehand.mine
        using (w in (select minutehand_engine.my_workspaces()));
      create table minutehand_engine.theirs (id int)
    """)
    with pytest.raises(psycopg.errors.RaiseException) as error:
        hosted.as_owner(removal)
    for theirs in (
        "policy own on minutehand.mine",
        "minutehand_job on minutehand.mine",
        "minutehand_engine.theirs",
        "function public.bake()",
        "view minutehand.queued",
    ):
        assert theirs in str(error.value)
    assert hosted.run("select count(*) from minutehand.jobs") == [(0,)]

    hosted.as_owner("drop table minutehand.mine, minutehand_engine.theirs")
    hosted.as_owner("drop view minutehand.queued; drop function public.bake")
    hosted.as_owner(removal)
    assert hosted.run("select count(*) from minutehand.users") == [(1,)]
    assert hosted.everything() == before
    assert hosted.run("select jobname from cron.job") == [("theirs",)]


def test_a_removal_elsewhere_drops_nothing(hosted: HostedDatabase, tmp_path: Path) -> None:
    """The removal script of one project fails in the database of another project."""
    install(tmp_path, "public")
    hosted.as_owner(QUEUE + "create table public.jobs (id int)")
    before = hosted.everything()
    with pytest.raises(psycopg.errors.RaiseException, match="not installed in the schema"):
        hosted.as_owner(removal_sql(tmp_path))
    assert hosted.everything() == before


@pytest.mark.parametrize("home", ["supabase", "shared/minutehand/webhooks"])
def test_every_name_of_ours_is_guarded(home: str) -> None:
    """The install checks the name of each public table, view, type and function.

    No object of a project can therefore be replaced.
    """
    files = sorted((ROOT / home / "schemas").glob("*.sql"))
    texts = "".join(file.read_text() for file in files)
    [names] = re.findall(r"c_names constant text\[\] := '\{(.*?)\}'", texts, re.DOTALL)
    created = re.findall(r"^create (?:table|view|type|function) public\.(\w+)", texts, re.MULTILINE)

    assert {name.strip() for name in names.split(",")} == set(created)
