"""The database from its owner's side: version, migrations, long transactions, what is attached."""

from __future__ import annotations

from collections.abc import Callable

from minutehand.cli.doctor.findings import Checks, Finding, Target, fail, ok, warn
from minutehand.cli.supabase_cli import how_to_migrate
from minutehand.local.migrations import find_migrations
from minutehand.project import Project
from minutehand.queue.errors import read_only_fix

CHECKS = Checks()
NEEDS = ("DATABASE_URL",)
MIGRATED = ("migrations",)


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


@CHECKS.add("postgres", needs=NEEDS)
def version(target: Target) -> Finding:
    """Postgres 15 or newer."""
    [(number, text)] = target.ask(
        "select current_setting('server_version_num')::int, current_setting('server_version')"
    )
    if number < 150000:
        return fail(f"Postgres {text}", "upgrade to Postgres 15 or newer")
    return ok(f"Postgres {text}")


none(
    "read-only",
    "select mode from current_setting('default_transaction_read_only') as mode where mode = 'on'",
    fail,
    "the database takes no writes: the plan's disk is full",
    "; ".join(read_only_fix()).replace("{", "{{").replace("}", "}}"),
    fine="it takes writes",
    after=("postgres",),
)
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


@CHECKS.add("migrations", needs=NEEDS, after=("postgres",))
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
    if state["pg_net"] == "absent":
        return fail(
            f"worker_url is {url}, and pg_net or the Vault is missing: nothing is called",
            "switch on pg_net and supabase_vault under Database → Extensions",
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
