# ruff: noqa: E501 - queries stay on one line
"""Who may call what, what is commented, what Supabase's linter would say: asked of the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from minutehand.local.migrations import find_migrations
from minutehand.resources import resource
from tests.support.databases import (
    SCHEMAS,
    TEMPLATE,
    Database,
    build_template,
    start_scratch_server,
)

ROLES = ("anon", "authenticated", "service_role", "job_worker")
MEMBERS = {
    "enqueue_job", "enqueue_jobs", "get_job", "explain_job", "cancel_job", "retry_job", "answer_job", "cancel_jobs", "retry_jobs",
    "replay_job", "job_replays", "edit_job",
    "emit_event", "job_attempts", "job_steps", "pause_jobs", "queue_stats", "event_feed", "session_feed",
    "open_stream", "put_schedule", "delete_schedule", "list_schedules", "put_webhook", "delete_webhook", "list_webhooks", "set_workspace_limits", "workspace_limits",
    "own_workspace", "list_workspaces",
    "next_runs", "list_jobs", "sort_jobs", "count_jobs", "dead_letters", "list_job_types", "get_job_type", "search_logs",
    "guest_session_jobs", "guest_session_events", "guest_session_feed", "open_guest_session", "close_guest_session",
    "job_trace", "queue_series", "people",
    "follow_topic", "job_artefacts",
}  # fmt: skip
WORKER = {
    "lease_jobs", "run_maintenance", "read_steps", "report_jobs", "settle_jobs", "spawn_jobs", "register_job_types", "tick_finished", "begin_worker_run", "end_worker_run", "queue_health", "webhook_to_send", "webhook_sent",
    "queue_stats", "attach_extensions", "guest_key", "store_artefact",
}  # fmt: skip
OPERATOR = {
    "revoke_worker_keys",
    "connect_worker",
    "create_workspace",
    "set_settings",
}
GUESTS = {
    "follow_topic",
    "job_artefacts",
    "guest_session_events",
    "guest_session_feed",
    "guest_session_jobs",
}
GUEST_FUNCTIONS = {
    "whole",
    "big_whole",
    "follow",
    "show_guest_session",
    "show_guest_session_events",
    "show_guest_session_feed",
    "show_artefacts",
    "entity_events",
}
IN_QUEUE = {"authenticated": {"my_workspaces", "my_managed_workspaces", "is_member", "is_manager", "clock", "new_id", "running_ids", "live_ids", "facts_of", "may_follow", "visible_tenants", "visible_members"} | GUEST_FUNCTIONS,
            "service_role": {"my_workspaces", "my_managed_workspaces", "is_member", "is_manager", "clock", "new_id", "running_ids", "live_ids", "facts_of", "visible_tenants", "visible_members"} | GUEST_FUNCTIONS,
            "anon": {"may_follow"} | GUEST_FUNCTIONS}  # fmt: skip
OURS = "p.pronamespace in ('public'::regnamespace, 'queue'::regnamespace)"
# the apps' own functions in public are tested with their app: their names, or what their names begin with
OF_APPS = tuple(
    name
    for path in (migration.path for migration in find_migrations())
    if path.parent != resource("migrations")
    for name in re.findall(r"(?:create function |expose\('\w+', ')public\.(\w+)", path.read_text())
)


@pytest.fixture
def catalogue(database: Database) -> psycopg.Connection[tuple[object, ...]]:
    """A superuser's connection to an empty project."""
    return database.connect()


def test_every_function_is_granted_by_name_and_to_no_one_else(
    catalogue: psycopg.Connection[tuple[object, ...]],
) -> None:
    """Each function and role: an allowed list, everything else denied."""
    found: dict[str, set[str]] = {role: set() for role in ROLES}
    everyone: list[str] = []
    with catalogue:
        for role in ROLES:
            for schema, name in catalogue.execute(
                f"select pronamespace::regnamespace::text, proname from pg_proc p where {OURS} and has_function_privilege(%s, oid, 'execute')",
                (role,),
            ):
                if not str(name).startswith(OF_APPS) or schema != SCHEMAS.clients:
                    found[role].add(f"{schema}.{name}")
        everyone = [str(name) for (name,) in catalogue.execute(
            f"select proname from pg_proc p where {OURS} and (proacl is null or exists (select 1 from aclexplode(proacl) a where a.grantee = 0))"
        )]  # fmt: skip

    def named(public: set[str], role: str) -> set[str]:
        return {f"{SCHEMAS.clients}.{name}" for name in public} | {
            f"{SCHEMAS.engine}.{name}" for name in IN_QUEUE.get(role, ())
        }

    assert everyone == []
    assert found["anon"] == named(GUESTS, "anon")
    assert found["authenticated"] == named(MEMBERS, "authenticated")
    assert found["job_worker"] == named(WORKER, "job_worker")
    assert found["service_role"] == named(MEMBERS | WORKER | OPERATOR, "service_role")


def test_only_the_owner_reaches_the_engines_tables(
    catalogue: psycopg.Connection[tuple[object, ...]],
) -> None:
    """Tables are closed but for reading two, whose policies decide; functions are the function. The worker has none."""
    held = (
        "select c.oid::regclass::text || ' ' || r.rolname || ' ' || p from pg_class c, pg_roles r, unnest(%s::text[]) p where r.rolname = any(%s)"
        " and (c.relnamespace = 'queue'::regnamespace or c.relnamespace = 'public'::regnamespace and r.rolname in ('anon', 'job_worker'))"
    )
    tables = ["select", "insert", "update", "delete", "truncate", "references", "trigger"]
    with catalogue:
        open_ = catalogue.execute(
            f"{held} and c.relkind in ('r', 'p', 'v', 'm') and has_table_privilege(r.oid, c.oid, p)",
            (tables, list(ROLES)),
        ).fetchall()
        open_ += catalogue.execute(
            f"{held} and r.rolname <> 'service_role' and c.relkind = 'S' and has_sequence_privilege(r.oid, c.oid, p)",
            (["usage", "select", "update"], list(ROLES)),
        ).fetchall()

    assert {row for (row,) in open_} == {
        f"{SCHEMAS.engine}.{table} {role} select"
        for table in ("histories", "job_events")
        for role in ("authenticated", "service_role")
    }


LINTS = {
    # numbers and titles as in supabase/splinter
    "0001 unindexed foreign key": """
        select conrelid::regclass from pg_constraint k where contype = 'f' and connamespace::regnamespace::text not in ('auth', 'storage', 'realtime')
          and not exists (select 1 from pg_index i where i.indrelid = k.conrelid and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
            -- a partial one serves a delete only where its condition is that the key is not null
            and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) ~ '^\\(\\w+ IS NOT NULL\\)$'))""",
    "index that is the beginning of another": """
        select i.indexrelid::regclass from pg_index i join pg_index o on o.indrelid = i.indrelid and o.indexrelid <> i.indexrelid
        join pg_class c on c.oid = i.indrelid where c.relnamespace::regnamespace::text not in ('auth', 'storage', 'realtime', 'pg_catalog', 'pg_toast')
          and not i.indisunique and i.indpred is not distinct from o.indpred and i.indexprs is null and o.indexprs is null
          and o.indkey::text || ' ' like i.indkey::text || ' %' and o.indoption::text || ' ' like i.indoption::text || ' %'""",
    "0003 auth function called per row in a policy": """
        select polname from pg_policy p where polrelid::regclass::text not like 'auth.%'
          and (pg_get_expr(polqual, polrelid) ~ 'auth\\.(uid|jwt|role)\\(\\)' and pg_get_expr(polqual, polrelid) !~* 'select\\s+auth\\.(uid|jwt|role)\\(\\)'
            or pg_get_expr(polwithcheck, polrelid) ~ 'auth\\.(uid|jwt|role)\\(\\)' and pg_get_expr(polwithcheck, polrelid) !~* 'select\\s+auth\\.(uid|jwt|role)\\(\\)')""",
    "0004 no primary key": """
        select c.oid::regclass from pg_class c where c.relkind in ('r', 'p') and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
          and not exists (select 1 from pg_index i where i.indrelid = c.oid and i.indisprimary)""",
    "0006 several permissive policies for one role and command": """
        select polrelid::regclass from pg_policy where polpermissive and polrelid::regclass::text not like 'realtime.%'
        group by polrelid, polcmd, polroles having count(*) > 1""",
    "0007 policy without row level security": """
        select c.oid::regclass from pg_class c join pg_policy p on p.polrelid = c.oid where not c.relrowsecurity""",
    "0009 duplicate index": """
        select min(indexrelid::regclass::text) from pg_index where indrelid::regclass::text !~ '^(pg_|auth|realtime|supabase)'
        group by indrelid, indkey::text, indclass::text, coalesce(indexprs::text, ''), coalesce(indpred::text, ''), indoption::text having count(*) > 1""",
    "0010 view without security_invoker": """
        select c.oid::regclass from pg_class c where c.relkind = 'v' and c.relnamespace = 'public'::regnamespace
          and not coalesce(c.reloptions @> array['security_invoker=true'] or c.reloptions @> array['security_invoker=on'], false)""",
    "0011 function with a mutable search path": """
        select p.oid::regprocedure from pg_proc p where p.pronamespace in ('public'::regnamespace, 'queue'::regnamespace)
          and not exists (select 1 from unnest(p.proconfig) c where c like 'search_path=%')""",
    "definer function whose search path is not empty": """
        select p.oid::regprocedure from pg_proc p where p.prosecdef and p.pronamespace in ('public'::regnamespace, 'queue'::regnamespace)
          and not p.proconfig @> array['search_path=""']""",
    "0013 table in an exposed schema without row level security": """
        select c.oid::regclass from pg_class c where c.relkind in ('r', 'p') and not c.relrowsecurity
          and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)""",
    "0014 extension in public": "select extname from pg_extension where extnamespace = 'public'::regnamespace",
    "0016 materialized view in the API": """
        select c.oid::regclass from pg_class c where c.relkind = 'm' and c.relnamespace = 'public'::regnamespace""",
    "0024 policy that is always true": """
        select polname from pg_policy where polrelid::regclass::text !~ '^(auth|realtime)' and polcmd <> 'r'
          and (pg_get_expr(polqual, polrelid) = 'true' or pg_get_expr(polwithcheck, polrelid) = 'true')""",
    "0028 definer function that anon may execute": """
        select p.oid::regprocedure from pg_proc p where p.prosecdef and p.pronamespace = 'public'::regnamespace and has_function_privilege('anon', p.oid, 'execute')""",
    "0029 trigger function that anyone may execute": """
        select p.oid::regprocedure from pg_proc p where p.prorettype = 'trigger'::regtype and p.pronamespace in ('public'::regnamespace, 'queue'::regnamespace)
          and (has_function_privilege('anon', p.oid, 'execute') or has_function_privilege('authenticated', p.oid, 'execute'))""",
    "an RPC name with two signatures": """
        select min(p.oid::regprocedure::text) from pg_proc p where p.pronamespace in ('public'::regnamespace, 'queue'::regnamespace)
        group by pronamespace, proname having count(*) > 1""",
    "an RPC that returns a set, which the API cuts at 1,000 rows": """
        select p.oid::regprocedure from pg_proc p where p.proretset and p.pronamespace = 'public'::regnamespace""",
    "table without a comment": """
        select c.oid::regclass from pg_class c where c.relkind in ('r', 'p', 'v') and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
          and obj_description(c.oid, 'pg_class') is null""",
    "function without a comment": """
        select p.oid::regprocedure from pg_proc p where p.pronamespace in ('public'::regnamespace, 'queue'::regnamespace)
          and obj_description(p.oid, 'pg_proc') is null""",
    "function of the engine that nothing calls": """
        with calls as (select distinct o.oid, m[1] as name from pg_proc o, regexp_matches(o.prosrc, '(\\w+\\.\\w+)\\(', 'g') m)
        select p.oid::regprocedure from pg_proc p where p.pronamespace = 'queue'::regnamespace
          and not exists (select 1 from calls c where c.name = p.oid::regproc::text and c.oid <> p.oid)
          and not exists (select 1 from pg_depend d where d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid and d.deptype = 'n')
          -- called by migrations, and where tenants are another's
          and p.proname not in ('bound_rows', 'expose', 'show_to_members',
            'make_stream', 'visible_members', 'visible_tenants')""",
    "timestamp without time zone": """
        select c.oid::regclass || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        where c.relkind = 'r' and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace) and a.atttypid = 'timestamp'::regtype""",
}


@pytest.mark.parametrize("lint", sorted(LINTS))
def test_the_linter_finds_nothing(
    catalogue: psycopg.Connection[tuple[object, ...]], lint: str
) -> None:
    """Supabase's own lints as queries, and the house's."""
    with catalogue:
        catalogue.execute("set search_path = ''")
        assert [str(offender) for (offender,) in catalogue.execute(LINTS[lint].encode())] == []


def test_each_way_to_insert_a_job_names_every_column(
    catalogue: psycopg.Connection[tuple[object, ...]],
) -> None:
    """One that is left out is a null and no error; two short ways leave out what they cannot be asked for."""
    with catalogue:
        found = catalogue.execute("select proname, prosrc from pg_proc p where " + OURS)
        source = {str(name): str(body) for name, body in found}
        columns, options = (
            {
                str(name)
                for (name,) in catalogue.execute(
                    "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
                    (table,),
                )
            }
            for table in ("public.jobs", "queue.enqueue_item")
        )

    def inserted(function: str) -> set[str]:
        [names] = re.findall(rf"insert into {SCHEMAS.clients}\.jobs \(([^)]+)\)", source[function])
        return set(re.split(r",\s*", names))

    every = inserted("insert_jobs")
    own = set(re.findall(r"new\.(\w+) := (?:null|\d|')", source["check_insert"]))
    # after is a state and rows of its own
    ties = {"status", "unique_key", "parent_id"}
    alone = {"id", "workspace_id", "user_id", "queue", "job_type", "payload", "schema_version", "max_attempts", "created_at", "updated_at", "traceparent", "last_seq", "tags"}  # fmt: skip
    assert every | own == columns
    assert inserted("enqueue_one") == every - ties
    assert inserted("insert_plain") == alone
    [single] = re.findall(r"'\{([\w,\s]+)\}'", source["is_single"])
    assert options - set(re.split(r",\s*", single)) == {
        "job_type", "payload", "parent_id", "after", "after_failed", "unique", "debounce_seconds"
    }  # fmt: skip


EFFECTS = re.compile(
    r"\b(queue\.(refuse|place|finish|resume|retry|cancel\w*|enqueue\w*|request_wake|after_end)|set_config|pg_notify|nextval|realtime\.send)\s*\("
)


def test_no_effect_hides_in_a_select_cte() -> None:
    """It may never run: effects live in data-modifying CTEs, PERFORM or a top-level statement."""
    offenders = []
    for path in (migration.path for migration in find_migrations()):
        text = re.sub(r"--[^\n]*|'(?:[^']|'')*'", "''", path.read_text())
        for cte in re.finditer(
            r"\b\w+\s+as\s+(?:materialized\s+|not materialized\s+)?\(\s*(select\b)", text
        ):
            depth, at = 1, cte.start(1)
            while depth and at < len(text):
                depth += {"(": 1, ")": -1}.get(text[at], 0)
                at += 1
            if EFFECTS.search(text[cte.start(1) : at]):
                offenders.append(f"{path.name}: {text[cte.start(1) : at][:80]}")

    assert offenders == []


SHAPE = """
select 'column ' || c.oid::regclass || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || coalesce(' ' || pg_get_expr(d.adbin, d.adrelid), '')
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum where c.relnamespace::regnamespace::text in ('public', 'queue') and c.relkind in ('r', 'v')
union all select 'index ' || pg_get_indexdef(indexrelid) from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace::regnamespace::text in ('public', 'queue')
union all select 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) from pg_constraint where connamespace::regnamespace::text in ('public', 'queue') and conrelid <> 0
union all select 'function ' || md5(pg_get_functiondef(p.oid)) || ' ' || p.oid::regprocedure || ' ' || coalesce(p.proacl::text, '') from pg_proc p where p.pronamespace::regnamespace::text in ('public', 'queue')
union all select 'trigger ' || pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid where not tgisinternal and c.relnamespace::regnamespace::text in ('public', 'queue')
union all select 'policy ' || polrelid::regclass || ' ' || polname || ' ' || coalesce(pg_get_expr(polqual, polrelid), '') || coalesce(pg_get_expr(polwithcheck, polrelid), '') from pg_policy
union all select 'grant ' || c.oid::regclass || ' ' || coalesce(c.relacl::text, '') || coalesce(c.reloptions::text, '') from pg_class c where c.relnamespace::regnamespace::text in ('public', 'queue') and c.relkind = 'r'
"""


def shape(database: Database) -> set[str]:
    """Everything migrations make, as text."""
    with database.connect() as connection:
        return {line for (line,) in connection.execute(SHAPE)}


def test_migrations_from_empty_make_the_same_catalogue_twice(
    database: Database, tmp_path: Path
) -> None:
    """Nothing depends on the cluster's past: a second server starts from nothing."""
    other = start_scratch_server(tmp_path)
    try:
        build_template(other)
        again = shape(Database(other, TEMPLATE))
    finally:
        other.destroy()

    assert again == shape(database)
    assert len(again) > 500
