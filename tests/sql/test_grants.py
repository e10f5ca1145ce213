# ruff: noqa: E501 - queries stay on one line
"""Who may call and read what: everything by name, nothing for everyone; and what linters of Supabase ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.engine import Engine

ROLES = ("anon", "authenticated", "job_worker", "service_role")
GUESTS = set(["follow_topic", "guest_session_events", "guest_session_feed", "guest_session_jobs"])
MEMBERS = GUESTS | set(
    [
        "answer_job",
        "cancel_job",
        "cancel_jobs",
        "close_guest_session",
        "count_jobs",
        "dead_letters",
        "delete_schedule",
        "delete_webhook",
        "emit_event",
        "enqueue_job",
        "enqueue_jobs",
        "event_feed",
        "explain_job",
        "get_job",
        "get_job_type",
        "job_attempts",
        "job_replays",
        "job_steps",
        "job_trace",
        "list_job_types",
        "list_jobs",
        "list_schedules",
        "list_webhooks",
        "list_workspaces",
        "next_runs",
        "open_guest_session",
        "open_stream",
        "own_workspace",
        "pause_jobs",
        "put_schedule",
        "put_webhook",
        "queue_series",
        "queue_stats",
        "replay_job",
        "retry_job",
        "retry_jobs",
        "search_logs",
        "session_feed",
        "set_workspace_limits",
        "workspace_limits",
    ]
)
WORKER = set(
    [
        "attach_extensions",
        "begin_worker_run",
        "end_worker_run",
        "guest_key",
        "lease_jobs",
        "queue_health",
        "queue_stats",
        "read_steps",
        "register_job_types",
        "report_jobs",
        "run_maintenance",
        "settle_jobs",
        "spawn_jobs",
        "tick_finished",
        "webhook_sent",
        "webhook_to_send",
    ]
)
OPERATOR = {"connect_worker", "create_workspace", "revoke_worker_keys", "set_settings"}
EXPECTED = {
    "anon": GUESTS,
    "authenticated": MEMBERS,
    "job_worker": WORKER,
    "service_role": MEMBERS | WORKER | OPERATOR,
}
#: Of the engine's own: for policies, defaults of rows, and guests, whose functions act with a guest's rights.
IN_QUEUE = {
    "anon": {"follow", "may_follow", "show_guest_session", "show_guest_session_events", "show_guest_session_feed"},
    "authenticated": {"clock", "follow", "is_manager", "is_member", "is_operator", "may_follow", "my_managed_workspaces", "my_workspaces", "new_id",
                      "show_guest_session", "show_guest_session_events", "show_guest_session_feed"},
    "job_worker": set(),
    "service_role": {"clock", "follow", "is_manager", "is_member", "is_operator", "my_managed_workspaces", "my_workspaces", "new_id",
                     "show_guest_session", "show_guest_session_events", "show_guest_session_feed"},
}  # fmt: skip
CALLS = "select proname from pg_proc p where pronamespace = %s::regnamespace and has_function_privilege(%s, oid, 'execute') and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"


@pytest.fixture
def catalogue(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection to an empty project."""
    with database.connect() as connection:
        yield connection


OURS = "in ('public'::regnamespace, 'queue'::regnamespace)"
#: As in supabase/splinter, and the house's own.
LINTS = {
    "function open to everyone": f"select p.oid::regprocedure from pg_proc p where p.pronamespace {OURS} and (p.proacl is null or exists (select from aclexplode(p.proacl) a where a.grantee = 0)) and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')",
    "index that is the beginning of another": f"""
        select i.indexrelid::regclass from pg_index i join pg_index o on o.indrelid = i.indrelid and o.indexrelid <> i.indexrelid join pg_class c on c.oid = i.indrelid
        where c.relnamespace {OURS} and not i.indisunique and i.indpred is null and o.indpred is null and i.indexprs is null and o.indexprs is null and o.indkey::text || ' ' like i.indkey::text || ' %'""",
    "index of jobs that names what changes": """
        select i.indexrelid::regclass from pg_index i where i.indrelid = 'public.jobs'::regclass
        and concat(pg_get_indexdef(i.indexrelid)) ~ 'status|fence|attempts|last_seq|progress|result|_at|ord\\M|worker'""",
    "definer function whose search path is not empty": f"select p.oid::regprocedure from pg_proc p where p.prosecdef and p.pronamespace {OURS} and not coalesce(p.proconfig @> array['search_path=\"\"'], false)",
    "public function that sets no search path": "select p.oid::regprocedure from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prosqlbody is null and p.prosrc like '%queue.%' and not exists (select from unnest(p.proconfig) c where c like 'search_path=%')",
    "definer function that a guest may execute": "select p.oid::regprocedure from pg_proc p where p.prosecdef and p.pronamespace = 'public'::regnamespace and has_function_privilege('anon', p.oid, 'execute')",
    "guests' function that takes a call without claims for the service": f"select p.oid::regprocedure from pg_proc p where p.pronamespace {OURS} and has_function_privilege('anon', p.oid, 'execute') and p.prosrc ~ 'is_service\\(|may_(read|manage)'",
    "function with two signatures": f"select min(p.oid::regprocedure::text) from pg_proc p where p.pronamespace {OURS} group by pronamespace, proname having count(*) > 1",
    "public function that returns a set": "select p.oid::regprocedure from pg_proc p where p.proretset and p.pronamespace = 'public'::regnamespace and p.prosrc like '%queue.%'",
    "view without security_invoker": "select c.oid::regclass from pg_class c where c.relkind = 'v' and c.relnamespace = 'public'::regnamespace and not coalesce(c.reloptions && array['security_invoker=true', 'security_invoker=on'], false)",
    "table without row level security": f"select c.oid::regclass from pg_class c where c.relkind = 'r' and not c.relrowsecurity and c.relnamespace {OURS}",
    "what the Data API shows without a comment": "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prosrc like '%queue.%' and obj_description(p.oid, 'pg_proc') is null",
    "foreign key without an index": "select conrelid::regclass from pg_constraint k where contype = 'f' and connamespace in ('public'::regnamespace, 'queue'::regnamespace) and not exists (select from pg_index i where i.indrelid = k.conrelid and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)",
    "planner switch below a public function": "select p.oid::regprocedure from pg_proc p where p.pronamespace = 'queue'::regnamespace and p.prorettype <> 'trigger'::regtype and exists (select from unnest(p.proconfig) c where c ~ '^(enable_|plan_cache|jit)') and not has_function_privilege('anon', p.oid, 'execute')",
    "function of more than 80 lines": "select p.oid::regprocedure from pg_proc p where p.pronamespace in ('public'::regnamespace, 'queue'::regnamespace) and array_length(string_to_array(p.prosrc, E'\\n'), 1) > 82",
}  # fmt: skip


@pytest.mark.parametrize("lint", LINTS)
def test_the_linter_finds_nothing(catalogue: psycopg.Connection[Any], lint: str) -> None:
    """Each is a rule of the house; the query names the offenders."""
    assert catalogue.execute(LINTS[lint].encode()).fetchall() == []


def test_a_revoked_key_answers_in_no_function_of_a_worker(engine: Engine) -> None:
    """Also in those to come: what cannot be guarded is named."""
    engine.rpc("attach_extensions")
    assert engine.rows("select u::regproc::text from queue.unguarded() as u") == []
    engine.run("set role postgres")
    engine.run(
        "create function public.mine() returns integer language sql security definer as $$ select 1 $$"
    )
    engine.run("grant execute on function public.mine to job_worker")
    engine.run("reset role")
    assert engine.rpc("attach_extensions")["worker_guard"] == "attached"
    engine.rpc("revoke_worker_keys", p_before=engine.one("select queue.clock()"))
    with engine.database.as_role("job_worker", {"iat": 1}) as connection:
        with pytest.raises(psycopg.Error) as refused:
            connection.execute("select public.mine()")
        assert refused.value.diag.message_hint == "key_revoked"
