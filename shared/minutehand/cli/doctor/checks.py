"""The faults that stop people, each with its cause and the one line that mends it."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import jwt
import psycopg

from minutehand.app import find_apps
from minutehand.cli.doctor.findings import Finding, Target, check, fail, ok, warn
from minutehand.cli.stage import told
from minutehand.cli.supabase_cli import HOSTED
from minutehand.config import Settings
from minutehand.deploy.parameters import NEEDED, missing_for, parameter_name
from minutehand.local.migrations import find_migrations
from minutehand.project import Project
from minutehand.queue.data_api import profile_headers
from minutehand.queue.keys import KEY_WARN_DAYS, WORKER_ROLE, WorkerKey, days_left
from minutehand.terminal.connection import CommandFailed

DASHBOARD = re.compile(r"https://(?:app\.)?supabase\.com/dashboard/project/([a-z]+)")
API = "API_URL=https://…, which `minutehand deploy` prints, or the local one of .local/env"
PUBLISHABLE = "SUPABASE_PUBLISHABLE_KEY=sb_publishable_…, of Project settings → API keys"
NEW_KEY = "minutehand token worker --signing-key key.json, as SUPABASE_WORKER_KEY"
SECRET = "minutehand token secret"
SKEW_SECONDS = 5.0


@check("aws", staged=True)
def aws(target: Target) -> Finding:
    """A stage's values are ones that AWS and the functions take, and no secret is missing."""
    stage = target.stage
    if stage is None:
        return fail("only a deployed stage has AWS settings", "name it: --stage prod")
    stage.check()
    for function in NEEDED:
        if missing := missing_for(function, stage.secrets_of(function)):
            return fail(
                f"{parameter_name(stage.service, stage.name, function)} lacks {', '.join(missing)}",
                f"minutehand deploy {stage.name} --secrets-only",
            )
    return ok()


@check("settings")
def settings(target: Target) -> Finding:
    """Everything the service reads parses, no address is another's, and no secret is public."""
    values = target.values
    read = Settings.from_env(values)
    for app in find_apps(read.apps):
        app.module("processors")
    if page := DASHBOARD.match(values["SUPABASE_URL"]):
        address = f"SUPABASE_URL=https://{page[1]}.supabase.co"
        return fail("SUPABASE_URL is the dashboard's address", address)
    if HOSTED.match(values.get("API_URL", "")):
        return fail("API_URL is Supabase's address, not the API's", API)
    key = values["SUPABASE_PUBLISHABLE_KEY"]
    if key.startswith("sb_secret_") or _role_of(key) == "service_role":
        return fail("SUPABASE_PUBLISHABLE_KEY is a secret key: browsers would get it", PUBLISHABLE)
    if not read.worker_secret_tokens:
        return fail("WORKER_SECRET_TOKEN is not set: no schedule may tick", f"set it: {SECRET}")
    if {*read.worker_secret_tokens} & {*read.background_job_tokens}:
        return fail("WORKER_SECRET_TOKEN and BACKGROUND_JOB_TOKEN are equal", f"two: {SECRET}")
    if wrong := next((one for one in read.cors_origins if one.endswith("/")), None):
        return fail(f"CORS_ORIGINS: no browser sends {wrong}", f"CORS_ORIGINS={wrong.rstrip('/')}")
    if read.stage != "local" and values["SUPABASE_URL"].startswith("http://"):
        return fail("SUPABASE_URL is not encrypted", "SUPABASE_URL=https://…")
    return ok()


def _role_of(key: str) -> str | None:
    """The role a key carries, unverified; None when it is not a JWT."""
    try:
        role: str | None = jwt.decode(key, options={"verify_signature": False}).get("role")
    except jwt.PyJWTError:
        return None
    return role


def _fault(name: str, sql: str, after: str = "migrations") -> None:
    """A check by a query whose first row, if there is one, is verdict, detail and fix."""

    @check(name, after)
    def _(target: Target) -> Finding:
        return next((Finding(*row) for row in target.ask(sql)), ok())


_fault(
    "database",
    """select 'fail', 'the database takes no writes: the plan''s disk is full', words
       from queue.advice where reason = 'read_only'
         and current_setting('default_transaction_read_only')::boolean""",
    after="settings",
)


@check("sessions", "database")
def sessions(target: Target) -> Finding:
    """Each connection has a session of its own, in which a worker can listen."""
    with target.connect() as first, target.connect() as second:
        if share_a_session(first, second):
            return fail(
                "DATABASE_URL is a pooler in transaction mode: its sessions are shared with others",
                "take session mode or a direct connection; of Supabase's addresses those with 5432",
            )
    return ok()


def share_a_session(first: psycopg.Connection[Any], second: psycopg.Connection[Any]) -> bool:
    """Whether two open connections are given one session in turn, or one of them several."""
    ids = [
        connection.execute("select pg_backend_pid()").fetchone()
        for connection in (first, second, first)
    ]
    return ids[0] == ids[1] or ids[0] != ids[2]


@check("migrations", "database")
def migrations(target: Target) -> Finding:
    """Every file is applied, and nothing else."""
    files = {migration.version for migration in find_migrations(Project.find())}
    rows = target.ask("select version from supabase_migrations.schema_migrations")
    applied = {version for (version,) in rows}
    if missing := sorted(files - applied):
        return fail(f"{len(missing)} not applied, the first is {missing[0]}", target.migrate)
    if unknown := sorted(applied - files):
        return fail(f"the database is ahead: {unknown[0]} is not here", "git pull, deploy again")
    return ok(f"{len(files)} applied")


@check("queue", "migrations")
def queue(target: Target) -> Finding:
    """What the database itself says is wrong, of everything; that no worker runs is below."""
    [(told,)] = target.ask("select public.explain_queue()")
    found = [each for each in told["findings"] if each["reason"] != "no_worker"]
    if not found:
        return ok("nothing waits that should not")
    sentences = [" ".join(filter(None, (each["sentence"], each["cause"]))) for each in found]
    steps = [step.get("command") or step["words"] for each in found for step in each["next"][:1]]
    verdict = fail if found[0]["verdict"] == "fail" else warn
    return verdict(" ".join(sentences), "; ".join(dict.fromkeys(steps)))


_fault(  # by hand, by a dump into another project, by a tool that grants what it likes
    "privileges",
    """select 'fail', min(difference) || case when count(*) > 1
           then format('; and %s more, see queue.differences()', count(*) - 1) else '' end,
         string_agg(distinct fix, '; ')
       from queue.differences() having count(*) > 0""",
)
_fault(  # what the project itself has, beside ours
    "project",
    """select 'warn', 'no tenant has a member: no one sees a job',
         'add people to your memberships; with our workspaces to public.workspace_members'
       where not exists (select from queue.tenant_members)
       union all
       select 'fail', format('%s shows every tenant''s rows: its row level security is off',
           c.oid::regclass), format('alter table %s enable row level security', c.oid::regclass)
       from pg_class as c join pg_attribute as a on a.attrelid = c.oid
       where c.relkind = 'r' and a.attname = 'workspace_id' and not c.relrowsecurity
         and has_table_privilege('authenticated', c.oid, 'select')
       union all
       select 'warn', format('a call of %s may hold a connection for %s', r.rolname, s.value),
         format('alter role %s set statement_timeout = ''8s''', r.rolname)
       from pg_roles as r cross join unnest(r.rolconfig) as c (setting)
       cross join lateral (select split_part(c.setting, '=', 2) as value) as s
       where r.rolname in ('anon', 'authenticated') and c.setting like 'statement_timeout=%'
         and case when s.value ~ '^[0-9]+$' then s.value || 'ms' else s.value end::interval
           not between '1 ms' and '60 s'""",
)
_fault(  # what the project switched on after its migrations ran
    "extensions",
    """select 'fail', 'Realtime is there and not attached: no one can follow a job live',
         'in the SQL editor: select public.attach_extensions()'
       where to_regclass('realtime.messages') is not null and not exists (
         select from pg_policies where policyname = 'minutehand: members and guests follow')
       union all
       select 'fail', format('a revoked worker key may call %s', oid::regprocedure),
         format('in plpgsql: select queue.allow(''job_worker'', %L)', oid::regproc)
       from pg_proc
       where proacl::text ~ '[{,]job_worker=' and strpos(prosrc, 'refuse_revoked();') = 0
       union all
       select 'fail', format('the worker may not use the schema of %s', oid::regproc),
         format('grant usage on schema %s to job_worker', pronamespace::regnamespace)
       from pg_proc where proacl::text ~ '[{,]job_worker='
         and not has_schema_privilege('job_worker', pronamespace, 'usage')""",
)
_fault(
    "members",
    """select 'warn', 'there are tenants, and no one is a member of any: no one sees a job',
         'look at the view queue.tenant_members, and at its words for roles'
       where exists (select from queue.tenants)
         and not exists (select from queue.tenant_members)""",
)
_fault(
    "wake-up",
    """select 'fail', format('pg_net or the Vault is missing: no job wakes the worker at %s', url),
         'switch on pg_net and supabase_vault under Database → Extensions'
       from (select queue.setting('worker_url') #>> '{}' as url) as worker
       where url is not null and (to_regclass('vault.decrypted_secrets') is null
         or to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null)""",
)
_fault(
    "publication",
    """select 'warn', format('supabase_realtime lacks %s', string_agg(name, ', ')),
         format('alter publication supabase_realtime add table %s', string_agg(name, ', '))
       from (values ('public.jobs'), ('public.job_logs')) as tables (name)
       where not exists (select from pg_publication_tables
         where pubname = 'supabase_realtime' and schemaname || '.' || tablename = name)
       having count(*) > 0""",
)


@check("supabase", "settings")
def supabase(target: Target) -> Finding:
    """The URL answers, takes the key, and exposes what it should."""
    url, schemas = target.person.need("SUPABASE_URL"), target.schemas
    key = {"apikey": target.person.need("SUPABASE_PUBLISHABLE_KEY")}

    def data(table: str, schema: str) -> httpx.Response:
        headers = {**key, **profile_headers(schema)}
        return target.call("GET", "SUPABASE_URL", f"/rest/v1/{table}?limit=1", headers=headers)

    answer = data("jobs", schemas.clients)
    if "PGRST106" in answer.text:
        return fail(
            f"the Data API does not expose the schema {schemas.clients}",
            f"add {schemas.clients} under Project settings → Data API → Exposed schemas;"
            " for a branch or `supabase start`, to `[api] schemas` of supabase/config.toml",
        )
    if answer.status_code == 401 and "key" in answer.text.lower():  # else anon may not read jobs
        return fail("SUPABASE_PUBLISHABLE_KEY is refused", PUBLISHABLE)
    if answer.status_code == 404:
        return fail(f"{url} has no table jobs", f"{target.migrate}; or correct SUPABASE_URL")
    if answer.status_code >= 500:
        return fail(
            f"{url} answers {answer.status_code}: is the project paused, or its ref misspelt?",
            "restore it in the dashboard, or correct SUPABASE_URL",
        )
    if data("job_types", schemas.engine).is_success:
        return fail(
            f"the schema {schemas.engine} is exposed",
            f"Project settings → Data API: expose {schemas.clients} and yours only",
        )
    return ok(f"{url} answers, and exposes {schemas.clients}")


@check("clock", "supabase")
def clock(target: Target) -> Finding:
    """Tokens are judged by clocks."""
    before = time.time()
    answer = target.call("GET", "SUPABASE_URL", "/auth/v1/health")
    if not (date := answer.headers.get("date")):
        return ok("no other to compare with")
    # The header names a whole second that has begun; its middle is off by half of one at most.
    skew = parsedate_to_datetime(date).timestamp() + 0.5 - (before + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        return fail(
            f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead'}",
            "switch on time synchronisation: timedatectl set-ntp true",
        )
    return ok(f"{abs(skew):.1f} s")


@check("api", "settings")
def api(target: Target) -> Finding:
    """The API is there."""
    answer = target.call("GET", "API_URL", "/health")
    if not answer.is_success:
        return fail(f"{answer.url} answers {answer.status_code}", "see its log")
    return ok(f"alive, {answer.json().get('version')}")


@check("worker-key", "supabase", "migrations", "privileges")
def worker_key(target: Target) -> Finding:
    """The worker gets in, with no more rights than it needs."""
    _health(target)
    key = target.values.get("SUPABASE_WORKER_KEY")
    if key and _role_of(key) != WORKER_ROLE:
        return warn(f"its role is {_role_of(key)}: more rights than needed", NEW_KEY)
    days = days_left(key, datetime.now(UTC))
    if days is not None and days < KEY_WARN_DAYS:
        return warn(f"it expires in {days:.0f} days, and every worker is refused then", NEW_KEY)
    if not key and not target.values.get("SUPABASE_JWT_SECRET"):
        return warn("it signs in with a secret key: more rights than needed", NEW_KEY)
    return ok(f"signs in as {WORKER_ROLE}")


def _health(target: Target) -> dict[str, Any]:
    """`queue_health` by the worker's own key."""
    key = WorkerKey(Settings.from_env(target.values)).headers()
    headers = {**key, **profile_headers(target.schemas.clients)}
    path = "/rest/v1/rpc/queue_health"
    answer = target.call("POST", "SUPABASE_URL", path, headers=headers, json={})
    if not answer.is_success:
        raise CommandFailed(f"the worker is refused: {answer.text[:200]}", fix=NEW_KEY)
    health: dict[str, Any] = answer.json()
    return health


@check("schedule", "worker-key")
def schedule(target: Target) -> Finding:
    """Someone ticks."""
    health = _health(target)
    found = [each for each in health["findings"] if each["reason"] == "no_worker"]
    if not found:
        return ok(f"last tick {health['last_tick_seconds']:.0f} s ago")
    detail = " ".join(filter(None, (found[0]["sentence"], found[0]["cause"])))
    if target.stage is None:
        return fail(detail, "start it: `minutehand dev`, or `minutehand serve`")
    client, stack = target.stage.client("scheduler"), target.stage.stack
    with told(target.stage.region):
        state = client.get_schedule(Name=f"{stack}-tick")["State"]
    if state == "ENABLED":
        return fail(detail, f"aws logs tail {stack} --since 10m")
    return fail(  # a deploy alone does not undo manual changes
        f"{detail}: the schedule is disabled",
        "enable it in EventBridge → Scheduler, and `tickState: ENABLED` in the file of stages",
    )
