"""Checks for frequent faults. Each failed check prints the cause and the command that fixes it.

To add a check, write a query in database.sql, or here a function `(target) -> CheckResult` with
`@check(name, *after)`. A check changes nothing. A check is skipped if one of the checks named in
`after` has failed. The fix of a check begins with text to paste (SQL, `NAME=value` or a command).
Comments may follow the text.

Add each fault that a new check finds to tests/integration/cli/faults.txt. test_doctor_loop causes
random faults, applies the printed fixes and checks again. For an object that differs from the
release, add no check, but a line to the part `drift` of faults.txt.
"""

import asyncio
import re
import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import psycopg

from minutehand.app import find_apps
from minutehand.aws import SealBroken, make_sealer, row_context
from minutehand.aws.clients import client
from minutehand.cli.doctor import aws  # noqa: F401 - its check comes before the others
from minutehand.cli.doctor.results import (
    LINE,
    CheckResult,
    Target,
    check,
    fail,
    merge,
    ok,
    skip,
    warn,
)
from minutehand.cli.stage import translate_aws_errors
from minutehand.config import ConfigurationError
from minutehand.functions.worker.processors import load_processors
from minutehand.install.catalog import find_drifts, read_record
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.install.sources import installed, ordinal, version_of
from minutehand.local.migrations import find_applied
from minutehand.project import FILE, Project
from minutehand.queue.connection_probe import probe
from minutehand.queue.credentials import (
    KEY_WARN_DAYS,
    WORKER_ROLE,
    WorkerKey,
    days_left,
    secret_headers,
)
from minutehand.queue.data_api import profile_headers
from minutehand.queue.errors import error_from_response
from minutehand.queue.outbound_http import is_local
from minutehand.resources import checkout
from minutehand.terminal.connection import CommandFailed
from minutehand.version import VERSION

# A fix begins with text to paste unchanged into the settings, a terminal or the SQL editor. A
# comment may follow the text to paste. The character … marks a value that only the reader of the
# fix knows.
PUBLISHABLE = "SUPABASE_PUBLISHABLE_KEY=sb_publishable_…  # from Project settings → API keys"
SECRET = "SUPABASE_SECRET_KEY=sb_secret_…  # from Project settings → API keys"
#: Pattern of a hosted project's ref in an address of the project.
REF = r"[/.]([a-z]{20})(?:[.]supabase[.]|:)"
#: Name of the project's function that PostgREST calls before each request.
PRE_REQUEST = """
    select substring(c.setting, 'pgrst.db_pre_request=(.+)')
    from pg_roles as r cross join unnest(r.rolconfig) as c (setting)
    where r.rolname = 'authenticator' and c.setting like 'pgrst.db_pre_request=%'
"""
#: Statements that call this function for all roles but the worker's, which lacks its rights.
SKIP_PRE_REQUEST = (
    "create function public.skip_worker() returns void language plpgsql as 'begin if current_user"
    " <> ''job_worker'' then perform {}(); end if; end'; alter role authenticator set"
    " pgrst.db_pre_request = 'public.skip_worker'; notify pgrst, 'reload config'"
)
SERVICE_SECRETS = (
    "DATABASE_URL",
    "SUPABASE_JWT_SECRET",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_WORKER_KEY",
)
TOKEN = (
    "{}=…  # of the API's settings; a new one of `minutehand token secret` goes to the API by"
    " `minutehand deploy STAGE --secrets-only`, or by a restart"
)

#: Names of schemas that contain tables of the engine, and of schemas with the tables of clients.
ENGINES, CLIENTS = (
    f"select relnamespace::regnamespace::text from pg_class where relname in ({names})"
    " and relkind = 'r' group by 1 having count(*) > 1"
    for names in ("'job_types', 'leases', 'tenant_limits'", "'job_logs', 'workspace_settings'")
)
#: Query of statements that disable the project's own triggers, policies, foreign keys and
#: publications of two tables, because a publication of some rows or columns may reject updates. The
#: names of the engine's policies begin or end with the words of the pattern.
OWN_RULES = """
    select s.statement
    from pg_class as c
    cross join lateral (
      select format('alter table %%s disable trigger %%I', c.oid::regclass, t.tgname)
      from pg_trigger as t
      join pg_proc as p on p.oid = t.tgfoid
      where t.tgrelid = c.oid
        and not t.tgisinternal
        and t.tgenabled <> 'D'
        and p.pronamespace <> 'queue'::regnamespace
      union all
      select format('drop policy %%I on %%s', p.polname, c.oid::regclass)
      from pg_policy as p
      where p.polrelid = c.oid and p.polname !~ '^(managers|members) |_by_members$'
      union all
      select format('alter table %%s drop constraint %%I', c.oid::regclass, k.conname)
      from pg_constraint as k
      where k.conrelid = c.oid and k.contype = 'f' and k.confrelid <> 'public.workspaces'::regclass
      union all
      select format('alter publication %%I drop table %%s', p.pubname, c.oid::regclass)
      from pg_publication_rel as r
      join pg_publication as p on p.oid = r.prpubid
      where r.prrelid = c.oid
        and num_nulls(r.prqual, r.prattrs) < 2
        and pg_has_role(p.pubowner, 'member')
    ) as s (statement)
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and c.relname = any (%s)
    order by s.statement
"""
#: Query of the tables with a policy of the engine, and of the function that PostgREST calls before
#: each request. The columns are a name, statements that use it as a person does, and the fix.
USES = f"""
    select tablename::text, format(
      'set local role authenticated; select 1 from %I.%I limit 1; reset role',
      schemaname, tablename), null
    from pg_policies
    where schemaname = 'public'::regnamespace::text and qual ~ 'queue.my_workspaces'
    union all
    select format('the Data API without the headers that %s may require', name),
      format($$set local request.headers = '{{}}'; set local request.cookies = '{{}}';
      set local request.method = 'POST'; set local request.path = '/rpc/enqueue_job';
      set local role authenticated; select %s(); reset role$$, name),
      'alter role authenticator reset pgrst.db_pre_request; notify pgrst, ''reload config'''
    from ({PRE_REQUEST}) as f (name)
"""
#: Query of the statement that grants the right on a function of Postgres, or on one of people.
GRANT = """
    select string_agg(
      format('grant execute on function %s to %s', oid::regprocedure, case pronamespace
        when 'pg_catalog'::regnamespace then 'public'
        else 'authenticated'
      end),
      '; '
    )
    from pg_proc
    where (pronamespace = 'pg_catalog'::regnamespace
      or oid in ('public.enqueue_job'::regproc, 'public.cancel_job'::regproc))
      and proname = '{}'
"""
#: Query of one person of a tenant, with the claims of the person's requests.
PERSON = """
    select m.workspace_id::text, json_build_object('sub', m.user_id, 'role', 'authenticated')::text
    from queue.tenant_members as m
    limit 1
"""
#: A job type and a queue for trials, and the payload of a trial.
TRIAL = ("minutehand.doctor", "{}")
#: Seconds of a trial after which a rule of the project is sought that makes it slow.
SLOW_SECONDS = 2.0
#: Statements that publish the type, create a job, read it and cancel it.
TRIAL_TYPE = """
    select queue.publish_type('{"job_type": "minutehand.doctor", "queue": "minutehand.doctor"}')
"""
TRIAL_JOB = (
    "select public.enqueue_job(%s, %s, %s, '{\"queue\": \"minutehand.doctor\"}') -> 'job' ->> 'id'",
    "select id from public.jobs where id = %s",
    "select public.cancel_job(%s)",
)
#: Statements that lease the job, settle it with a line of its log, and delete it as retention does.
TRIAL_RUN = (
    """
    select l -> 'fence' from json_array_elements(public.lease_jobs(json_build_object(
      'worker_id', 'doctor', 'tick_id', gen_random_uuid(), 'call', 1, 'limit', 1, 'free_slots', -1,
      'queues', '["minutehand.doctor"]'::json, 'job_types', json_build_array(%s::text),
      'lease_seconds', 60)::jsonb) -> 'leases') as l
    """,
    """
    select public.settle_jobs(jsonb_build_object('worker_id', 'doctor', 'items',
      jsonb_build_array(jsonb_build_object('job_id', %s::text, 'fence', %s::bigint,
        'outcome', %s::text, 'logs', '[{"level": "info", "message": "trial"}]'::jsonb))))
    """,
    "delete from public.jobs where id = %s and status = 'completed' returning id",
)
#: Statement that creates a tenant with a member.
TRIAL_TENANT = """
    with tenant as (
      insert into public.workspaces (name) values ('minutehand.doctor') returning id
    )
    insert into public.workspace_members (workspace_id, user_id, role)
    select t.id, m.user_id, m.role from tenant as t, public.workspace_members as m limit 1
"""
#: Query of the job types of recent jobs, with the payload of the latest job of each type.
PAYLOADS = """
    select distinct on (j.job_type) j.job_type, j.payload::text
    from (select id, job_type, payload from public.jobs order by id desc limit 1000) as j
    join queue.job_types as t on t.job_type = j.job_type
    order by j.job_type, j.id desc
    limit 20
"""
#: Query of queries, each of which returns a sequence if its table has a higher number.
NUMBERS = """
    select format(
      'select %1$L, max(%2$I) from %3$s'
        ' having max(%2$I) > coalesce(pg_sequence_last_value(%1$L), 0)',
      pg_get_serial_sequence(c.oid::regclass::text, a.attname), a.attname, c.oid::regclass)
    from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid
    where a.attidentity <> ''
      and (c.relnamespace = 'queue'::regnamespace or c.oid = 'public.job_logs'::regclass)
"""
#: Query of the address of the worker that the database wakes, and of missing extensions. On AWS,
#: a schedule of AWS wakes the worker each minute.
WAKE = """
    select s.value #>> '{}', array(
      select e.name
      from (values
        ('pg_net', to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)')::oid),
        ('supabase_vault', to_regclass('vault.decrypted_secrets')),
        ('pg_cron', to_regclass('cron.job'))
      ) as e (name, object)
      where e.object is null and (e.name <> 'pg_cron' or s.value::text !~ 'amazonaws[.]com'))
    from queue.settings as s
    where s.name = 'worker_url'
"""
#: Query of the sessions for which other sessions wait, as findings of `explain_queue`.
BLOCKING = """
    select (f.data -> 'pid')::integer, to_jsonb(f) || queue.render_guidance(
      f.reason,
      f.data || jsonb_build_object('since', f.since)
    )
    from queue.findings_of_locks(null, queue.clock()) as f
"""
WAKE_TOKEN = """
    select decrypted_secret from vault.decrypted_secrets where name = 'minutehand_worker_token'
"""
#: Statements of an upgrade, which an event trigger of the project may reject.
TRIAL_DDL = """
    create table queue.doctor (id integer);
    create index on queue.doctor (id);
    create policy doctor on queue.doctor using (true);
    create function queue.doctor() returns trigger language plpgsql as 'begin end';
    create trigger doctor before insert on queue.doctor execute function queue.doctor();
    grant select on queue.doctor to job_worker;
    alter table queue.doctor alter column id set default 1;
    drop table queue.doctor;
    drop function queue.doctor()
"""
#: Query of statements that disable the event triggers whose function an error's context names.
EVENT_TRIGGERS = """
    select format('alter event trigger %%I disable /* as %%s */', e.evtname, e.evtowner::regrole)
    from pg_event_trigger as e
    join pg_proc as p on p.oid = e.evtfoid
    where strpos(%s, p.proname || '()') > 0 and e.evtenabled <> 'D'
"""
#: Queries of database.sql, by name of the check.
QUERIES = dict(
    part.split("\n", 1)
    for part in Path(__file__).with_name("database.sql").read_text("utf-8").split("-- check ")[1:]
)


@check("settings")
def settings(target: Target) -> CheckResult:
    """Check that all settings parse, that no addresses are mixed up, and that no secret leaks."""
    values = target.values
    read = target.settings
    packages = Project.find().apps
    try:
        for names in (packages, read.apps):
            for app in find_apps(names):
                app.has("processors")
    except ConfigurationError as error:
        fix = f"{error.variable}={','.join(packages) or error.example}"
        if any(repr(name) in error.problem for name in packages):
            fix = f'apps = ["…"]  # in {FILE}, with the names of your packages'
        return fail(f"{error.variable} {error.problem}", fix)
    refs = re.findall(REF, f"{values['SUPABASE_URL']} {values.get('DATABASE_URL')}")
    if len({*refs}) > 1:
        return fail(
            "SUPABASE_URL is of another project than DATABASE_URL",
            f"SUPABASE_URL=https://{refs[-1]}.supabase.co  # or correct DATABASE_URL",
        )
    key, secret = values["SUPABASE_PUBLISHABLE_KEY"], read.supabase_secret_key or ""
    if key.startswith("sb_secret_") or _key_role(key) == "service_role":
        is_swapped = secret.startswith("sb_publishable_") or _key_role(secret) == "anon"
        return fail(
            "SUPABASE_PUBLISHABLE_KEY must not be a secret key, because browsers get it",
            f"{PUBLISHABLE}{LINE}{SECRET}" if is_swapped else PUBLISHABLE,
        )
    if not read.worker_secret_tokens:
        require_service(target, "WORKER_SECRET_TOKEN")
        return fail(
            "WORKER_SECRET_TOKEN is not set, so no schedule can invoke the worker",
            TOKEN.format("WORKER_SECRET_TOKEN"),
        )
    if {*read.worker_secret_tokens} & {*read.background_job_tokens}:
        return fail(
            "WORKER_SECRET_TOKEN and BACKGROUND_JOB_TOKEN must differ",
            TOKEN.format("BACKGROUND_JOB_TOKEN"),
        )
    if wrong := [origin for origin in read.cors_origins if normalize_origin(origin) != origin]:
        right = ",".join(dict.fromkeys(map(normalize_origin, read.cors_origins)))
        return fail(
            f"CORS_ORIGINS must be origins as browsers send them; no browser sends {wrong[0]}",
            f"CORS_ORIGINS={right}",
        )
    if read.stage != "local" and values["SUPABASE_URL"].startswith("http://"):
        fix = "STAGE=local" if is_local(values["SUPABASE_URL"]) else "SUPABASE_URL=https://…"
        return fail("without STAGE=local, SUPABASE_URL must be encrypted (https)", fix)
    return ok()


@check("processors", "settings")
def processors(target: Target) -> CheckResult:
    """Load all processors with the settings of their apps, as a worker does."""
    broken: list[tuple[str, Exception]] = []
    load_processors(target.settings, on_error=lambda name, error: broken.append((name, error)))
    for _, error in broken:
        if isinstance(error, ConfigurationError):
            raise error
    if not broken:
        return ok()
    report = [f"{name} cannot be imported: {type(e).__name__}: {e}" for name, e in broken]
    return fail("; ".join(report), f";{LINE}".join(_import_fix(*module) for module in broken))


def _import_fix(name: str, error: Exception) -> str:
    """Return the name of a missing import, or the command that shows why a module fails."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"install the package that provides `{package}`, or correct the name in {name}"
    return f"python -c 'import {name}'  # shows the error, with which no deployed worker starts"


def normalize_origin(address: str) -> str:
    """Return the origin that a browser sends for an address.

    An origin has no path and a host in lower case. An origin omits the default port of its scheme.
    """
    if address == "*":
        return address
    parts = urlsplit(address if "://" in address else f"https://{address}")
    default_port = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(default_port)}"


def _key_role(key: str) -> str | None:
    """Return the role in a key without verifying the key, or None if the key is not a JWT."""
    try:
        role: str | None = jwt.decode(key, options={"verify_signature": False}).get("role")
    except jwt.PyJWTError:
        return None
    return role


@check("database", "settings")
def database(target: Target) -> CheckResult:
    """Check that the owner can connect, and that the engine is installed in this database."""
    engines, expected = [name for (name,) in target.query(ENGINES)], target.schemas
    if not engines:
        other = "DATABASE_URL=…  # of the project that has the engine; to install it here: "
        return fail("the engine is not installed in this database", f"{other}{target.migrate}")
    schema = "public" if engines[0] == "queue" else engines[0].removesuffix("_engine")
    if expected.engine not in engines and Schemas(schema).engine == engines[0]:
        return fail(
            f"the schema is {schema}, not {expected.clients}", f"MINUTEHAND_SCHEMA={schema}"
        )
    clients = [name for (name,) in target.query(CLIENTS)]
    for name, found in ((expected.engine, engines), (expected.clients, clients)):
        if found and name not in found:
            return fail(
                f"the schema {name} was renamed to {found[0]}",
                f"alter schema {found[0]} rename to {name}",
            )
    return ok()


def _check_by_query(name: str, after: str, relation: str = "") -> None:
    """Register a check that runs a query. The query may read a table of an extension."""

    @check(name, after)
    def run(target: Target) -> CheckResult:
        if relation and not _exists(target, relation):
            return skip(f"{relation} does not exist")
        return find_fault(target, name, ok())


def find_fault(target: Target, name: str, other: CheckResult) -> CheckResult:
    """Return the first fault that a query of database.sql finds, or the other result."""
    return next((CheckResult(*row) for row in target.query(QUERIES[name])), other)


# this check runs before the checks that read tables, because these checks would wait for a lock
@check("locks", "database")
def locks(target: Target) -> CheckResult:
    """Find the sessions that prevent writes of jobs, or for which other sessions wait.

    Other sessions may wait for a lock of any table, also of the project's own.
    """
    found = find_fault(target, "locks", ok())
    if found.verdict == "fail":  # the tables of the engine cannot be read
        return found
    try:
        sessions = target.query(BLOCKING)
    except psycopg.ProgrammingError:  # the check `engine` names the missing function or right
        return skip("see engine") if found.verdict == "ok" else found
    named = [int(pid) for pid in re.findall(r"^process (\d+)", found.detail)]
    others = [convert_finding(entry) for pid, entry in sessions if pid not in named]
    target.reported.update(each.fix for each in others if each.fix)
    return merge([found, *others] if found.detail else others or [found])


@check("migrations", "locks")
def migrations(target: Target) -> CheckResult:
    """Check that all migrations are applied, and that the database has no other migrations."""
    project, query = Project.find(), "select version from supabase_migrations.schema_migrations"
    applied = {version for (version,) in target.query(query)}
    files = {version_of(file) for file in find_applied(project, applied)}
    if missing := sorted(files - applied):
        release = ordinal(_engine_version(target))
        # migrations that cannot run again, because their release or a later one is installed
        ran = {
            version_of(part.path): part.path.stem.partition("_")[2]
            for part in installed(project.root)
            if ordinal(part.version) <= release
        }
        if rows := [f"('{version}', '{ran[version]}')" for version in missing if version in ran]:
            table = "supabase_migrations.schema_migrations"
            return fail(
                f"{table} lacks a migration that has run",
                f"insert into {table} (version, name) values {', '.join(rows)}",
            )
        return fail(f"{len(missing)} not applied, the first is {missing[0]}", target.migrate)
    if unknown := sorted(applied - files):
        return fail(
            f"the database is ahead: it has {unknown[0]}, which this project lacks",
            "git pull, deploy again",
        )
    return ok(f"{len(files)} applied")


#: Statements that make maintenance retry now what has failed.
RETRIES = (
    "update queue.tasks set retry_at = null where retry_at > now()",
    "update queue.refusals set retry_at = now() where retry_at > now()",
)


@check("engine", "migrations")
def engine(target: Target) -> CheckResult:
    """Compare all database objects and their rights with the record of the installed release."""
    if (version := _engine_version(target)) != VERSION:
        return fail(
            f"the engine has version {version}, but this command has version {VERSION}",
            f"minutehand upgrade  # then {target.migrate}"
            if ordinal(version) < ordinal(VERSION)
            else f'pip install "minutehand=={version}"',
        )
    if (record := read_record(target.schemas, target.apps)) is None:
        return skip(f"there is no record to compare with; run `{record_command()}`")
    tenancy = [part for part in installed(Project.find().root) if part.expected is None]
    try:
        # allow writes, because the comparison may rename objects, which is then rolled back
        with target.transaction() as owner:
            text = "".join(part.text for part in tenancy[-1:])
            differences = find_drifts(owner, target.schemas, record, text)
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
        if not tenancy:
            raise
        return fail(
            f"a view of your tenants is missing, and its SQL fails: {error.diag.message_primary}",
            f"correct and run the part {tenancy[-1].origin} of {tenancy[-1].path.name}",
        )
    if not differences:
        return ok("as released")
    more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
    details = "; ".join(difference.detail for difference in differences[:5])
    lines = [
        # begin a transaction, because psql runs each statement in its own, and the database's
        # default may be wrong too
        "begin read write",
        # the body of a function may name an object that a later statement creates
        "set check_function_bodies = off",
        *(difference.fix for difference in differences),
        # maintenance would otherwise retry within an hour what has failed because of a difference
        *(rewrite(statement, target.schemas) for statement in RETRIES),
    ]
    return fail(details + more, f";{LINE}".join([*lines, "commit;"]))


def _engine_version(target: Target) -> str:
    """Return the engine's version, or this command's version if the function is missing."""
    has_version = target.query("select 1 where to_regprocedure('queue.version()') is not null")
    [(version,)] = target.query("select queue.version()") if has_version else [(VERSION,)]
    return str(version)


# the check `engine` names the roles and settings that change a session
@check("sessions", "engine")
def sessions(target: Target) -> CheckResult:
    """Check that each connection has a session, in which a worker can listen and set its role."""
    address = asyncio.run(probe(target.person.need("DATABASE_URL")))
    if address.fault:
        reason, fix = address.fault
        return fail(f"DATABASE_URL {reason}", f"DATABASE_URL=…  # {fix}")
    if not address.notifications:
        return warn(
            "DATABASE_URL delivers no notifications, so workers poll once a second",
            "DATABASE_URL=…  # of a direct connection, to the primary and not to a standby",
        )
    return ok("DATABASE_URL gives each connection a session of its own")


@check("queue", "engine")
def queue(target: Target) -> CheckResult:
    """Report the database's findings, except a missing worker, which `schedule` reports."""
    [(explanation,)] = target.query("select public.explain_queue()")
    entries = [entry for entry in explanation["findings"] if entry["reason"] != "no_worker"]
    results = [convert_finding(entry) for entry in entries]
    if news := [result for result in results if result.fix not in target.reported]:
        return merge(news)
    return skip("see locks") if results else ok("every waiting job has a normal reason")


def convert_finding(entry: dict[str, Any]) -> CheckResult:
    """Convert a finding of the database to a result, whose fix is the first step."""
    parts = (entry[name] for name in ("sentence", "cause"))
    steps = map(format_step, entry["next"][:1])
    return CheckResult(entry["verdict"], " ".join(filter(None, parts)), next(steps, None))


def format_step(step: dict[str, Any]) -> str:
    """Format a step as a statement or command with a comment.

    Without a command, return its words.
    """
    command = str(step.get("command") or "")
    if statement := re.search("`(select pg_[^`]+)`", step["words"]):
        return f"{statement[1]}  -- {step['words']}"
    if command.startswith("minutehand doctor"):
        return f"{step['words']} {command}" if step["words"].endswith(":") else str(step["words"])
    if not command:
        return str(step["words"])
    return f"{command}  # {step['words']}"


# the next two checks find causes with which `enqueue` fails
_check_by_query("publication", "engine")


@check("sequences", "migrations")
def sequences(target: Target) -> CheckResult:
    """Check that new rows get higher numbers than existing rows, also after a restore."""
    queries = " union all ".join(query for (query,) in target.query(NUMBERS))
    behind = {name: f"select setval('{name}', {number})" for name, number in target.query(queries)}
    if not behind:
        return ok()
    return fail(
        f"rows have higher numbers than the sequences {', '.join(behind)}",
        "; ".join(behind.values()),
    )


@check("enqueue", "queue", "publication", "sequences")
def enqueue(target: Target) -> CheckResult:
    """Check that jobs and tenants can be created, and that jobs can end.

    All trials are in a transaction that is rolled back.
    """
    people, samples = target.query(PERSON), [TRIAL, *target.query(PAYLOADS)]
    if not people:
        return skip("there is no person to enqueue for")
    [(workspace, claims)] = people
    with target.transaction("read write") as owner:
        trial = Trial(owner, target.schemas, workspace, claims)
        # a user's call of the Data API ends after eight seconds
        owner.execute("set local statement_timeout = '8s'")
        failed = slow = None
        # roll back all jobs only at the end, because each count of a tenant's jobs after a rollback
        # takes a token of the limit of enqueues
        with owner.transaction(force_rollback=True):
            for sample in samples:
                attempt = partial(trial.attempt, partial(trial.run_job, *sample))
                started_at = time.monotonic()
                error = attempt()
                seconds = time.monotonic() - started_at
                # ignore an error of a tenant's limit, or of a job type that only the platform
                # enqueues
                if error and not str(error.sqlstate).startswith("PT"):
                    failed = f"{sample[0]} cannot be {trial.step}: ", error, attempt
                    if not isinstance(error, NotLeased):
                        break
                elif seconds > SLOW_SECONDS:
                    slow = f"{sample[0]} took {seconds:.0f} s", attempt
                    break  # each further type would take as long
        if failed:
            text, error, attempt = failed
            message = str(error).partition("\n")[0]
            cause = trial.find_cause(attempt, "jobs", "job_logs") or find_grant(target, message)
            if cause or not isinstance(error, NotLeased):
                return fail(f"a trial job of the type {text}{message}", cause or trial.untried)
        if slow:
            cause = trial.find_cause(slow[1], "jobs", "job_logs") or trial.untried
            if cause:
                return warn(f"a trial job of the type {slow[0]}", cause)
        attempt = partial(trial.attempt, partial(trial.run, TRIAL_TENANT))
        if (error := attempt()) and (
            cause := trial.find_cause(attempt, "workspaces", "workspace_members")
        ):
            return warn(f"no tenant can be created: {error}".partition("\n")[0], cause)
        owner.execute("set local statement_timeout = '1s'")  # a slow read is no fault
        for name, use, fix in target.query(USES):
            attempt = partial(trial.attempt, partial(owner.execute, use.encode()))
            if (error := attempt()) and (cause := fix or trial.find_cause(attempt, name)):
                text = f"people cannot use {name}: {error}".partition("\n")[0]
                return warn(text, cause) if fix else fail(text, cause)
    return ok()


def record_command() -> str:
    """Return the command that adds the record, with which the check `engine` compares."""
    root = checkout()
    if root is None:  # pip has built the wheel
        return f'pip install --force-reinstall --no-deps "minutehand=={VERSION}"'
    return "make dist" if root == Path.cwd() else f"make -C {shlex.quote(str(root))} dist"


def find_remedy(target: Target, name: str, *, named: bool) -> str | None:
    """Return what helps if the database rejects the query of a check.

    Migrations do not help after the check `migrations`. The check `engine` then finds a missing
    object, unless it has no record.
    """
    if name in ("database", "locks", "migrations"):
        return target.migrate
    if read_record(target.schemas, target.apps) is None:
        return (
            f"{record_command()}  # then run `minutehand doctor` again, which finds missing objects"
        )
    return "minutehand doctor" if named else None


def find_grant(target: Target, message: str) -> str | None:
    """Return the statement that grants the right on a function that an error's message names."""
    name = re.search(r"permission denied for function (\w+)", message)
    return target.query(GRANT.format(name[1]))[0][0] if name else None


class NotLeased(psycopg.Error):
    """No lease returned a job. A limit, a pause or a trigger of the project prevents the lease."""


class Trial:
    """A job and a tenant on trial, in an open transaction of the database's owner."""

    def __init__(
        self, owner: psycopg.Connection[Any], schemas: Schemas, workspace: str, claims: str
    ) -> None:
        self._owner, self._schemas, self._workspace = owner, schemas, workspace
        #: The step of the trial job that runs now, or that failed.
        self.step = "created"
        #: What a person can try if locks of running workers prevented the search for a cause.
        self.untried: str | None = None
        owner.execute("select set_config('request.jwt.claims', %s, true)", [claims])

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement. Return its rows, or an empty tuple for each row that it wrote."""
        cursor = self._owner.execute(rewrite(sql, self._schemas).encode(), values or None)
        return cursor.fetchall() if cursor.description else [()] * cursor.rowcount

    def attempt(self, steps: Callable[[], Any]) -> psycopg.Error | None:
        """Run steps, and return their error, or None. A step without a row is an error."""
        try:
            with self._owner.transaction():
                if not steps():
                    raise psycopg.Error("a written row is missing or has another state")
        except psycopg.errors.LockNotAvailable:
            raise
        except psycopg.Error as error:
            return error
        return None

    def run_job(self, job_type: str, payload: str) -> list[tuple[Any, ...]]:
        """Create a job as a person of a tenant, and cancel, fail and complete it."""
        owner, (create, find, cancel), (lease, settle, delete) = self._owner, TRIAL_JOB, TRIAL_RUN
        self.step = "created"
        self.run(TRIAL_TYPE)
        owner.execute("set local role authenticated")
        [(job,)] = self.run(create, self._workspace, job_type, payload)
        self.step = "read"
        if not self.run(find, job):
            return []
        self.step = "cancelled"
        with owner.transaction(force_rollback=True):
            self.run(cancel, job)
        self.step = "leased"
        owner.execute("reset role")
        fences = self.run(lease, job_type)
        if not fences:
            raise NotLeased("no lease returned it")
        for self.step in ("failed", "completed"):
            with owner.transaction(force_rollback=self.step == "failed"):
                self.run(settle, job, *fences[0], self.step)
        self.step = "deleted"
        return self.run(delete, job)

    def find_cause(self, attempt: Callable[[], psycopg.Error | None], *tables: str) -> str | None:
        """Find the project's rules of tables without which the attempt succeeds."""
        rows = self.run(OWN_RULES, [*tables])
        owner, rules = self._owner, [str(row[0]) for row in rows]
        # use short timeouts, because each trial locks a table and all callers wait for the lock
        owner.execute("set local lock_timeout = '300ms'; set local statement_timeout = '300ms'")
        deadline = time.monotonic() + 1
        for statement in (*rules, f";{LINE}".join(rules)):
            try:
                with owner.transaction(force_rollback=True):
                    owner.execute(statement.encode())
                    if attempt() is None:
                        return statement
            except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                deadline = 0
            if rules and time.monotonic() > deadline:
                again = "stop the workers, and run `minutehand doctor` again, or try without one of"
                self.untried = LINE.join((f"not determined in time: {again}", *rules))
                return None
        return None


for name in ("jobs", "extensions"):
    _check_by_query(name, "migrations")
_check_by_query("cron", "migrations", "cron.job")
# a table, view, function or policy with another fault would have another fix here
_check_by_query("project", "enqueue")
_check_by_query("functions", "engine")


@check("event-triggers", "engine")
def event_triggers(target: Target) -> CheckResult:
    """Check that the project's event triggers allow the statements of an upgrade."""
    with target.transaction("read write") as owner:
        try:
            owner.execute(rewrite(TRIAL_DDL, target.schemas).encode())
        except psycopg.errors.LockNotAvailable:
            raise
        except psycopg.Error as error:
            owner.rollback()
            rows = owner.execute(EVENT_TRIGGERS.encode(), [error.diag.context]).fetchall()
            message = str(error).partition("\n")[0]
            return fail(
                f"an upgrade would fail: {message}",
                "; ".join(statement for (statement,) in rows) or None,
            )
    return ok()


@check("wake-up", "settings", "migrations")
def wake_up(target: Target) -> CheckResult:
    """Check that the database wakes the worker of these settings, with its token."""
    tokens = target.settings.worker_secret_tokens
    for url, missing in target.query(WAKE):
        api = target.values.get("API_URL", "https://…").rstrip("/")
        path = "/api/jobs/worker"
        is_other = not url.endswith(path) or (
            "…" not in api and not is_local(api) and url != f"{api}{path}"
        )
        has_token = "supabase_vault" not in missing and (
            {token for (token,) in target.query(WAKE_TOKEN)} & {*tokens}
        )
        steps = [f"create extension if not exists {name}" for name in missing]
        if is_other or not has_token:
            # print no secret of a hosted project
            shown = tokens[0] if tokens and is_local(target.person.need("SUPABASE_URL")) else "…"
            steps.append(
                f"select {target.schemas.clients}.connect_worker('{api}{path}',"
                f" '{shown}')  -- with the WORKER_SECRET_TOKEN"
            )
        elif missing:
            steps.append(f"select {target.schemas.clients}.attach_extensions()")
        problems = [f"it lacks {', '.join(missing)}"] if missing else []
        problems += [] if has_token else ["the Vault lacks its WORKER_SECRET_TOKEN"]
        problems += [f"its address must be {api}{path}"] if is_other else []
        if problems:
            return fail(
                f"the database cannot wake the worker at {url}: {'; '.join(problems)}",
                "; ".join(steps),
            )
    return ok()


def _exists(target: Target, relation: str) -> bool:
    return bool(target.query(f"select 1 where to_regclass('{relation}') is not null"))


@check("supabase", "settings", "locks")
def supabase(target: Target) -> CheckResult:
    """Check that the Data API responds, accepts the key, and exposes only the right schemas."""
    url, schemas = target.person.need("SUPABASE_URL"), target.schemas
    anon_headers = {"apikey": target.person.need("SUPABASE_PUBLISHABLE_KEY")}

    def data(table: str, schema: str, key: dict[str, str] = anon_headers) -> httpx.Response:
        headers = {**key, **profile_headers(schema)}
        return target.call("GET", "SUPABASE_URL", f"/rest/v1/{table}?limit=1", headers=headers)

    response = data("jobs", schemas.clients)
    if "PGRST106" in response.text:
        return fail(
            f"the Data API does not expose the schema {schemas.clients}",
            f"add {schemas.clients} under Project settings → Data API → Exposed schemas;"
            " for a branch or `supabase start`, to `[api] schemas` of supabase/config.toml",
        )
    # a response 401 without the word "key" only means that the role anon may not read jobs
    if response.status_code == 401 and "key" in response.text.lower():
        return fail(
            f"SUPABASE_URL {url} rejected SUPABASE_PUBLISHABLE_KEY; both must be of one project",
            PUBLISHABLE,
        )
    if response.status_code == 404:
        return fail(
            f"{url} has no table jobs",
            "SUPABASE_URL=https://…  # of this database's project, without a path; if it is, run: "
            f"{target.migrate}",
        )
    if response.status_code >= 500:
        return fail(
            f"{url} responded {response.status_code}: is the project paused, or its ref misspelt?",
            "SUPABASE_URL=https://…  # from the dashboard, which also restores a paused project",
        )
    secret = target.values.get("SUPABASE_SECRET_KEY")
    if secret and data("jobs", schemas.clients, secret_headers(secret)).status_code == 401:
        return fail("SUPABASE_SECRET_KEY was rejected", SECRET)
    if data("job_types", schemas.engine).is_success:
        return fail(
            f"the schema {schemas.engine} must not be exposed",
            f"Project settings → Data API: expose only {schemas.clients} and your schemas",
        )
    return ok(f"{url} responds, and exposes {schemas.clients}")


@check("api", "settings")
def api(target: Target) -> CheckResult:
    """Check that the API responds, and accepts the tokens of schedules that invoke the worker."""
    response = target.call("GET", "API_URL", "/health")
    if not response.is_success:
        return fail(
            f"{response.url} responded {response.status_code}; the API's log has the reason",
            "API_URL=https://…  # printed by `minutehand deploy`; the local address is in"
            " .local/env",
        )
    read = target.settings
    tokens = [
        *(("WORKER_SECRET_TOKEN", "GET", "worker", token) for token in read.worker_secret_tokens),
        # the API checks the token first, and then rejects the body, so that no worker run starts
        *(("BACKGROUND_JOB_TOKEN", "POST", "process", t) for t in read.background_job_tokens),
    ]
    for name, method, path, token in tokens:
        headers, body = {"authorization": f"Bearer {token}"}, "[]" if method == "POST" else None
        url = f"/api/jobs/{path}"
        if target.call(method, "API_URL", url, headers=headers, content=body).status_code == 401:
            return fail(
                f"the API rejects {name}, so no schedule or job can wake the worker",
                TOKEN.format(name),
            )
    return ok(f"alive, {response.json().get('version')}")


@check("sealing", "settings", "locks")
def sealing(target: Target) -> CheckResult:
    """Check that a secret can be encrypted, and that a stored secret can be decrypted."""
    settings = target.settings
    other = "SEALING_KEY_FILE=…  # the file that sealed the stored secrets, or its backup"
    if target.stage or not (settings.kms_key_id or settings.sealing_key_file):
        return skip("no key is set, or the check `aws` reads it")
    if not settings.kms_key_id and not Path(str(settings.sealing_key_file)).is_file():
        return warn("SEALING_KEY_FILE names no file, so stored secrets cannot be opened", other)
    sealer, rows = make_sealer(settings), []
    if target.values.get("DATABASE_URL") and _exists(target, "queue.webhooks"):
        rows = target.query("select workspace_id::text, sealed_secret from queue.webhooks limit 1")
    try:
        with translate_aws_errors(settings.aws_region):
            asyncio.run(sealer.seal("", context=row_context()))
            for workspace, secret in rows:
                context = row_context(workspace_id=workspace, secret="webhook")
                asyncio.run(sealer.open(secret, context=context))
    except CommandFailed as failed:
        return fail(str(failed), "KMS_KEY_ID=…  # of a key that this AWS sign-in may use")
    except (OSError, ValueError, SealBroken) as error:
        return fail(f"SEALING_KEY_FILE does not have the key of the stored secrets: {error}", other)
    return ok()


@check("uploads", "settings")
def uploads(target: Target) -> CheckResult:
    """Check that the bucket exists. S3 denies the request, because it has no signature."""
    if (bucket := target.settings.uploads_bucket) is None:
        return skip("UPLOADS_BUCKET is not set")
    try:
        found = httpx.head(f"{client(target.settings, 's3').meta.endpoint_url}/{bucket}")
    except httpx.HTTPError:
        return skip("S3 does not respond")
    if found.status_code != 404:
        return ok()
    fix = f"UPLOADS_BUCKET=…  # of this AWS account; or create it: aws s3 mb s3://{bucket}"
    return fail(f"the bucket {bucket} does not exist", fix)


@check("worker-key", "supabase", "migrations", "engine")
def worker_key(target: Target) -> CheckResult:
    """Check that the worker can sign in, and that its key has only the rights that it needs."""
    guest_key = _read(target, "guest_key")
    response = _call_as_worker(target, "report_jobs", {"p_request": []})  # an invalid request
    if not error_from_response(response.status_code, response.json()).word:
        return fail(
            "the Data API removes hint and details from errors, which clients need",
            "alter role authenticator set pgrst.client_error_verbosity = 'verbose';"
            " notify pgrst, 'reload config'",
        )
    # each database has a random key
    own = target.query("select public.guest_key()") if target.values.get("DATABASE_URL") else []
    if own and own != [(guest_key,)]:
        return fail(
            "SUPABASE_URL and DATABASE_URL are of two projects",
            "DATABASE_URL=…  # of the project of SUPABASE_URL",
        )
    key, fix = target.values.get("SUPABASE_WORKER_KEY"), key_command(target)
    if key and _key_role(key) != WORKER_ROLE:
        return warn(f"its role is {_key_role(key)}, with more rights than needed", fix)
    days = days_left(key, datetime.now(UTC))
    if days is not None and days < KEY_WARN_DAYS:
        return warn(f"it expires in {days:.0f} days, and then every worker is rejected", fix)
    if not key and not target.values.get("SUPABASE_JWT_SECRET"):
        return warn("the worker signs in with a secret key, with more rights than needed", fix)
    return ok(f"signs in as {WORKER_ROLE}")


def key_command(target: Target) -> str:
    """Return the command that creates a worker's key. If set, the legacy secret signs the key."""
    key = "" if target.values.get("SUPABASE_JWT_SECRET") else " --signing-key key.json"
    return f"minutehand token worker{key}  # as SUPABASE_WORKER_KEY"


def require_service(target: Target, name: str) -> None:
    """Raise an error if the settings are those of a person, which have no secret of the service."""
    if not any(map(target.values.get, SERVICE_SECRETS)):
        raise CommandFailed(
            f"these settings have no secret of the service, so {name} is unknown here",
            code="missing_setting",
        )


def _call_as_worker(target: Target, name: str, arguments: dict[str, Any]) -> httpx.Response:
    require_service(target, "the worker's key")
    key = WorkerKey(target.settings).headers()
    headers = {**key, **profile_headers(target.schemas.clients)}
    path = f"/rest/v1/rpc/{name}"
    return target.call("POST", "SUPABASE_URL", path, headers=headers, json=arguments)


def _read(target: Target, name: str) -> dict[str, Any]:
    """Call a function with the worker's key. Raise an error if the key is rejected."""
    response = _call_as_worker(target, name, {})
    if not response.is_success:
        fix, key = None, target.values.get("SUPABASE_WORKER_KEY")
        # a key of another role is accepted, but may not call the function
        if response.status_code == 401 or (key and _key_role(key) != WORKER_ROLE):
            fix = (
                "SUPABASE_JWT_SECRET=…  # from Project settings → JWT keys; leave it empty and set"
                " SUPABASE_SECRET_KEY, if the project has its own signing keys or revoked the"
                " legacy secret"
            )
            if "PGRST303" in response.text:  # a new token has expired, or is not valid yet
                fix = "sudo timedatectl set-ntp true  # the clock of this machine is wrong"
            if "key_revoked" in response.text:
                fix = "minutehand doctor  # in a minute: keys signed now are still revoked"
            fix = key_command(target) if key else fix
        elif target.values.get("DATABASE_URL"):  # the key is accepted, and a function fails
            skips = (SKIP_PRE_REQUEST.format(*row) for row in target.query(PRE_REQUEST))
            fix = find_grant(target, response.text) or next(skips, None)
        raise CommandFailed(f"the worker's call failed: {response.text[:200]}", fix=fix)
    return dict(response.json())


def find_sessions(target: Target) -> CheckResult | None:
    """Return the finding that names who uses the connections, read through the Data API."""
    try:
        findings = _read(target, "queue_health")["findings"]
    except (CommandFailed, ConfigurationError, httpx.HTTPError, psycopg.Error):
        return None
    named = (entry for entry in findings if entry["reason"] == "used_up_connections")
    return next(map(convert_finding, named), None)


@check("schedule", "worker-key")
def schedule(target: Target) -> CheckResult:
    """Check that workers ran recently, as the schedule requires."""
    health = _read(target, "queue_health")
    entries = [entry for entry in health["findings"] if entry["reason"] == "no_worker"]
    if not entries:
        return ok(f"last tick {health['last_tick_seconds']:.0f} s ago")
    result = merge([convert_finding(entry) for entry in entries])
    if target.stage is None:
        return result
    return fail(result.detail, f"aws logs tail {target.stage.stack} --since 10m")
