"""Rights to call and to read, and the rules of Supabase's linter, checked in the catalogue."""

from __future__ import annotations

import re
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
    """A superuser's session of an empty project. The view `ours` lists its functions."""
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
    # numbers and titles as in supabase/splinter
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
    "0007 policy without row level security": """
        select c.oid::regclass from pg_class c join pg_policy p on p.polrelid = c.oid
          where not c.relrowsecurity""",
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
    "0011 function with a mutable search path": """
        select p.oid::regprocedure from ours p
        where not exists (select 1 from unnest(p.proconfig) c where c like 'search_path=%')""",
    "0013 table in an exposed schema without row level security": """
        select c.oid::regclass from pg_class c where c.relkind in ('r', 'p')
          and not c.relrowsecurity
          and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)""",
    "0014 extension in public": """
        select extname from pg_extension where extnamespace = 'public'::regnamespace""",
    "0016 materialized view in the API": """
        select c.oid::regclass from pg_class c where c.relkind = 'm'
          and c.relnamespace = 'public'::regnamespace""",
    "0024 policy that is always true": """
        select polname from pg_policy where polrelid::regclass::text !~ '^(auth|realtime)'
          and polcmd <> 'r'
          and (pg_get_expr(polqual, polrelid) = 'true'
            or pg_get_expr(polwithcheck, polrelid) = 'true')""",
    "0028 definer function that anon may execute": """
        select p.oid::regprocedure from ours p where p.prosecdef and not p.is_private
          and has_function_privilege('anon', p.oid, 'execute')""",
    "0029 trigger function that anyone may execute": """
        select p.oid::regprocedure from ours p where p.prorettype = 'trigger'::regtype
          and (has_function_privilege('anon', p.oid, 'execute')
            or has_function_privilege('authenticated', p.oid, 'execute'))""",
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
    "definer function whose search path is not empty": """
        select p.oid::regprocedure from ours p where p.prosecdef
          and not p.proconfig @> array['search_path=""']""",
    "an RPC name with two signatures": """
        select min(p.oid::regprocedure::text) from ours p
        group by pronamespace, proname having count(*) > 1""",
    # rules of this project
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
    # for policies, defaults of rows, and guests, whose functions act with a guest's rights
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


IN_ORDER = r"from (?:queue|public)\.(\w+) as \w+ (?:(?!from ).)*?order by [^;]*? limit"
#: Tables that maintenance reads in order, without shares of workspaces, and why no one waits.
WITHOUT_SHARES = {
    "do_announcements feed": "a round sends all new lines, and puts off topics in shares",
    "do_live feed": "it deletes what is a day old",
    "do_retention jobs": "it deletes what is days old",
    "do_statistics feed": "each pass adds up the lines of all",
    "do_output pieces": "it merges the pieces of one job after another, which are read as they are",
    "slice_of feed": "the lines of one webhook: webhooks take turns",
    "handle_signal jobs": "the children of one job: signals take turns",
    "tidy_turns ready": "the first job of one turn",
    "reset_schedules schedules": "one pass is over the schedules of all",
}


def test_each_workspace_has_a_share_of_what_maintenance_works_off(catalogue: Engine) -> None:
    """Jobs of one tenant in a table that is read in order must not delay another tenant."""
    found = catalogue.rows("select proname, prosrc from ours where is_private")
    sources = {name: " ".join(re.sub("--.*", "", text).split()) for name, text in found}
    tasks = [text for name, text in sources.items() if name.startswith("do_")]
    called = set(re.findall(r"queue\.(\w+)\(", " ".join(tasks)))
    of_tasks = {
        name: text for name, text in sources.items() if name.startswith("do_") or name in called
    }
    in_order = {
        f"{name} {table}"
        for name, text in of_tasks.items()
        if not re.search(r"partition by \w+\.workspace_id", text)
        for table in re.findall(IN_ORDER, text)
    }
    assert in_order == set(WITHOUT_SHARES)

    shared = {
        table
        for text in of_tasks.values()
        for table in re.findall(r"queue\.fair_batch\( 'queue\.(\w+)'", text)
    }
    assert shared == {"deferred", "unpublished", "signals", "waits", "late_topics"}
    begins = (
        "select from pg_index as i join pg_attribute as a on a.attrelid = i.indrelid"
        " and a.attnum = i.indkey[0] where a.attname = 'workspace_id' and i.indrelid = %s::regclass"
    )
    for table in shared:
        assert catalogue.rows(begins, f"queue.{table}"), "each workspace is found by one look-up"


#: Waits in a call of a person, and why they occupy few of the shared connections.
WAITS = {
    "hold_jobs pg_sleep": "the service alone; a person is refused",
    "try_lock pg_advisory_xact_lock(": "calls of workers alone, see test_callers.py",
    "claim_key do update": "under the lock of queue.hold_key",
    "hold_key pg_sleep": "one call of a person may wait for a key, for two seconds",
    "take_tokens do update": "under a lock that is tried, or of workers",
    "charge do update": "under a lock that is tried",
    "check_live_bytes do update": "under a lock that is tried",
    "check_live_jobs do update": "under a lock that is tried",
    "pause_jobs do update": "a manager's: queue.may_manage takes a call slot",
    "save_schedule do update": "a manager's: queue.may_manage takes a call slot",
    "beacon_cancel for update": "it takes a call slot",
    "follow do update": "a client's own row, by the id that it chose",
    # a pause that ends handles its signal at once; the other kinds are maintenance's
    "lock_held for no key update": "settlements and maintenance",
    "gather do update": "settlements and maintenance",
    "record_rejection do update": "maintenance",
    "blame do update": "maintenance, and a host that reports the end of a process",
}
WAITING = (
    r"pg_sleep|pg_advisory_\w*lock\(|lock table|do update"
    r"|for (?:no key )?(?:update|key share|share)(?! skip locked| nowait| each)"
    r"(?! of \w+(?:, \w+)* (?:skip locked|nowait))"
)


def test_what_people_call_waits_for_no_one(catalogue: Engine) -> None:
    """A call that sleeps or waits for a lock occupies a connection of the shared pool."""
    schemas = "('queue', 'public', 'beacon', 'chat', 'enrichment', 'plan', 'training')"
    found = catalogue.rows(
        "select p.pronamespace::regnamespace || '.' || p.proname, p.prosrc,"
        "  has_function_privilege('authenticated', p.oid, 'execute')"
        "  or has_function_privilege('anon', p.oid, 'execute')"
        f" from pg_proc as p where p.pronamespace::regnamespace::text in {schemas}"
    )
    sources = {name: " ".join(re.sub("--.*", "", text).split()) for name, text, _ in found}
    triggers = catalogue.rows(
        "select p.pronamespace::regnamespace || '.' || p.proname"
        " from pg_trigger as t join pg_proc as p on p.oid = t.tgfoid"
        " where not t.tgisinternal and t.tgtype & 8 = 0"  # no function may delete
        "  and t.tgrelid::regclass::text !~ '^(auth|realtime|storage)'"
    )
    left = [*(name for name, _, is_open in found if is_open), *triggers]
    reached: dict[str, str] = {}
    while left:
        name = left.pop()
        if name in sources and name not in reached:
            reached[name] = sources[name]
            left += re.findall(r"\b[a-z]+\.\w+(?=\()", sources[name])

    waits = {
        f"{name.partition('.')[2]} {each.strip()}"
        for name, text in reached.items()
        for each in re.findall(WAITING, text)
    }
    assert waits == set(WAITS)
    # who acts as the service would wait as it does: a guest's job is held before, or refused
    as_service = re.compile(r"set_config\('request.jwt.claims', '\{\"role")
    acting = [text for text in reached.values() if as_service.search(text)]
    assert len(acting) == 2
    assert all("queue.hold_jobs(" in as_service.split(text)[0] for text in acting)
