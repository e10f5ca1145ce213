"""The check for revoked keys, and differences from the release."""

from __future__ import annotations

import psycopg
import pytest

from minutehand.app import find_apps
from minutehand.install.catalog import Drift, find_drifts, recorded_facts
from minutehand.install.rewrite import Schemas
from tests.contract.observed import refused
from tests.support.engine import ADA, Engine


def test_a_revoked_key_answers_in_no_function_of_a_worker(engine: Engine) -> None:
    """No function is granted to workers without this check."""
    engine.run(
        "create function public.mine() returns integer language plpgsql security definer"
        " as $$ begin return 1; end $$"
    )
    with pytest.raises(psycopg.Error, match="must begin with"):
        engine.run("select queue.allow('job_worker', 'public.mine')")


#: Every function that a worker may call, for a job with another fence.
OF_WORKERS = """
select format('select %%s(%%s)', p.oid::regproc, (
  select string_agg(case format_type(t, null) when 'jsonb' then %s else 'null::' || t::regtype end,
    ', ' order by n)
  from unnest(p.proargtypes::oid[]) with ordinality as a (t, n)))
from pg_catalog.pg_proc as p
where p.proacl::text ~ '[{,]job_worker='
order by p.oid
"""


def test_a_revoked_key_learns_nothing_of_any_function(engine: Engine) -> None:
    """The declare section rejects the key before a lost lease could be reported."""
    request = '{"job_id": "00000000-0000-4000-8000-000000000000", "fence": 7, "items": []}'
    calls = engine.rows(OF_WORKERS, f"'{request}'::jsonb")
    engine.rpc("revoke_worker_keys", p_before=engine.one("select queue.clock()"), p_grace_seconds=0)

    result = {}
    for call in calls:
        with engine.database.as_role("job_worker", {"iat": 1}) as connection:
            result[call] = refused(connection.execute, call.encode())[1]

    assert len(calls) > 30
    assert {call: word for call, word in result.items() if word != "key_revoked"} == {}


def test_what_a_stolen_key_registered_goes_with_it(engine: Engine) -> None:
    """Types, queues, schedules and workers are removed. A type with live jobs is kept."""
    job_id = engine.enqueue()
    schedule = {"name": "evil", "cron": "@yearly"}
    engine.register("thief.1", queue="thief", schedules=[schedule])
    engine.register("work", internal=True)
    engine.lease_call(0, worker="<b>", job_types=["thief.1"])
    engine.pause("job_type", "thief.1")
    made = (
        "select job_type from queue.job_types union all"
        " select job_type from queue.lanes where unused_since is null"
        " union all select name from queue.schedules union all select worker_id from queue.workers"
    )
    engine.rpc("revoke_worker_keys", p_before=engine.one("select queue.clock()"))
    assert set(engine.rows(made)) == {"webhook_delivery", "work"}
    assert engine.resume("job_type", "thief.1")["paused"] is False
    with engine.database.as_role("job_worker", {"iat": 4_000_000_000}) as connection:
        Engine(engine.database, connection).register("work")
    with engine.member(ADA) as ada:
        ada.enqueue()
    assert engine.lease_one(limit=1)["job"]["id"] == job_id


def test_a_job_that_commits_after_keys_were_revoked_runs(engine: Engine) -> None:
    """The revocation found no job of the type. The next registration finds the job in its place."""
    with engine.open_transaction() as other:
        job_id, now = other.enqueue(), engine.one("select queue.clock()")
        assert engine.rpc("revoke_worker_keys", p_before=now, p_grace_seconds=None)["from"]
    engine.register()

    assert engine.lease_one()["job"]["id"] == job_id


#: Changes that someone makes to a project, and a word of the finding.
CHANGES = {
    "revoke execute on function public.enqueue_job from authenticated": "enqueue_job",
    "revoke execute on function public.lease_jobs from job_worker": "undone: grant execute on",
    "revoke usage on schema public from public, job_worker": "undone: grant usage on schema",
    "grant insert, update, delete on public.job_logs to anon": "grant delete on table",
    "alter table public.jobs disable row level security": "row level security",
    "create policy all_see on public.jobs using (true)": "create policy all_see",
    'drop policy "members create jobs" on public.jobs': 'create policy "members create jobs"',
    "alter table public.jobs disable trigger user": "enable trigger",
    "alter function public.enqueue_job security invoker": "SECURITY DEFINER",
    "alter function public.lease_jobs reset search_path": "SET search_path",
    "alter function queue.clock stable": "undone: CREATE OR REPLACE FUNCTION queue.clock()",
    "alter view public.job_events set (security_invoker = off)": ") with (security_invoker=on) as",
    "drop trigger jobs_refuse_truncate on public.jobs": "CREATE TRIGGER jobs_refuse_truncate",
    "alter table queue.ready owner to supabase_admin": "owner to",
    "alter role job_worker bypassrls": "alter role job_worker bypassrls",
    "revoke job_worker from authenticator granted by postgres": "grant job_worker to authenticator",
    "delete from queue.settings where name = 'guest_key'": "gen_random_uuid()",
    "alter table queue.tasks alter column failures type bigint": "failures type integer",
    "comment on column queue.pieces.text is null": "is 'Person: ",
    "revoke update (status) on public.jobs from authenticated": "undone: grant update (status)",
    "grant update on public.jobs to authenticated": "revoke update on table public.jobs",
    "grant update (payload) on public.jobs to authenticated": "revoke update (payload)",
    "alter table public.jobs drop column start_by_seconds cascade": (
        "grant insert (start_by_seconds) on table public.jobs to authenticated"
    ),
    "alter sequence queue.feed_base set unlogged": "alter sequence queue.feed_base set logged",
    "alter sequence queue.feed_base owner to supabase_admin": (
        "undone: alter sequence queue.feed_base owner to postgres"
    ),
    "alter table queue.settings set unlogged": "alter table queue.settings set logged",
    """update queue.settings set value = '"24"' where name = 'feed_hours'""": "'24'",
    "drop index queue.turns_blocked": "CREATE INDEX turns_blocked",
    "drop index queue.turns_blocked; create index turns_blocked on queue.turns (lane)": (
        "drop index queue.turns_blocked"
    ),
    "alter type queue.share add attribute extra text": "drop attribute extra",
    "alter type queue.change drop attribute at": "alter type queue.change add attribute",
    "drop trigger jobs_refuse_truncate on public.jobs; create trigger jobs_refuse_truncate"
    " before truncate on public.jobs for each statement execute function queue.notify_workers()": (
        "drop trigger jobs_refuse_truncate on public.jobs"
    ),
    "alter table queue.settings drop constraint settings_pkey, add constraint settings_pkey"
    " unique (name)": "drop constraint settings_pkey",
    "drop function public.dead_letters(uuid); create function public.dead_letters(p_other uuid)"
    " returns text return null": "drop function public.dead_letters(uuid)",
    "create or replace view queue.limited_tenants as select workspace_id, 1 as more"
    " from queue.tenant_limits": "drop view queue.limited_tenants",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_from_the_release_is_named(engine: Engine, change: str) -> None:
    """The finding names only the planted differences, and the printed statements repair them."""
    recorded = recorded_facts(Schemas(), find_apps([]))
    assert recorded is not None

    def differences() -> list[Drift]:
        return find_drifts(engine.connection, Schemas(), recorded)

    assert differences() == []
    with engine.connection.transaction(force_rollback=True):
        engine.run("set local search_path = ''")
        engine.run(change)
        found = differences()
        for each in found:
            engine.run(each.fix)
        left = differences()

    assert CHANGES[change] in str(found)
    assert left == []
