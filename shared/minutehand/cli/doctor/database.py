"""The database from its owner's side: version, migrations, grants, row level security, policies."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

from minutehand.cli.doctor.findings import Check, Finding, Reporter, Target
from minutehand.cli.queues import megabytes, storage_line
from minutehand.cli.supabase_cli import HOSTED, how_to_migrate
from minutehand.local.migrations import find_migrations
from minutehand.project import Project

NEEDS = ("DATABASE_URL",)
#: Functions that must be executable, by role.
OPEN = {
    "authenticated": ("enqueue_job", "get_job", "cancel_job", "retry_job", "answer_job"),
    "job_worker": (
        "lease_jobs", "run_maintenance", "read_steps", "report_jobs", "settle_jobs", "spawn_jobs",
        "register_job_types", "tick_finished", "queue_health", "begin_worker_run", "end_worker_run",
    ),
    "service_role": ("enqueue_job", "lease_jobs", "settle_jobs", "queue_health", "queue_stats"),
}  # fmt: skip
#: The worker's functions, which no browser role may execute.
SHUT = (
    "lease_jobs",
    "report_jobs",
    "settle_jobs",
    "spawn_jobs",
    "register_job_types",
    "tick_finished",
)


def push(target: Target) -> str:
    """The one line that brings this database up to date."""
    return how_to_migrate(target.values.get("SUPABASE_URL", ""), target.stage)


def version(target: Target) -> Finding:
    """Postgres 15 or newer."""
    say = Reporter("postgres")
    [(number, text)] = target.ask(
        "select current_setting('server_version_num')::int, current_setting('server_version')"
    )
    if number < 150000:
        return say.fail(f"Postgres {text}", "upgrade to Postgres 15 or newer")
    return say.ok(f"Postgres {text}")


def one_project(target: Target) -> Finding:
    """The database and the API are of one project."""
    say = Reporter("one-project")
    of_api = HOSTED.fullmatch(target.values.get("SUPABASE_URL", "").rstrip("/"))
    of_database = database_ref(target.values["DATABASE_URL"])
    if of_api is None or of_database is None:
        return say.skip("the project's ref cannot be read from both addresses")
    if of_api[1] != of_database:
        return say.fail(
            f"DATABASE_URL belongs to project {of_database}, SUPABASE_URL of {of_api[1]}",
            "copy both from one project: Connect, and Project settings → Data API",
        )
    return say.ok(of_database)


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


def wal_level(target: Target) -> Finding:
    """Logical, or row changes are not seen live."""
    say = Reporter("wal-level")
    [(level,)] = target.ask("select current_setting('wal_level')")
    if level != "logical":
        return say.warn(
            f"wal_level is {level}: no Postgres Changes are sent",
            "alter system set wal_level = 'logical', then restart",
        )
    return say.ok("logical")


def migrations(target: Target) -> Finding:
    """Every file is applied, and nothing else."""
    say = Reporter("migrations")
    files = {migration.version for migration in find_migrations(Project.at(target.root))}
    [(there,)] = target.ask(
        "select to_regclass('supabase_migrations.schema_migrations') is not null"
    )
    if not there:
        return say.fail("no migration has been applied", push(target))
    applied = {
        row[0] for row in target.ask("select version from supabase_migrations.schema_migrations")
    }
    if missing := sorted(files - applied):
        return say.fail(f"{len(missing)} not applied, the first is {missing[0]}", push(target))
    if unknown := sorted(applied - files):
        return say.fail(
            f"the database is ahead of this checkout: {unknown[0]}", "git pull, then deploy again"
        )
    return say.ok(f"{len(files)} applied")


def grants(target: Target) -> Finding:
    """Each role can do its work."""
    say = Reporter("grants")
    for role, functions in OPEN.items():
        rows = target.ask(
            """select wanted from unnest(%s::text[]) as wanted
               where not exists (select 1 from pg_proc as p
                 join pg_namespace as n on n.oid = p.pronamespace
                 where n.nspname = 'public' and p.proname = wanted
                   and has_function_privilege(%s::name, p.oid, 'execute'))""",
            list(functions),
            role,
        )
        if rows:
            names = ", ".join(row[0] for row in rows)
            return say.fail(
                f"{role} may not execute {names}",
                f"grant execute on function {target.schemas.clients}.{rows[0][0]}"
                f" to {role}; or {push(target)}",
            )
    return say.ok("each role reaches its functions")


def closed(target: Target) -> Finding:
    """The worker's functions are shut to browsers; `service_role` and `job_worker` hold them."""
    say = Reporter("worker-functions")
    rows = target.ask(
        """select p.proname, r.rolname from pg_proc as p
           join pg_namespace as n on n.oid = p.pronamespace and n.nspname = 'public'
           cross join pg_roles as r
           where p.proname = any (%s) and r.rolname in ('anon', 'authenticated')
             and has_function_privilege(r.oid, p.oid, 'execute') order by 1, 2""",
        list(SHUT),
    )
    if rows:
        function, role = rows[0]
        return say.fail(
            f"{role} may execute {function}: anyone could lease or settle jobs",
            f"revoke execute on function {target.schemas.clients}.{function}"
            " from public, anon, authenticated",
        )
    return say.ok("closed to anon and authenticated")


def row_security(target: Target) -> Finding:
    """On for every table that the Data API shows."""
    say = Reporter("row-level-security")
    rows = target.ask(
        """select c.relname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
           where n.nspname = 'public' and c.relkind in ('r', 'p') and not c.relrowsecurity
           order by 1"""
    )
    if rows:
        names = ", ".join(row[0] for row in rows)
        return say.fail(
            f"off on {names}",
            f"alter table {target.schemas.clients}.{rows[0][0]} enable row level security",
        )
    return say.ok(f"on for every table in {target.schemas.clients}")


def engine(target: Target) -> Finding:
    """Only the engine's functions may reach its tables."""
    say = Reporter("engine-tables")
    rows = target.ask(
        """select c.relname, r.rolname from pg_class as c
           join pg_namespace as n on n.oid = c.relnamespace and n.nspname = 'queue'
           cross join pg_roles as r
           where c.relkind in ('r', 'p') and r.rolname in ('anon', 'authenticated', 'job_worker')
             and has_table_privilege(r.oid, c.oid, 'select, insert, update, delete')
           order by 1, 2"""
    )
    if rows:
        table, role = rows[0]
        return say.fail(
            f"{role} has rights on {target.schemas.engine}.{table}",
            f"revoke all on {target.schemas.engine}.{table} from {role}",
        )
    return say.ok("reachable through functions only")


#: Words of `queue.extension_state`: what a part that is not attached means.
PARTS = {
    "realtime": "no one can follow a job live",
    "pg_cron": "the database does not invoke the worker every minute",
    "sign_in": "invitations wait until the console is opened",
}
ATTACH = "minutehand doctor --fix"


def extensions(target: Target) -> Finding:
    """What the project switched on after its migrations ran is attached."""
    say = Reporter("extensions")
    [(state,)] = target.ask("select queue.extension_state()")
    missing = [name for name in PARTS if state[name] == "not_attached"]
    if missing:
        name = missing[0]
        return say.fail(f"{name} is there and not attached: {PARTS[name]}", ATTACH)
    if state["realtime"] == "absent":
        return say.warn(
            "realtime.messages does not exist: clients poll",
            f"open Realtime in the dashboard once, then {ATTACH}",
        )
    attached = ", ".join(name for name, word in state.items() if word == "attached")
    return say.ok(f"attached: {attached}")


def invocation(target: Target) -> Finding:
    """Where the database invokes the worker, its calls arrive."""
    say = Reporter("database-invokes")
    [(state, url)] = target.ask(
        "select queue.extension_state(), queue.setting('worker_url') #>> '{}'"
    )
    if url is None:
        return say.ok("left to the API and the schedule")
    connect = f"select {target.schemas.clients}.connect_worker('https://…/api/jobs/worker', '…')"
    if state["pg_net"] == "absent":
        return say.fail(
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
            return say.warn(
                f"a call from the database returned {status or 'no answer'}: {said}", connect
            )
    often = "every minute and on arrival" if state["pg_cron"] == "attached" else "on arrival"
    return say.ok(f"{url}, {often}")


def realtime_rows(target: Target) -> Finding:
    """Jobs and their logs are in the publication."""
    say = Reporter("publication")
    rows = target.ask(
        """select tablename from pg_publication_tables
           where pubname = 'supabase_realtime' and schemaname = 'public'"""
    )
    missing = sorted({"jobs", "job_logs"} - {row[0] for row in rows})
    if missing:
        return say.warn(
            f"supabase_realtime lacks {', '.join(missing)}",
            f"alter publication supabase_realtime add table {target.schemas.clients}.{missing[0]}",
        )
    return say.ok("jobs and job_logs")


def statement_timeout(target: Target) -> Finding:
    """A user's query has a time limit."""
    say = Reporter("statement-timeout")
    rows = target.ask(
        """select split_part(entry, '=', 2) from pg_roles as r, unnest(r.rolconfig) as entry
           where r.rolname = 'authenticated' and entry like 'statement_timeout=%'"""
    )
    if not rows or rows[0][0] in {"0", "0s"}:
        return say.warn(
            "authenticated has no statement_timeout",
            "alter role authenticated set statement_timeout = '8s'",
        )
    return say.ok(rows[0][0])


def paused(target: Target) -> Finding:
    """A forgotten pause looks like an idle queue."""
    say = Reporter("pauses")
    rows = target.ask(
        """select 'type', job_type, coalesce(pause_reason, 'no reason given')
           from queue.job_types where paused_at is not null
           union all select kind, name, coalesce(reason, 'no reason given') from queue.pauses"""
    )
    if rows:
        kind, name, reason = rows[0]
        return say.warn(f"{kind} {name} is paused: {reason}", f"minutehand resume {kind} {name}")
    return say.ok("nothing is paused")


def schedules(target: Target) -> Finding:
    """A schedule that fails to enqueue stays silent otherwise."""
    say = Reporter("schedules")
    rows = target.ask(
        "select name, problem from queue.schedules where problem is not null order by name"
    )
    if rows:
        name, problem = rows[0]
        return say.warn(
            f"schedule {name} enqueues nothing: {problem}", f"minutehand schedules set {name} …"
        )
    [(count,)] = target.ask("select count(*) from queue.schedules where enabled")
    return say.ok(f"{count} on, none with a problem")


def webhooks(target: Target) -> Finding:
    """A webhook is switched off after failures in a row."""
    say = Reporter("webhooks")
    rows = target.ask(
        """select url, disabled_reason from queue.webhooks
           where not enabled and disabled_reason is not null order by url"""
    )
    if rows:
        url, reason = rows[0]
        return say.warn(f"{url} was switched off: {reason}", "correct it, then enable it again")
    return say.ok("none was switched off")


def job_types(target: Target) -> Finding:
    """Without a first tick no enqueue is accepted; what no worker serves piles up jobs."""
    say = Reporter("job-types")
    [(count,)] = target.ask("select count(*) from queue.job_types")
    if not count:
        return say.fail(
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
        return say.warn(
            f"no running worker serves {unserved[0]}{more}: its jobs wait",
            "deploy the processor again; to remove the type: "
            f"delete from queue.job_types where job_type = '{unserved[0]}'",
        )
    return say.ok(f"{count} registered")


def members(target: Target) -> Finding:
    """Without a workspace and someone in it no one can enqueue, or see the console."""
    say = Reporter("members")
    [(tenants, people)] = target.ask(
        """select (select count(*) from queue.tenants),
             (select count(distinct m.user_id) from queue.tenant_members as m
              join auth.users as u on u.id = m.user_id)"""
    )
    own = target.ask("select to_regclass('queue.invitations') is not null")[0][0]
    create = "minutehand workspaces create NAME --manager MAIL"
    if not own:
        if tenants and people:
            return say.ok(f"{tenants} tenants, {people} people")
        return say.warn(
            f"{tenants} tenants with {people} people: no one can use the queue yet",
            f"check the views {target.schemas.engine}.tenants and tenant_members",
        )
    if not tenants:
        return say.fail("no workspace exists yet: no one can use the service", create)
    unmanaged = target.ask(
        """select t.name,
             exists (select from queue.invitations as i
               where i.workspace_id = t.id and i.role = 'manager' and i.expires_at > now())
           from queue.tenants as t where not exists (
             select from queue.tenant_members as m join auth.users as u on u.id = m.user_id
             where m.workspace_id = t.id and m.role = 'manager')
           order by 2, 1"""
    )
    if unmanaged:
        name, is_invited = unmanaged[0]
        if is_invited:
            return say.warn(
                f"the manager of {name} is invited and has not signed in yet",
                f"minutehand members list --workspace {name!r}, and ask that person to sign up",
            )
        return say.warn(
            f"workspace {name} has no manager with an account",
            f"minutehand members add MAIL --role manager --operator --workspace {name!r}",
        )
    return say.ok(f"{tenants} workspaces, {people} people")


#: Of Supabase's Pro plan; the variable DATABASE_LIMIT_MB says otherwise.
PLAN_MB = 8192


def storage(target: Target) -> Finding:
    """A full plan turns the project read-only."""
    say = Reporter("storage")
    [(size, jobs, messages, growth)] = target.ask(
        """select m.database_bytes, m.jobs_bytes, m.messages_bytes,
             (public.storage() ->> 'growth_bytes_per_day')::float8
           from queue.measure_storage() as m"""
    )
    told = storage_line(
        {
            "database_bytes": size, "jobs_bytes": jobs, "messages_bytes": messages,
            "growth_bytes_per_day": growth,
        }
    )  # fmt: skip
    limit = 1024**2 * float(target.values.get("DATABASE_LIMIT_MB") or PLAN_MB)
    fix = (
        f"""select {target.schemas.clients}.set_settings('{{"retention_days": """
        """{"completed": 7, "cancelled": 7, "failed": 30}}'); or a larger plan, and its size as """
        "DATABASE_LIMIT_MB"
    )
    if size > 0.8 * limit:
        return say.fail(f"{told}, of {megabytes(limit)} in the plan", fix)
    if growth and growth > 0 and (days := (limit - size) / growth) < 14:
        return say.warn(f"{told}: full in {days:.0f} days", fix)
    return say.ok(told)


def old_snapshot(target: Target) -> Finding:
    """A session that sits in a transaction keeps dead rows, and the queue slows down."""
    say = Reporter("old-transactions")
    rows = target.ask(
        """select pid, coalesce(nullif(application_name, ''), usename, '?'),
             extract(epoch from now() - xact_start)::int
           from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
             and backend_xmin is not null and xact_start < now() - interval '5 minutes'
           order by xact_start limit 1"""
    )
    if rows:
        pid, name, seconds = rows[0]
        return say.warn(
            f"{name} holds a transaction for {seconds} s", f"select pg_terminate_backend({pid})"
        )
    return say.ok("none older than five minutes")


CHECKS = tuple(
    Check(name, run, needs=NEEDS)
    for name, run in (
        ("one-project", one_project),
        ("postgres", version),
        ("wal-level", wal_level),
        ("migrations", migrations),
        ("grants", grants),
        ("worker-functions", closed),
        ("row-level-security", row_security),
        ("engine-tables", engine),
        ("extensions", extensions),
        ("database-invokes", invocation),
        ("publication", realtime_rows),
        ("statement-timeout", statement_timeout),
        ("job-types", job_types),
        ("pauses", paused),
        ("schedules", schedules),
        ("webhooks", webhooks),
        ("members", members),
        ("storage", storage),
        ("old-transactions", old_snapshot),
    )
)
