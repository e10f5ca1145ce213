"""Faults of a project's database and settings, drawn at random, and the doctor in use.

A fix is SQL for the editor, `NAME=value` for the settings, or a command. A comment may follow it,
and … marks a value that only the reader has.
"""

from __future__ import annotations

import os
import random
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

import jwt
import psycopg

from minutehand.app import built_in
from minutehand.cli.doctor.results import CheckResult, Target
from minutehand.cli.doctor.runner import run_checks
from minutehand.install.catalog import read_record
from minutehand.install.rewrite import Schemas
from supabase_local.migrations import as_user
from tests.support.command import Run
from tests.support.stacks import RunningStack

SEED = int(os.environ.get("DOCTOR_SEED") or 0)
REF = "abcdefghijklmnopqrst"
SERVICE_ROLE = jwt.encode({"role": "service_role"}, "x" * 32, "HS256")
EXPIRED = jwt.encode({"role": "job_worker", "exp": 1}, "x" * 32, "HS256")
#: Statements that damage a database object, by a pattern of the statement that creates it.
DAMAGES = {
    r"(?s)CREATE OR REPLACE FUNCTION": """
        drop function {object} cascade
        drop function {object} cascade; create function {object} returns text return null
        set role none; alter function {object} owner to service_role
        grant execute on function {object} to public
        alter function {object} rename to planted""",
    r"(?s)CREATE OR REPLACE FUNCTION.+ SECURITY DEFINER": (
        "alter function {object} security invoker"
    ),
    r"(?s)CREATE OR REPLACE FUNCTION.+ SET search_path": "alter function {object} reset all",
    r"(?s)create or replace view": """
        drop view {object} cascade
        alter view {object} set (security_barrier = on)
        alter view {object} rename to planted
        drop view {object} cascade; create view {object} as select 1 as planted""",
    r"create table": """
        drop table {object} cascade
        alter table {object} rename to planted
        create schema planted; alter table {object} set schema planted
        grant all on {object} to anon
        set role none; alter table {object} owner to service_role
        alter table {object} set (autovacuum_enabled = off)
        create policy all_of_them on {object} using (true)""",
    r"create type": """
        drop type {object} cascade
        alter type {object} rename to planted
        alter type {object} add attribute planted text""",
    r"alter table \S+ add column if not exists (\S+)": """
        alter table {object} drop column {0} cascade
        alter table {object} rename column {0} to planted""",
    r"alter table \S+ alter column (\S+) set (default|not null)": (
        "alter table {object} alter column {0} drop {1}"
    ),
    r"alter table \S+ alter column (\S+) type (?!text)": (
        "alter table {object} alter column {0} type text using {0}::text"
    ),
    r"alter table \S+ add constraint (\S+)": """
        alter table {object} drop constraint {0} cascade
        alter table {object} rename constraint {0} to planted
        alter table {object} drop constraint {0} cascade, add constraint {0} check (true)""",
    r"CREATE (?:UNIQUE )?INDEX (\S+) ON (\w+)": """
        drop index {1}.{0}
        alter index {1}.{0} rename to planted
        drop index {1}.{0}; create index {0} on {object} ((1))""",
    r"CREATE TRIGGER (\S+)": """
        drop trigger {0} on {object}
        alter trigger {0} on {object} rename to planted
        alter table {object} enable replica trigger {0}
        drop trigger {0} on {object}; create trigger {0} after truncate on {object} \
execute function suppress_redundant_updates_trigger()
        alter table {object} disable trigger {0}""",
    r"create policy (\".+?\"|\S+) on": """
        drop policy {0} on {object}
        alter policy {0} on {object} rename to planted""",
    r"create policy (\".+?\"|\S+) on .+ for (?:SELECT|ALL)": (
        "alter policy {0} on {object} using (true)"
    ),
    r"alter table \S+ enable row level security": "alter table {object} disable row level security",
    r"(?:grant) (.+ on .+) to (\w+)$": "revoke {0} from {1}",
    r"grant (job_worker) to (authenticator)": "revoke {0} from {1}",
    r"insert into queue.(settings|tasks)": "delete from queue.{0} where name = '{name}'",
    r"insert into queue.tasks": "update queue.tasks set every = '1 year' where name = '{name}'",
    r"insert into queue.settings .+'\d+'\)": (
        "update queue.settings set value = '\"text\"' where name = '{name}'"
    ),
    r"comment on column (\S+) is": "comment on column {0} is null",
    r"alter sequence \S+ owner": "set role none; alter sequence {object} owner to service_role",
    r"alter (table|sequence) \S+ set logged": "alter {0} {object} set unlogged",
}
#: Other differences from the catalogue, by a word that the finding must have.
DRIFTS = """\
authenticated: grant job_worker to authenticated
queue: grant usage, create on schema queue to public
anon: alter role anon bypassrls
bypassrls: alter role service_role nobypassrls
service_role: grant service_role to authenticated
authenticator: alter role authenticator nologin
lock_timeout: alter role service_role set lock_timeout = '1ms'
statement_timeout: do $$ begin execute format('alter database %I set statement_timeout = ''5ms''', \
current_database()); end $$
read_only: do $$ begin execute format('alter role job_worker in database %I set \
default_transaction_read_only = on', current_database()); end $$
replica identity: alter table public.jobs replica identity nothing
cancel_job: create function public.cancel_job(text) returns text return null
lost: create rule lost as on insert to public.jobs do instead nothing
theirs: create trigger theirs before update on queue.turns for each row \
execute function suppress_redundant_updates_trigger()
theirs: alter table queue.turns add constraint theirs check (lane > 0)
not null: alter table queue.turns add column theirs text not null
rank: alter table queue.turns alter column rank set default 7
turns_blocked: set role none; update pg_index set indisvalid = false \
where indexrelid = 'queue.turns_blocked'::regclass
schema queue: comment on schema queue is null
gen_random_uuid: delete from queue.settings where name = 'guest_key'
change: alter type queue.change drop attribute at"""
#: Other faults of a database, each with a word that the finding must have.
OTHERS = """\
job_logs: alter publication supabase_realtime drop table public.job_logs
jobs: drop publication supabase_realtime
supabase_realtime: alter publication supabase_realtime set (publish = 'insert')
Realtime: drop policy "minutehand: members and guests follow" on realtime.messages
user_pending_max: update queue.settings set value = '0' where name = 'user_pending_max'
own_rule: alter table public.jobs add constraint own_rule check (priority < 0) not valid
own_index: create unique index own_index on public.jobs (workspace_id) where status = 'pending'
debug: create policy debug on realtime.messages for select to authenticated using (true)
3600s: alter role authenticated set statement_timeout = '3600s'
jobs_queue: alter schema queue rename to jobs_queue
theirs.f: create schema theirs; grant usage on schema theirs to job_worker; create function \
theirs.f() returns int language sql as 'select 1'; grant execute on function theirs.f to job_worker
other.f: create schema other; create function other.f() returns int language plpgsql as \
'begin perform queue.refuse_revoked(); return 1; end'; grant execute on function other.f to \
job_worker
own: create table public.own (workspace_id uuid); grant select on public.own to authenticated
workspaces: alter table public.workspaces disable row level security
swallows: create function public.swallow() returns trigger language plpgsql as 'begin return null; \
end'; create trigger swallows before insert on public.jobs for each row execute function swallow()
Fridays: create function public.raise() returns trigger language plpgsql as 'begin raise ''not on \
Fridays''; end'; create trigger raises before insert on public.jobs for each row execute function \
public.raise()
Sundays: create function public.raise() returns trigger language plpgsql as 'begin raise ''not on \
Sundays''; end'; create trigger raises before update on public.jobs for each row execute function \
public.raise()
pg_net: insert into queue.settings (name, value) values ('worker_url', '"https://jobs.example.com"')
on fire: insert into queue.pauses (kind, name, job_type, reason) values ('job_type', \
'chat_message', 'chat_message', 'on fire')
minutehand-tick: create extension pg_cron; select public.attach_extensions(); \
select cron.unschedule('minutehand-tick')"""
#: Faulty settings, with values in braces that depend on the stack.
SETTINGS = """\
SUPABASE_PUBLISHABLE_KEY=
SUPABASE_PUBLISHABLE_KEY=sb_publishable_wrong
SUPABASE_PUBLISHABLE_KEY=sb_secret_of_the_project
SUPABASE_PUBLISHABLE_KEY={service_role}
SUPABASE_URL=https://supabase.com/dashboard/project/{ref}/settings
SUPABASE_URL=db.{ref}.supabase.co
SUPABASE_URL=http://127.0.0.1:9
SUPABASE_URL={aws}
API_URL=https://{ref}.supabase.co
API_URL=http://127.0.0.1:9
API_URL={supabase}
WORKER_SECRET_TOKEN=
WORKER_SECRET_TOKEN=of-another-project
BACKGROUND_JOB_TOKEN=dev-secret-token
BACKGROUND_JOB_TOKEN=of-another-project
SEALING_KEY_FILE=/nowhere
SEALING_KEY_FILE={no_key}
REALTIME_URL=ws://127.0.0.1:9
CHAT_PACE_SECONDS=slow
STAGE=prod
CORS_ORIGINS=https://a.test,https://B.test/path
CORS_ORIGINS=a.test,http://localhost:3000
MINUTEHAND_APPS=no_such_app
MINUTEHAND_SCHEMA=minutehnd
LOG_LEVEL=LOUD
DATABASE_URL={wrong_password}
DATABASE_URL={wrong_port}
DATABASE_URL={no_database}
DATABASE_URL={bare_database}
DATABASE_URL={prisma}
SUPABASE_JWT_SECRET=of-another-project-of-ours-12345
SUPABASE_SECRET_KEY=sb_secret_of_another_project
SUPABASE_WORKER_KEY={expired}
SUPABASE_WORKER_KEY={service_key}"""
#: Kinds of differences from the catalogue.
KINDS = [
    *(line.strip() for lines in DAMAGES.values() for line in lines.split("\n") if line.strip()),
    *DRIFTS.splitlines(),
]
SQL = re.compile(
    r"(select|set|alter|create|drop|grant|revoke|insert|delete|update)\b", re.IGNORECASE
)


class Fault(NamedTuple):
    """A statement or a setting that breaks a project, and a word that the finding must have."""

    kind: str
    word: str
    text: str

    @property
    def is_setting(self) -> bool:
        """True if the text is NAME=value."""
        return self.text.partition("=")[0].isupper()


def list_drifts() -> Iterator[Fault]:
    """List damages of each object in the release's catalogue, and other differences."""
    for fact in read_record(Schemas(), built_in(())) or ():
        for pattern, lines in DAMAGES.items():
            if match := re.match(pattern, fact.statement):
                for line in lines.split("\n"):
                    if damage := line.strip():
                        word = re.split(r"[. ]", fact.object.partition("(")[0])[-1].strip('"')
                        text = damage.format(*match.groups(), object=fact.object, name=word)
                        yield Fault(damage, word, text)
    yield from _named(DRIFTS)


def _named(lines: str) -> Iterator[Fault]:
    for line in lines.splitlines():
        word, _, text = line.partition(": ")
        yield Fault(line, word, text)


def list_faults(stack: RunningStack) -> Iterator[Fault]:
    """List all faults of a database and of a stack's settings."""
    yield from list_drifts()
    yield from _named(OTHERS)
    url = stack.values["DATABASE_URL"]
    for line in SETTINGS.splitlines():
        text = line.format(
            ref=REF,
            service_role=SERVICE_ROLE,
            expired=EXPIRED,
            service_key=jwt.encode(
                {"role": "service_role", "exp": 4e9}, stack.values["SUPABASE_JWT_SECRET"], "HS256"
            ),
            # the URL of a server without these paths
            aws=stack.values["AWS_ENDPOINT_URL"],
            supabase=stack.values["SUPABASE_URL"],
            no_key=__file__,
            wrong_password=re.sub(r":[^:@/]+@", ":wrong@", url),
            wrong_port=re.sub(r":\d+/", ":9/", url),
            no_database=f"{url}_of_none",
            bare_database=url.replace("/postgres", "/template1"),
            prisma=f"{url}?pgbouncer=true",
        )
        yield Fault(line, text.partition("=")[0], text)


def draw(faults: list[Fault], rng: random.Random) -> Fault:
    """Draw a kind of fault, then a fault of this kind."""
    kind = rng.choice(sorted({fault.kind for fault in faults}))
    return rng.choice([fault for fault in faults if fault.kind == kind])


class World:
    """The parts that the doctor checks and a person can change."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack, self.values = stack, {**stack.values}

    def plant(self, fault: Fault) -> None:
        """Break the project."""
        if fault.is_setting:
            name, _, value = fault.text.partition("=")
            self.values[name] = value
            return
        with self.connect() as sql:
            sql.execute(fault.text.encode())

    def connect(self) -> psycopg.Connection[Any]:
        """Connect as the project's owner, the user of the dashboard's editor."""
        owner = as_user(self.stack.values["DATABASE_URL"], "postgres")
        return psycopg.connect(owner, autocommit=True)

    def wrong(self) -> list[CheckResult]:
        """Run the doctor and return its failures and warnings."""
        values = {name: value for name, value in self.values.items() if value}
        findings = run_checks(Target(values))
        return [finding for finding in findings if finding.verdict in ("fail", "warn")]

    def paste(self, findings: list[CheckResult]) -> None:
        """Apply all printed fixes literally, once."""
        for finding in findings:
            text = str(finding.fix)
            for fix in [text] if SQL.match(text) else text.splitlines():
                self._paste(fix.strip())

    def _paste(self, fix: str) -> None:
        if SQL.match(fix):
            with self.connect() as editor:
                editor.execute(fix.encode())
            return
        line, _, comment = (part.strip() for part in fix.partition("  # "))
        name, assigned, value = line.partition("=")
        if assigned and name.isupper():
            is_known = "…" in value or REF in value  # REF means the stack's project
            self.values[name] = self.stack.values[name] if is_known else value
        elif line.startswith("minutehand ") and line != "minutehand dev":  # this command never ends
            output = Run(env=self.values)(*shlex.split(line)[1:]).stdout.strip()
            if comment.startswith("as "):
                self.values[comment.removeprefix("as ")] = output
        elif line != "minutehand dev":
            raise AssertionError(f"the fix must be text to paste: {fix}")
