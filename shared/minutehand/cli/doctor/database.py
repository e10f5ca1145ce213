"""The database from its owner's side: version, migrations, grants, row level security, policies."""

from __future__ import annotations

import re
from collections.abc import Callable

import psycopg
from psycopg.conninfo import conninfo_to_dict

from minutehand.cli.doctor.findings import Checks, Finding, Target, fail, ok, skip, warn
from minutehand.cli.supabase_cli import HOSTED, how_to_migrate
from minutehand.local.migrations import find_migrations
from minutehand.project import Project
from minutehand.queue.errors import read_only_fix

CHECKS = Checks()
NEEDS = ("DATABASE_URL",)
MIGRATED = ("migrations",)
#: Functions that must be executable, by role.
OPEN = {
    "authenticated": ("enqueue_job", "get_job", "cancel_job", "retry_job", "answer_job"),
    "job_worker": (
        "lease_jobs", "run_maintenance", "read_steps", "report_jobs", "settle_jobs", "spawn_jobs",
        "register_job_types", "tick_finished", "store_artefact", "queue_health",
        "begin_worker_run", "end_worker_run",
    ),
    "service_role": ("enqueue_job", "lease_jobs", "settle_jobs", "queue_health", "queue_stats"),
}  # fmt: skip


def push(target: Target) -> str:
    """The one line that brings this database up to date."""
    return how_to_migrate(target.values.get("SUPABASE_URL", ""), target.stage)


def none(
    name: str,
    sql: str,
    finding: Callable[[str, str], Finding],
    detail: str,
    fix: str,
    *,
    fine: str,
    after: tuple[str, ...] = MIGRATED,
) -> None:
    """A check whose query must give no row; the first one and the schemas are in the words."""

    @CHECKS.add(name, needs=NEEDS, after=after)
    def _(target: Target) -> Finding:
        schemas = {"clients": target.schemas.clients, "engine": target.schemas.engine}
        for row in target.ask(sql):
            return finding(detail.format(*row, **schemas), fix.format(*row, **schemas))
        return ok(fine.format(**schemas))


@CHECKS.add("one-project", needs=NEEDS)
def one_project(target: Target) -> Finding:
    """The database and the API are of one project."""
    of_api = HOSTED.fullmatch(target.values.get("SUPABASE_URL", "").rstrip("/"))
    of_database = database_ref(target.values["DATABASE_URL"])
    if of_api is None or of_database is None:
        return skip("the project's ref cannot be read from both addresses")
    if of_api[1] != of_database:
        return fail(
            f"DATABASE_URL belongs to project {of_database}, SUPABASE_URL of {of_api[1]}",
            "copy both from one project: Connect, and Project settings → Data API",
        )
    return ok(of_database)


def database_ref(url: str) -> str | None:
    """The ref in a hosted project's database address, direct or by the pooler."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return None  # connecting says what is wrong with it
    host, user = str(parts.get("host", "")), str(parts.get("user", ""))
    direct = re.fullmatch(r"db\.([a-z]{20})\.supabase\.(?:co|in|red)", host)
    pooled = re.fullmatch(r"[^.]+\.([a-z]{20})", user)
    found = direct or pooled
    return found[1] if found else None


@CHECKS.add("postgres", needs=NEEDS, after=("one-project",))
def version(target: Target) -> Finding:
    """Postgres 15 or newer."""
    [(number, text)] = target.ask(
        "select current_setting('server_version_num')::int, current_setting('server_version')"
    )
    if number < 150000:
        return fail(f"Postgres {text}", "upgrade to Postgres 15 or newer")
    return ok(f"Postgres {text}")


none(
    "wal-level",
    "select level from current_setting('wal_level') as level where level <> 'logical'",
    warn,
    "wal_level is {0}: no Postgres Changes are sent",
    "alter system set wal_level = 'logical', then restart",
    fine="logical",
    after=("postgres",),
)


@CHECKS.add("statement-timeout", needs=NEEDS, after=("postgres",))
def statement_timeout(target: Target) -> Finding:
    """A user's query has a time limit."""
    rows = target.ask(
        """select split_part(entry, '=', 2) from pg_roles as r, unnest(r.rolconfig) as entry
           where r.rolname = 'authenticated' and entry like 'statement_timeout=%'"""
    )
    if not rows or rows[0][0] in {"0", "0s"}:
        return warn(
            "authenticated has no statement_timeout",
            "alter role authenticated set statement_timeout = '8s'",
        )
    return ok(rows[0][0])


none(  # it keeps dead rows, and the queue slows down
    "old-transactions",
    """select pid, coalesce(nullif(application_name, ''), usename, '?'),
         extract(epoch from now() - xact_start)::int
       from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
         and backend_xmin is not null and xact_start < now() - interval '5 minutes'
       order by xact_start limit 1""",
    warn,
    "{1} holds a transaction for {2} s",
    "select pg_terminate_backend({0})",
    fine="none older than five minutes",
    after=("postgres",),
)


@CHECKS.add("migrations", needs=NEEDS, after=("apps", "postgres"))
def migrations(target: Target) -> Finding:
    """Every file is applied, and nothing else."""
    files = {migration.version for migration in find_migrations(Project.at(target.root))}
    [(there,)] = target.ask(
        "select to_regclass('supabase_migrations.schema_migrations') is not null"
    )
    if not there:
        return fail("no migration has been applied", push(target))
    applied = {
        row[0] for row in target.ask("select version from supabase_migrations.schema_migrations")
    }
    if missing := sorted(files - applied):
        return fail(f"{len(missing)} not applied, the first is {missing[0]}", push(target))
    if unknown := sorted(applied - files):
        return fail(
            f"the database is ahead of this checkout: {unknown[0]}", "git pull, then deploy again"
        )
    return ok(f"{len(files)} applied")


@CHECKS.add("grants", needs=NEEDS, after=MIGRATED)
def grants(target: Target) -> Finding:
    """Each role can do its work."""
    for role, functions in OPEN.items():
        rows = target.ask(
            """select wanted from unnest(%s::text[]) as wanted
               where not exists (select 1 from pg_proc as p
                 join pg_namespace as n on n.oid = p.pronamespace
                 where n.oid = 'public'::regnamespace and p.proname = wanted
                   and has_function_privilege(%s::name, p.oid, 'execute'))""",
            list(functions),
            role,
        )
        if rows:
            names = ", ".join(row[0] for row in rows)
            return fail(
                f"{role} may not execute {names}",
                f"grant execute on function {target.schemas.clients}.{rows[0][0]}"
                f" to {role}; or {push(target)}",
            )
    return ok("each role reaches its functions")


none(  # `service_role` and `job_worker` hold them
    "worker-functions",
    """select p.proname, r.rolname from pg_proc as p
       join pg_namespace as n on n.oid = p.pronamespace and n.oid = 'public'::regnamespace
       cross join pg_roles as r
       where p.proname in ('lease_jobs', 'report_jobs', 'settle_jobs', 'spawn_jobs',
           'register_job_types', 'tick_finished', 'store_artefact')
         and r.rolname in ('anon', 'authenticated')
         and has_function_privilege(r.oid, p.oid, 'execute') order by 1, 2""",
    fail,
    "{1} may execute {0}: anyone could lease or settle jobs",
    "revoke execute on function {clients}.{0} from public, anon, authenticated",
    fine="closed to anon and authenticated",
)
none(
    "row-level-security",
    """select string_agg(c.relname, ', ' order by c.relname), min(quote_ident(c.relname))
       from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
       where n.oid = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relrowsecurity
       having count(*) > 0""",
    fail,
    "off on {0}",
    "alter table {clients}.{1} enable row level security",
    fine="on for every table in {clients}",
)
none(  # the engine's functions alone may
    "engine-tables",
    """select c.relname, r.rolname from pg_class as c
       join pg_namespace as n on n.oid = c.relnamespace and n.oid = 'queue'::regnamespace
       cross join pg_roles as r
       where c.relkind in ('r', 'p') and r.rolname in ('anon', 'authenticated', 'job_worker')
         and has_table_privilege(r.oid, c.oid, case
           -- the view job_events reads these with its reader's rights
           when r.rolname = 'authenticated' and c.relname in ('job_events', 'histories')
           then 'insert, update, delete' else 'select, insert, update, delete' end)
       order by 1, 2""",
    fail,
    "{1} has rights on {engine}.{0}",
    "revoke all on {engine}.{0} from {1}",
    fine="reachable through functions only",
)


#: Words of `queue.extension_state`: what a part that is not attached means.
PARTS = {
    "realtime": "no one can follow a job live",
    "pg_cron": "the database does not invoke the worker every minute",
    "worker_guard": "a revoked worker key may still call what {engine}.unguarded() returns",
}
ATTACH = "minutehand doctor --fix"


@CHECKS.add("extensions", needs=NEEDS, after=MIGRATED)
def extensions(target: Target) -> Finding:
    """What the project switched on after its migrations ran is attached."""
    [(state,)] = target.ask("select queue.extension_state()")
    missing = [name for name in PARTS if state[name] == "not_attached"]
    if missing:
        name = missing[0]
        means = PARTS[name].format(engine=target.schemas.engine)
        return fail(f"{name} is there and not attached: {means}", ATTACH)
    if state["realtime"] == "absent":
        return warn(
            "realtime.messages does not exist: clients poll",
            f"open Realtime in the dashboard once, then {ATTACH}",
        )
    attached = ", ".join(name for name, word in state.items() if word == "attached")
    return ok(f"attached: {attached}")


@CHECKS.add("database-invokes", needs=NEEDS, after=MIGRATED)
def invocation(target: Target) -> Finding:
    """Where the database invokes the worker, its calls arrive."""
    [(state, url)] = target.ask(
        "select queue.extension_state(), queue.setting('worker_url') #>> '{}'"
    )
    if url is None:
        return ok("left to the API and the schedule")
    connect = f"select {target.schemas.clients}.connect_worker('https://…/api/jobs/worker', '…')"
    if state["pg_net"] == "absent":
        return fail(
            f"worker_url is {url}, and pg_net or the Vault is missing: nothing is called",
            "switch on pg_net and supabase_vault under Database → Extensions",
        )
    [(kept,)] = target.ask("select to_regclass('net._http_response') is not null")
    if kept:
        rows = target.ask(
            """select status_code, left(coalesce(error_msg, content), 120)
               from net._http_response where created > now() - interval '15 minutes'
                 and (status_code in (401, 403, 404) or status_code is null and not timed_out)
               order by created desc limit 1"""
        )
        if rows:
            status, said = rows[0]
            return warn(
                f"a call from the database returned {status or 'no answer'}: {said}", connect
            )
    often = "every minute and on arrival" if state["pg_cron"] == "attached" else "on arrival"
    return ok(f"{url}, {often}")


none(
    "publication",
    """select string_agg(wanted, ', '), min(wanted) from unnest('{jobs,job_logs}'::text[]) as wanted
       where not exists (select from pg_publication_tables
         where pubname = 'supabase_realtime' and tablename = wanted
           and schemaname = 'public'::regnamespace::text)
       having count(*) > 0""",
    warn,
    "supabase_realtime lacks {0}",
    "alter publication supabase_realtime add table {clients}.{1}",
    fine="jobs and job_logs",
)
none(  # a forgotten one looks like an idle queue
    "pauses",
    """select 'type', job_type, coalesce(pause_reason, 'no reason given')
       from queue.job_types where paused_at is not null
       union all select kind, name, coalesce(reason, 'no reason given') from queue.pauses""",
    warn,
    "{0} {1} is paused: {2}",
    "minutehand resume {0} {1}",
    fine="nothing is paused",
)
none(  # each is switched off after failures in a row
    "webhooks",
    """select url, disabled_reason from queue.webhooks
       where not enabled and disabled_reason is not null order by url""",
    warn,
    "{0} was switched off: {1}",
    "correct it, then enable it again",
    fine="none was switched off",
)


@CHECKS.add("schedules", needs=NEEDS, after=MIGRATED)
def schedules(target: Target) -> Finding:
    """A schedule that fails to enqueue stays silent otherwise."""
    rows = target.ask(
        "select name, problem from queue.schedules where problem is not null order by name"
    )
    if rows:
        name, problem = rows[0]
        return warn(
            f"schedule {name} enqueues nothing: {problem}", f"minutehand schedules set {name} …"
        )
    [(count, system, never, late)] = target.ask(
        """select count(*), count(*) filter (where workspace_id = queue.system_workspace()),
             (array_agg(name) filter (where next_at is null))[1],
             (array_agg(name order by next_at) filter (
               where greatest(next_at, held_until) < queue.clock() - interval '5 minutes'))[1]
           from queue.schedules where enabled"""
    )
    if never:
        return fail(f"schedule {never} never comes due", "correct its cron expression")
    if late:
        return warn(f"schedule {late} is late", "minutehand doctor --only schedule")
    return ok(f"{count} on, {system} of them the system's; none is late or has a problem")


@CHECKS.add("job-types", needs=NEEDS, after=MIGRATED)
def job_types(target: Target) -> Finding:
    """Without a first tick no enqueue is accepted; what no worker serves piles up jobs."""
    [(count,)] = target.ask("select count(*) from queue.job_types")
    if not count:
        return fail(
            "no job type is registered: every enqueue is refused",
            "run a tick: curl -X POST $API_URL/api/jobs/worker -H 'Authorization: Bearer …'",
        )
    unserved = [
        name
        for (name,) in target.ask(
            "select job_type from queue.job_types where queue.unserved(job_type, queue.clock())"
            " and not internal order by 1"
        )
    ]
    if unserved:
        more = f" and {len(unserved) - 1} more" if len(unserved) > 1 else ""
        return warn(
            f"no running worker serves {unserved[0]}{more}: its jobs wait",
            "deploy the processor again; to remove the type: "
            f"delete from {target.schemas.engine}.job_types where job_type = '{unserved[0]}'",
        )
    return ok(f"{count} registered")


@CHECKS.add("members", needs=NEEDS, after=MIGRATED)
def members(target: Target) -> Finding:
    """Without a workspace and someone in it no one can enqueue, or see the console."""
    [(tenants, people)] = target.ask(
        """select (select count(*) from queue.tenants),
             (select count(distinct m.user_id) from queue.tenant_members as m
              join auth.users as u on u.id = m.user_id)"""
    )
    if tenants and people:
        return ok(f"{tenants} tenants, {people} people")
    if target.ask("select to_regprocedure('queue.keep_manager()') is not null")[0][0]:
        create = "minutehand workspaces create NAME --manager MAIL"
        return fail("no one belongs to a workspace yet: no one can use the service", create)
    return warn(
        f"{tenants} tenants with {people} people: no one can use the queue yet",
        f"check the views {target.schemas.engine}.tenants and tenant_members",
    )


@CHECKS.add("storage", needs=NEEDS, after=MIGRATED)
def storage(target: Target) -> Finding:
    """A full plan turns the project read-only."""
    [(is_read_only,)] = target.ask("select current_setting('default_transaction_read_only')::bool")
    if is_read_only:
        return fail(
            "the database is read-only: its plan is full",
            ";\n".join(read_only_fix(target.schemas.clients)),
        )
    return ok("the database takes writes")
