"""Rows that each way to enqueue leaves, and deletes and INSERT statements for many tenants."""

import json
from typing import Any

import pytest

from tests.support.engine import ACME, GLOBEX, Engine, Json

#: Ways to enqueue a plain job. All must leave the same rows as "options", which calls queue.add.
WAYS = {
    "options": "select enqueue_job(%s, %s, '{\"n\": 1}', '{\"priority\": 100}')",
    "alone": "select enqueue_job(%s, %s, '{\"n\": 1}')",
    "bulk": "select enqueue_jobs(%s, jsonb_build_array("
    "jsonb_build_object('job_type', %s::text, 'payload', '{\"n\": 1}'::jsonb)))",
    "bulk with options": "select enqueue_jobs(%s, jsonb_build_array(jsonb_build_object("
    "'job_type', %s::text, 'payload', '{\"n\": 1}'::jsonb, 'priority', 100)))",
    # The engine ignores these values of attempts, result and finished_at.
    "insert": "insert into jobs"
    " (workspace_id, job_type, payload, attempts, result, finished_at)"
    " select %s, %s, '{\"n\": 1}', 3, '1', '2020-01-01' returning null::json",
}
#: A query of all rows that a new job leaves, without ids and times.
LEFT = """
select jsonb_build_object(
  'job', to_jsonb(j) - '{id,workspace_id,ord,created_at,updated_at,worker}'::text[]
    || jsonb_build_object('worker', nullif(j.worker, 0),
      'is new', j.updated_at = j.created_at,
      'is in order', j.ord = queue.ord_of(j.priority, j.created_at)),
  'ready', (select jsonb_agg(jsonb_build_array(r.lane, r.ord = j.ord, r.ready_at = j.created_at))
    from queue.ready as r where r.job_id = j.id and r.workspace_id = j.workspace_id),
  'gated', (select count(*) from queue.gated where job_id = j.id),
  'deferred', (select count(*) from queue.deferred where job_id = j.id),
  'keys', (select count(*) from queue.job_keys where job_id = j.id),
  'notes', (select jsonb_agg(jsonb_build_array(n.lane, n.key, n.look_at, n.ord <= j.ord))
    from queue.notes as n where n.workspace_id = j.workspace_id),
  'turns', (select jsonb_agg(jsonb_build_array(t.lane, t.blocked, t.look_at, t.from_ord <= j.ord))
    from queue.turns as t where t.workspace_id = j.workspace_id),
  'events', (select jsonb_agg(to_jsonb(e) - '{id,job_id,workspace_id,created_at}'::text[])
    from job_events as e where e.job_id = j.id),
  'feed', (select jsonb_agg(to_jsonb(f)
      - '{id,number,xid,at,workspace_id,job_ids}'::text[] || jsonb_build_object('jobs', f.job_ids))
    from queue.feed as f where j.id = any (f.job_ids)),
  'messages', (select jsonb_agg(jsonb_build_array(m.topic, m.extension, m.event, m.private,
      m.payload - 'at'))
    from realtime.messages as m where m.payload ->> 'job_id' = j.id::text)
), j.id::text
from jobs as j where j.workspace_id = %s and j.finished_at is null
"""


def scrubbed(found: Any, job: str, workspace: str) -> Any:
    return json.loads(json.dumps(found).replace(job, "J").replace(workspace, "W"))


def that_name(engine: Engine, column: str, ids: list[str]) -> set[str]:
    """Return the tables in which the column contains one of the ids."""
    tables = engine.rows(
        "select table_schema || '.' || table_name from information_schema.columns"
        " where table_schema in ('queue', 'public') and column_name = %s",
        column,
    )
    found = "select exists (select from {} where {} = any (%s::uuid[]))"
    return {table for table in tables if engine.one(found.format(table, column), ids)}


def test_deleting_a_job_takes_everything_of_it_and_nothing_else(engine: Engine) -> None:
    engine.register("keyed", key_concurrency=1)
    kept = engine.enqueue()
    gone = [
        engine.enqueue(idempotency_key="i", unique={"key": "u"}),
        engine.enqueue(delay_seconds=60),
        engine.enqueue(job_type="keyed", concurrency_key="k"),
    ]
    assert engine.enqueue(idempotency_key="j", unique={"key": "u"}) == gone[0]
    lease = engine.lease_one(job_types=["keyed"])
    log, step = {"level": "info", "message": "m"}, {"name": "s", "result": 1}
    engine.report(lease, logs=[log], steps=[step])

    engine.run("delete from jobs where id = any (%s::uuid[])", gone)

    assert that_name(engine, "job_id", gone) == set()
    assert engine.status(kept) == "pending"
    assert engine.report(lease) == "lost"


def test_deleting_a_workspace_takes_its_jobs(engine: Engine) -> None:
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace)
        engine.enqueue(workspace=workspace, delay_seconds=60)
    engine.lease(1)
    with engine.open_transaction() as other, engine.another_session() as ada:
        other.run("lock table queue.dead in access exclusive mode")
        deleted = engine.blocked(ada.run, "delete from workspaces where id = %s", ACME)
        engine.enqueue()
        other.run("commit")
        deleted.result()
    engine.lease(1)
    engine.elapse(7200)

    assert engine.rows("select distinct workspace_id::text from jobs") == [GLOBEX]
    assert that_name(engine, "workspace_id", [ACME]) <= {"queue.feed", "queue.stats"}


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"events": "minimal"},
        {"queue": "slow", "max_attempts": 2, "schema_version": 3, "timeout_seconds": 9},
        {"key_concurrency": 1, "max_concurrency": 3},
        {"internal": True},
    ],
)
def test_each_way_in_leaves_what_the_others_leave(
    engine: Engine, policy: Json, is_open: bool, traced: bool
) -> None:
    """Every way to enqueue a plain job leaves equal rows and returns equal responses."""
    engine.register("plain", **policy)
    engine.stop_clock()
    if traced:
        engine.run(
            "select set_config('request.headers', %s, false)",
            json.dumps({"x-minutehand-trace": f"00-{'a' * 32}-{'b' * 16}-01"}),
        )
    left, answers = {}, {}
    for way, call in WAYS.items():
        [workspace] = engine.add_workspaces(1)
        if is_open:  # the workspace already has an open row of queue.turns
            engine.enqueue(workspace=workspace, job_type="plain")
            for lease in engine.lease():
                engine.settle(lease)
        engine.run("select setval('queue.wanted_ms', 0)")  # each call then starts a worker
        answer = engine.one(call, workspace, "plain")
        found, job = engine.one(LEFT, workspace)
        left[way] = scrubbed(found, job, workspace)
        answers[way] = scrubbed(answer, job, workspace)

    assert left == dict.fromkeys(WAYS, left["options"])
    assert (left["alone"]["notes"] is None) == is_open
    assert (left["alone"]["job"]["traceparent"] is not None) == traced
    assert left["alone"]["ready"]
    assert left["alone"]["feed"]
    assert answers["alone"] == answers["options"]
    assert answers["bulk"] == answers["bulk with options"]


def test_few_enqueues_are_subtransactions(engine: Engine) -> None:
    """Seventy enqueues in one transaction use at most ten subtransactions.

    More than 64 would slow down each snapshot of the server.
    """
    calls = {
        "alone": "select enqueue_job(%s, 'work') from generate_series(1, 70)",
        "with a key": "select enqueue_job(%s, 'work', '{}',"
        " jsonb_build_object('idempotency_key', n::text)) from generate_series(1, 70) as n",
        "a plain insert": "insert into jobs (workspace_id, job_type)"
        " select %s, 'work' from generate_series(1, 500)",
    }
    found = {}
    for name, call in calls.items():
        engine.run("begin")
        engine.run(call, ACME)
        found[name] = engine.one(
            "select s.subxact_count from pg_stat_get_backend_idset() as i (id)"
            " cross join pg_stat_get_backend_subxact(i.id) as s"
            " where pg_stat_get_backend_pid(i.id) = pg_backend_pid()"
        )
        engine.run("commit")

    assert max(found.values()) <= 10  # five per second, in at most two seconds


@pytest.mark.parametrize("policy", [{}, {"key_concurrency": 1}, {"events": "minimal"}])
def test_what_a_projects_trigger_does_to_new_jobs_is_seen_when_they_are_placed(
    engine: Engine, policy: Json
) -> None:
    """A project's trigger may delete, cancel or retry new jobs.

    Only jobs that it left pending are leased.
    """
    engine.register("keyed", **policy)
    engine.add_trigger(
        "after insert",
        "case new.payload ->> 'n' when '1' then delete from jobs where id = new.id;"
        " when '2' then perform public.cancel_job(new.id);"
        " when '3' then insert into jobs (workspace_id, job_type)"
        " values (new.workspace_id, 'work');"
        " when '5' then perform public.retry_job(new.id);"
        " when '6' then perform public.cancel_job(new.id), public.retry_job(new.id);"
        " else null; end case; return null;",
    )

    engine.run(
        "insert into jobs (workspace_id, job_type, payload, concurrency_key, scheduled_for)"
        " select %s, 'keyed', jsonb_build_object('n', n), nullif(n, 8)::text,"
        " case when n > 4 then now() + interval '1 hour' end from generate_series(1, 8) as n",
        ACME,
    )

    def leased() -> list[int]:
        leases = engine.lease(10)
        engine.complete(leases)
        return sorted(lease["job"]["payload"].get("n", 0) for lease in leases)

    assert leased() == [0, 3, 4, 5, 6]
    engine.advance(3601)
    assert leased() == [7, 8]
    assert engine.rows("select payload -> 'n' from jobs where status = 'cancelled'") == [2]


@pytest.mark.parametrize("way", WAYS)
def test_a_turn_that_a_lease_closes_beside_an_enqueue_keeps_its_job(
    engine: Engine, way: str
) -> None:
    """A job is leased although a concurrent lease closed the workspace's row of queue.turns.

    The enqueue may begin before that lease or during its transaction.
    """
    engine.enqueue()
    engine.settle(engine.lease_one())
    assert engine.count("queue.turns where not (blocked and look_at is null)") == 1
    engine.add_trigger("before insert", "perform pg_advisory_xact_lock_shared(7); return new;")
    with engine.open_transaction() as other, engine.another_session() as ada:
        other.run("select pg_advisory_xact_lock(7)")
        made = engine.blocked(ada.run, WAYS[way], ACME, "work")
        assert engine.lease(call=16) == []  # each sixteenth call closes empty rows of queue.turns
        other.run("commit")
        made.result()
    engine.settle(engine.lease_one())
    engine.run("drop trigger z_own on jobs")
    with engine.open_transaction() as closing:
        assert closing.lease_call(call=16)["leases"] == []
        engine.run(WAYS[way], ACME, "work")
    engine.lease_one()


def test_a_unique_key_whose_record_is_gone_is_free(engine: Engine) -> None:
    """The unique key of a deleted job is free, even if the delete could not lock the key's row."""
    unique = {"key": "u"}
    gone = engine.enqueue(unique=unique)
    keys = "select job_id::text from queue.job_keys"
    with engine.another_session() as holder, engine.open_transaction() as other:
        holder.run("begin")
        holder.run("select from queue.job_keys for update")
        other.delete(gone)
        other.run("commit")
        other.run("begin")
        holder.run("rollback")
    assert engine.rows(keys) == [gone]
    engine.run("set statement_timeout = '20s'")
    kept = engine.enqueue(unique=unique)
    assert engine.enqueue(unique=unique) == kept
    assert engine.rows(keys) == [kept]
