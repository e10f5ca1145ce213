"""Rules of the house that the catalogue can answer, and the guard of revoked keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.engine import ADA, Engine


@pytest.fixture
def catalogue(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection to an empty project."""
    with database.connect() as connection:
        yield connection


#: Of the house; Supabase's are in `contract/test_catalogue.py`.
LINTS = {
    "index of jobs that names what changes": """
        select i.indexrelid::regclass from pg_index i
        where i.indrelid = 'public.jobs'::regclass and pg_get_indexdef(i.indexrelid)
          ~ 'status|fence|attempts|last_seq|progress|result|_at|ord\\M|worker'""",
    "guests' function that takes a call without claims for the service": """
        select p.name from ours p where has_function_privilege('anon', p.oid, 'execute')
          and p.prosrc ~ 'is_service\\(|may_(read|manage)'""",
    # for policies, defaults of rows, and guests, whose functions act with a guest's rights
    "private function that someone may execute": """
        select r.rolname, p.name from ours p, pg_roles r
        where r.rolname in ('anon', 'authenticated', 'job_worker', 'service_role') and p.is_private
          and has_function_privilege(r.oid, p.oid, 'execute') and not (r.rolname <> 'job_worker'
            and p.proname in ('follow', 'may_follow', 'session_feed', 'session_jobs')
          or r.rolname ~ '^(auth|serv)' and p.proname in ('caller', 'clock', 'new_id', 'is_manager',
            'is_member', 'is_operator', 'my_workspaces'))""",
    "public function that returns a set": """
        select p.name from ours p where p.proretset and p.is_public""",
    "what the Data API shows without a comment": """
        select p.name from ours p
        where p.is_public and obj_description(p.oid, 'pg_proc') is null""",
    "planner switch below a public function": """
        select p.name from ours p where p.is_private and p.prorettype <> 'trigger'::regtype
          and exists (select from unnest(p.proconfig) c where c ~ '^(enable_|plan_cache|jit)')
          and not has_function_privilege('anon', p.oid, 'execute')""",
    "function of more than 80 lines": """
        select p.name from ours p
        where array_length(string_to_array(p.prosrc, E'\\n'), 1) > 82""",
}
OURS = """with ours as (
  select p.*, p.oid::regprocedure::text as name, p.pronamespace = 'queue'::regnamespace
    as is_private, p.pronamespace = 'public'::regnamespace and p.prosrc like '%queue.%' as is_public
  from pg_proc p where p.pronamespace in ('public'::regnamespace, 'queue'::regnamespace))"""


@pytest.mark.parametrize("lint", LINTS)
def test_the_linter_finds_nothing(catalogue: psycopg.Connection[Any], lint: str) -> None:
    """Each is a rule of the house; the query names the offenders."""
    assert catalogue.execute((OURS + LINTS[lint]).encode()).fetchall() == []


def test_a_revoked_key_answers_in_no_function_of_a_worker(engine: Engine) -> None:
    """Nor is one granted that does not ask for it."""
    unguarded = (
        "select oid::regproc::text from pg_proc where proacl::text ~ '[{,]job_worker='"
        " and strpos(prosrc, 'queue.refuse_revoked();') = 0"
    )
    assert engine.rows(unguarded) == []
    engine.run(
        "create function public.mine() returns integer language plpgsql security definer"
        " as $$ begin return 1; end $$"
    )
    with pytest.raises(psycopg.Error, match="must begin with"):
        engine.run("select queue.allow('job_worker', 'public.mine')")


@pytest.mark.parametrize("grace", [0, 300])
def test_what_a_stolen_key_registered_goes_with_it(engine: Engine, grace: int) -> None:
    """Its types, their queues and schedules, and its workers; what has live jobs waits for them."""
    job_id = engine.enqueue()
    schedule = {"name": "evil", "cron": "@yearly"}
    engine.register("thief.1", queue="thief", schedules=[schedule])
    engine.register("work", internal=True)
    engine.lease_call(0, worker="<b>", job_types=["thief.1"])
    made = (
        "select job_type from queue.job_types union all select job_type from queue.lanes"
        " union all select name from queue.schedules union all select worker_id from queue.workers"
    )
    revoked = {"p_before": engine.one("select queue.clock()"), "p_grace_seconds": grace}
    engine.rpc("revoke_worker_keys", **revoked)
    if grace:
        assert "thief.1" in engine.rows(made)
        engine.advance(361)
        engine.maintain()

    assert set(engine.rows(made)) == {"webhook_delivery", "work"}
    with engine.database.as_role("job_worker", {"iat": 4_000_000_000}) as connection:
        Engine(engine.database, connection).register("work")
    with engine.member(ADA) as ada:
        ada.enqueue()
    assert engine.lease_one(limit=1)["job"]["id"] == job_id


#: What someone does to a project, and a word of the fact that it breaks.
CHANGES = {
    "revoke execute on function public.enqueue_job from authenticated": "enqueue_job",
    "revoke execute on function public.lease_jobs from job_worker": "undone: grant execute on",
    "revoke usage on schema public from public, job_worker": "undone: grant usage on schema",
    "grant select on queue.ready to anon": "grant select on table queue.ready",
    "grant insert, update, delete on public.job_logs to anon": "grant delete on table",
    "alter table public.jobs disable row level security": "row level security",
    "create policy all_see on public.jobs using (true)": "create policy all_see",
    'drop policy "members create jobs" on public.jobs': 'create policy "members create jobs"',
    "alter table public.jobs disable trigger user": "enable trigger",
    "alter function public.enqueue_job security invoker": "security definer",
    "alter function public.lease_jobs reset search_path": "set search_path",
    "alter table queue.ready owner to supabase_admin": "owner to",
    "alter role job_worker bypassrls": "alter role job_worker bypassrls",
    "revoke job_worker from authenticator granted by postgres": "grant job_worker to authenticator",
    "drop index queue.turns_blocked": "CREATE INDEX turns_blocked",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_from_the_migrations_is_named_with_its_mend(
    catalogue: psycopg.Connection[Any], change: str
) -> None:
    """And nothing else: the statements that are named put it right."""
    differences = "select difference, fix from queue.differences()"
    assert catalogue.execute(differences).fetchall() == []

    with catalogue.transaction(force_rollback=True):
        catalogue.execute("set local search_path = ''")
        catalogue.execute(change.encode())
        found = catalogue.execute(differences).fetchall()
        for _, fix in found:
            catalogue.execute(fix.encode())
        left = catalogue.execute(differences).fetchall()

    assert CHANGES[change] in str(found)
    assert left == []
