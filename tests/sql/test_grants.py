"""Revoked worker keys, and the check for differences between a database and its release."""

import random
from contextlib import suppress

import psycopg
import pytest

from minutehand.app import built_in
from minutehand.cli.doctor.checks import QUERIES
from minutehand.install.catalog import Drift, find_drifts, read_record
from minutehand.install.rewrite import Schemas
from tests.contract.observed import refused
from tests.integration.cli.faults import KINDS, SEED, Fault, list_drifts
from tests.support.engine import Engine, piece


def test_a_revoked_key_answers_in_no_function_of_a_worker(engine: Engine) -> None:
    """A function that does not check for revoked keys cannot be granted to workers."""
    engine.run(
        "create function public.mine() returns integer language plpgsql security definer"
        " as $$ begin return 1; end $$"
    )
    with pytest.raises(psycopg.Error, match="must begin with"):
        engine.run("select queue.allow('job_worker', 'public.mine')")


#: A query that returns a call of every function that workers may call, with a wrong fence.
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
    """Each function for workers rejects a revoked key before it reads the request.

    A rejected call also changes no sequence, because a rollback does not restore a sequence.
    """
    engine.run("select setval('queue.slots_ms', %s)", 2**52)
    request = '{"job_id": "00000000-0000-4000-8000-000000000000", "fence": 7, "items": []}'
    calls = engine.rows(OF_WORKERS, f"'{request}'::jsonb")
    engine.revoke_keys(p_grace_seconds=0)

    result = {}
    for call in calls:
        with engine.as_role("job_worker", iat=1) as worker:
            result[call] = refused(worker.run, call)[1]

    assert len(calls) > 30
    assert {call: word for call, word in result.items() if word != "key_revoked"} == {}
    assert engine.one("select pg_sequence_last_value('queue.slots_ms')") == 2**52


def test_what_a_stolen_key_registered_goes_with_it(engine: Engine, ada: Engine) -> None:
    """A revocation of worker keys deletes job types, queues, schedules and workers.

    Job types with live jobs stay.
    """
    job_id = engine.enqueue()
    schedule = {"name": "evil", "cron": "@yearly"}
    engine.register("thief.1", queue="thief", schedules=[schedule])
    engine.register(internal=True)
    with engine.as_role("job_worker") as thief:
        thief.lease_call(0, worker="<b>", job_types=["thief.1"])
    engine.pause("job_type", "thief.1")
    made = (
        "select job_type from queue.job_types union all"
        " select job_type from queue.lanes where unused_since is null"
        " union all select name from queue.schedules union all select worker_id from queue.workers"
    )
    engine.revoke_keys()
    assert set(engine.rows(made)) == {"webhook_delivery", "work"}
    assert engine.resume("job_type", "thief.1")["paused"] is False
    with engine.as_role("job_worker", iat=4_000_000_000) as worker:
        worker.register()
    ada.enqueue()
    assert engine.lease_one(limit=1)["job"]["id"] == job_id


def test_a_job_that_commits_after_keys_were_revoked_runs(engine: Engine) -> None:
    """A job whose transaction commits after worker keys were revoked is still leased.

    The next registration of the job type finds it.
    """
    with engine.open_transaction() as other:
        job_id = other.enqueue()
        assert engine.revoke_keys(p_grace_seconds=None)["from"]
    engine.register()

    assert engine.lease_one()["job"]["id"] == job_id


def differences(engine: Engine) -> list[Drift]:
    """Return the differences between the engine's database and the installed release."""
    recorded = read_record(Schemas(), built_in(()))
    assert recorded is not None
    return find_drifts(engine.connection, Schemas(), recorded)


#: Each test damages one of so many parts of the objects, because two comparisons take 0.4 s.
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_what_differs_from_the_release_is_named(engine: Engine, part: int) -> None:
    """The check names twenty objects that differ from the release.

    The statements that it prints repair the objects. test_doctor_loop.py damages one at a time.
    """
    kinds = KINDS[part::PARTS]
    drifts, made = list(list_drifts()), list[Fault]()
    with engine.undone():
        for kind in kinds:
            faults = [fault for fault in drifts if fault.kind == kind]
            random.Random(f"{SEED} {kind}").shuffle(faults)
            for fault in faults:  # the first fault that can be made; others have dependents
                with suppress(psycopg.Error), engine.connection.transaction():
                    engine.run(fault.text)
                    made.append(fault)
                    break
        found = differences(engine)
        for each in found:  # a statement that is a transaction of its own would end this one
            engine.run(each.fix.removeprefix("begin; ").removesuffix("; commit"))
        left = differences(engine)

    assert [fault.kind for fault in made] == kinds
    assert [fault for fault in made if fault.word not in str(found)] == []
    assert left == []


@pytest.mark.parametrize(
    "drop",
    [
        "function queue.caller",
        "function queue.is_service",  # a parameter of public.explain calls it in an expression
        "view public.job_events",
        "table public.jobs",  # foreign keys need its primary key
        "table queue.tenant_limits",  # a generated column needs the types of others
    ],
)
def test_an_object_is_restored_before_those_that_use_it(engine: Engine, drop: str) -> None:
    with engine.undone():
        engine.run(f"drop {drop} cascade")
        for each in differences(engine):
            engine.run(each.fix)

        assert differences(engine) == []


#: Statements that drop all composite types of the engine, and two tables with rows of a release.
DROPS = """
    select concat(
      'drop ', case relkind when 'c' then 'type' else 'table' end, ' ', oid::regclass, ' cascade'
    )
    from pg_catalog.pg_class
    where relnamespace = 'queue'::regnamespace
      and (relkind = 'c' or relname in ('settings', 'tasks', 'ticks'))
"""


def test_a_session_that_used_a_dropped_type_uses_the_new_one(engine: Engine) -> None:
    """After the fixes, a session that has compiled functions with the old types works again."""

    def work() -> None:
        engine.enqueue_many(2)
        lease = engine.lease_one(limit=1)
        engine.say(lease, piece("words"))
        engine.complete([lease])
        engine.maintain()

    work()
    with engine.undone():
        engine.run("set local role postgres")
        for statement in engine.rows(DROPS):
            engine.run(statement)
        for each in differences(engine):
            engine.run(each.fix)
        engine.run("reset role")

        work()


def test_what_a_project_adds_is_no_fault(engine: Engine) -> None:
    """The check does not report objects that a project added, because its fix would remove them."""
    with engine.undone():
        engine.run(
            "create function public.jobs(public.workspaces) returns text return null;"
            " alter role authenticated set app.session_timeout = 'never';"
            " alter table queue.webhooks add column note text not null default 'x';"
            " alter table queue.webhooks alter column note set storage plain;"
            " create index own on public.jobs (priority) with (fillfactor = 50);"
            " create statistics own on job_type, queue from jobs;"
            " create trigger own before update on public.jobs for each row"
            " execute function suppress_redundant_updates_trigger();"
            " alter table public.jobs replica identity full, set (autovacuum_vacuum_threshold = 9);"
            " alter view public.job_events set (security_invoker = true);"
            " create publication own for table public.jobs where (priority > 1);"
            " alter table queue.webhooks add column number bigint generated always as identity;"
            " create policy debug on realtime.messages for select to service_role using (true)"
        )

        assert differences(engine) == []
        assert engine.rows(QUERIES["extensions"]) == []


@pytest.mark.parametrize(
    "statement",
    [
        "create table public.settings (name text, value jsonb, updated_at timestamptz, own text);"
        " drop table queue.settings cascade",
        "alter table public.jobs drop column error_message cascade, add column own text",
        "alter table queue.turns drop constraint turns_pkey, add column own bigint;"
        " alter table queue.turns drop column from_ord cascade, drop column rank cascade",
    ],
)
def test_what_a_project_adds_replaces_nothing_that_is_missing(
    engine: Engine, statement: str
) -> None:
    """For a missing table or column, the check does not propose to rename one of the project."""
    with engine.undone():
        engine.run(statement)

        fixes = [each.fix for each in differences(engine)]

    assert fixes
    assert not [fix for fix in fixes if "rename" in fix or "set schema" in fix]


@pytest.mark.parametrize(
    "damage",
    [
        "drop table realtime.messages",
        "set table realtime.messages where (private)",
        "set (publish = 'delete')",
    ],
)
def test_what_realtime_no_longer_sends_is_named(engine: Engine, damage: str) -> None:
    """The doctor finds that the publication of Realtime's messages lacks a part of them."""
    with engine.undone():
        engine.run(f"alter publication supabase_realtime_messages_publication {damage}")
        [(verdict, detail, fix)] = engine.rows(QUERIES["publication"])
        engine.run(fix)

        assert (verdict, "realtime.messages" in detail) == ("fail", True)
        assert engine.rows(QUERIES["publication"]) == []


def test_pending_jobs_that_no_lease_finds_get_a_place_again(engine: Engine) -> None:
    """The doctor finds pending jobs whose rows someone deleted, and its statement restores them.

    The fixture checks the restored rows.
    """
    engine.enqueue()
    engine.enqueue(delay_seconds=60)
    engine.run("truncate queue.ready, queue.deferred")

    [(_, detail, fix)] = engine.rows(QUERIES["jobs"])
    engine.run(fix)

    assert detail.startswith("2 pending jobs are in no table")
    assert engine.rows(QUERIES["jobs"]) == []
