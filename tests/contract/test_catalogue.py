"""Checks of the database's catalogue: who may call and read, and the rules of Supabase's linter."""

from collections.abc import Iterator

import pytest

from tests.support.databases import Database
from tests.support.engine import Engine

MEMBERS = """
own_workspace list_workspaces enqueue_job enqueue_jobs get_job list_jobs count_jobs cancel_job
retry_job replay_job answer_job emit_event explain_job explain_queue silence_finding job_trace
job_attempts job_steps job_output dead_letters cancel_jobs retry_jobs pause_jobs put_schedule
delete_schedule list_schedules next_runs put_webhook delete_webhook test_webhook list_webhooks
set_workspace_limits workspace_limits list_job_types follow_topic open_stream event_feed
session_feed session_output queue_stats queue_series open_guest_session guest_session_jobs
guest_job"""
WORKER = """
register_job_types lease_jobs settle_jobs report_jobs read_steps read_output spawn_jobs
tick_finished run_maintenance webhook_to_send webhook_sent guest_key
stream_topics queue_health explain_queue"""
GUESTS = [
    *("follow_topic", "guest_job", "guest_session_jobs", "job_output", "session_feed"),
    "session_output",
]
SERVICE = [
    *("attach_extensions", "set_settings", "revoke_worker_keys", "connect_worker"),
    *("erase_person", "export_person"),
]

OURS = """
create temporary view ours as
  select *, pronamespace = 'queue'::regnamespace as is_private,
    pronamespace = 'public'::regnamespace and prosrc like '%queue.%' as is_rpc
  from pg_proc where pronamespace in ('public'::regnamespace, 'queue'::regnamespace)
"""


@pytest.fixture
def catalogue(database: Database) -> Iterator[Engine]:
    """A superuser's session in an empty project. The view `ours` lists the project's functions."""
    with database.connect() as connection:
        connection.execute(OURS)
        yield Engine(database, connection)


def test_each_public_function_is_granted_to_its_callers_alone(catalogue: Engine) -> None:
    granted = (
        "select p.proname from pg_proc as p where p.pronamespace = 'public'::regnamespace"
        " and has_function_privilege(%s, p.oid, 'execute')"
    )
    members, worker = set(MEMBERS.split()), set(WORKER.split())
    known = members | worker | set(SERVICE)
    expected = {
        "anon": set(GUESTS),
        "authenticated": members,
        "service_role": known,
        "job_worker": worker | {"queue_stats"},
    }
    for role, names in expected.items():
        assert set(catalogue.rows(granted, role)) & known == names, role


LINTS = {
    # Numbers and titles are those of Supabase's database linter, supabase/splinter.
    "0001 unindexed foreign key": """
        select conrelid::regclass from pg_constraint k where contype = 'f'
          and connamespace::regnamespace::text not in ('auth', 'storage', 'realtime')
          and not exists (select 1 from pg_index i where i.indrelid = k.conrelid
            and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
            -- a partial one serves a delete only where its condition is that the key is not null
            and (i.indpred is null or pg_get_expr(i.indpred,
              i.indrelid) ~ '^\\(\\w+ IS NOT NULL\\)$'))""",
    "0003 auth function called per row in a policy": """
        select polname from pg_policy p where polrelid::regclass::text not like 'auth.%'
          and (pg_get_expr(polqual, polrelid) ~ 'auth\\.(uid|jwt|role)\\(\\)'
            and pg_get_expr(polqual, polrelid) !~* 'select\\s+auth\\.(uid|jwt|role)\\(\\)'
            or pg_get_expr(polwithcheck, polrelid) ~ 'auth\\.(uid|jwt|role)\\(\\)'
              and pg_get_expr(polwithcheck,
              polrelid) !~* 'select\\s+auth\\.(uid|jwt|role)\\(\\)')""",
    "0004 no primary key": """
        select c.oid::regclass from pg_class c where c.relkind in ('r', 'p')
          and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
          and not exists (select 1 from pg_index i where i.indrelid = c.oid and i.indisprimary)""",
    "0006 several permissive policies for one role and command": """
        select p.polrelid::regclass, r.rolname, c.cmd
        from pg_policy p
        join pg_roles r on r.oid = any (p.polroles) or p.polroles = '{0}' and r.rolname !~ '^pg_'
        cross join unnest('{r,a,w,d}'::"char"[]) as c (cmd)
        where p.polpermissive and p.polcmd in ('*', c.cmd)
          and p.polrelid::regclass::text not like 'realtime.%'
        group by 1, 2, 3 having count(*) > 1""",
    "0009 duplicate index": """
        select min(indexrelid::regclass::text) from pg_index
          where indrelid::regclass::text !~ '^(pg_|auth|realtime|supabase)'
        group by indrelid, indkey::text, indclass::text, coalesce(indexprs::text, ''),
          coalesce(indpred::text, ''), indoption::text having count(*) > 1""",
    "0010 view without security_invoker": """
        select c.oid::regclass from pg_class c where c.relkind = 'v'
          and c.relnamespace = 'public'::regnamespace
          and not coalesce(c.reloptions @> array['security_invoker=true']
            or c.reloptions @> array['security_invoker=on'], false)""",
    "0011 function whose search path is not empty": """
        select p.oid::regprocedure from ours p
        where (p.proconfig @> array['search_path=""']) is not true""",
    "0013 table in an exposed schema without row level security": """
        select c.oid::regclass from pg_class c where c.relkind in ('r', 'p')
          and not c.relrowsecurity
          and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)""",
    "0014 extension in public": """
        select extname from pg_extension where extnamespace = 'public'::regnamespace""",
    "0024 policy that is always true": """
        select polname from pg_policy where polrelid::regclass::text !~ '^(auth|realtime)'
          and polcmd <> 'r'
          and (pg_get_expr(polqual, polrelid) = 'true'
            or pg_get_expr(polwithcheck, polrelid) = 'true')""",
    "0028 definer function that anon may execute": """
        select p.oid::regprocedure from ours p where p.prosecdef and not p.is_private
          and has_function_privilege('anon', p.oid, 'execute')""",
    "index that is the beginning of another": """
        select i.indexrelid::regclass from pg_index i join pg_index o on o.indrelid = i.indrelid
          and o.indexrelid <> i.indexrelid
        join pg_class c on c.oid = i.indrelid
          where c.relnamespace::regnamespace::text not in ('auth', 'storage', 'realtime',
          'pg_catalog', 'pg_toast')
          and not i.indisunique and i.indpred is not distinct from o.indpred and i.indexprs is null
            and o.indexprs is null
          and o.indkey::text || ' ' like i.indkey::text || ' %' and o.indoption::text
            || ' ' like i.indoption::text || ' %'""",
    "an RPC name with two signatures": """
        select min(p.oid::regprocedure::text) from ours p
        group by pronamespace, proname having count(*) > 1""",
    # The other rules are this project's.
    "function that everyone may execute": """
        select proname from ours where proacl is null
          or exists (select 1 from aclexplode(proacl) a where a.grantee = 0)""",
    "table of the engine that someone may write": """
        select relname, rolname from pg_class as c, pg_roles where c.relkind in ('r', 'p', 'v', 'm')
          and relnamespace = 'queue'::regnamespace
          and rolname in ('anon', 'authenticated', 'service_role', 'job_worker')
          and (has_table_privilege(rolname, c.oid, 'insert, update, delete, truncate, trigger')
            or has_schema_privilege(rolname, 'queue', 'create'))""",
    "index of jobs that names what changes": """
        select i.indexrelid::regclass from pg_index i
        where i.indrelid = 'public.jobs'::regclass and pg_get_indexdef(i.indexrelid)
          ~ 'status|fence|attempts|last_seq|progress|result|_at|ord\\M|worker'""",
    "guests' function that takes a call without claims for the service": """
        select p.proname from ours p where has_function_privilege('anon', p.oid, 'execute')
          and p.prosrc ~ 'is_service\\(|may_(read|manage)'""",
    # A role may execute a private function only if a policy, a column default, or a public function
    # that runs with a guest's rights calls the private function.
    "private function that someone may execute": """
        select r.rolname, p.proname from ours p, pg_roles r
        where r.rolname in ('anon', 'authenticated', 'job_worker', 'service_role') and p.is_private
          and has_function_privilege(r.oid, p.oid, 'execute') and not (r.rolname <> 'job_worker'
            and p.proname in ('follow', 'guest_job', 'may_follow', 'job_output', 'session_feed',
                'session_jobs', 'session_output')
          or r.rolname ~ '^(auth|serv)' and p.proname in ('caller', 'clock', 'new_id', 'is_manager',
            'is_member', 'is_operator', 'my_workspaces', 'user_message'))""",
    "public function that returns a set": "select proname from ours where proretset and is_rpc",
    "what the Data API shows without a comment": """
        select proname from ours where is_rpc and obj_description(oid, 'pg_proc') is null""",
    "planner switch below a public function": """
        select p.proname from ours p where p.is_private and p.prorettype <> 'trigger'::regtype
          and exists (select from unnest(p.proconfig) c where c ~ '^(enable_|plan_cache|jit)')
          and not has_function_privilege('anon', p.oid, 'execute')""",
}


@pytest.mark.parametrize("lint", sorted(LINTS))
def test_the_linter_finds_nothing(catalogue: Engine, lint: str) -> None:
    catalogue.run("set search_path = ''")
    assert catalogue.rows(LINTS[lint]) == []
