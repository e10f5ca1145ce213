"""Fixtures: a new database with two workspaces, three members and one job type, and invariants."""

from collections.abc import Iterator

import pytest

from tests.contract.observed import breaches
from tests.support.engine import ADA, BOB, EVE, Engine
from tests.support.renewed import Renewed

#: A query: the job's row of queue.lanes, if a worker serves the lane and nothing pauses it. A lane
#: is a job type in a queue.
SERVED = """select from queue.lanes l where l.lane = g.lane and l.served_at is not null
  and not exists (select from queue.pauses p
    where (p.kind, p.name) in (('job_type', l.job_type), ('queue', l.queue)))"""
#: A query: a row of queue.notes for the key of the job. The row makes the next lease check the key.
NOTED = """select from queue.notes n join queue.lanes l on l.lane = n.lane
  where n.workspace_id = g.workspace_id and l.job_type = g.job_type and n.key = g.key"""
#: Invariants of the engine's tables, as queries that find violations.
INVARIANTS = {
    "a pending job has one place": """
        select j.id from jobs j left join (
          select m.job_id, count(*) as places from (
            select job_id from queue.ready
            union all select job_id from queue.unpublished
            union all select job_id from queue.gated where not admitted
            union all select job_id from queue.deferred where is_place
          ) m group by 1) p on p.job_id = j.id
        where j.status = 'pending' and p.places is distinct from 1
          and (j.deadline_at <= queue.clock()) is not true""",
    "only pending jobs without a lane wait for their type": """
        select u.job_id from queue.unpublished u left join jobs j on j.id = u.job_id
        where (j.status, j.lane, j.workspace_id, j.job_type)
          is distinct from ('pending', 0, u.workspace_id, u.job_type)""",
    "only pending jobs are ready, where their row says": """
        select r.job_id from queue.ready r left join jobs j on j.id = r.job_id
        where j.status is distinct from 'pending'
          or (j.lane, j.workspace_id, j.ord) is distinct from (r.lane, r.workspace_id, r.ord)""",
    "a ready job has an open turn that has not passed it, or a note": """
        select r.job_id from queue.ready r where not exists (
            select from queue.turns t where t.lane = r.lane and t.workspace_id = r.workspace_id
              and not (t.blocked and t.look_at is null) and t.from_ord <= r.ord
              and (t.blocked or (t.workspace_id, t.lane)
                in (select u.workspace_id, u.lane from queue.unblocked_turns u)))
          and not exists (select from queue.notes n
            where n.lane = r.lane and n.workspace_id = r.workspace_id)""",
    "behind a gate are live jobs; an admitted one is ready, runs, or is put off in order": """
        select g.job_id from queue.gated g left join jobs j on j.id = g.job_id
        left join queue.job_types t on t.job_type = j.job_type
        where case when not g.admitted then j.status is distinct from 'pending'
          else not g.ended and not exists (
            select from queue.ready r where r.job_id = g.job_id
            union all select from queue.leases l where l.job_id = g.job_id
            union all select from queue.deferred d where d.job_id = g.job_id and t.in_order) end""",
    "a key with room has a note, or nothing waits for it": f"""
        select g.job_id from queue.gated g join queue.job_types t on t.job_type = g.job_type
        where not g.admitted and not t.rate_per_key and exists ({SERVED})
          and (select count(*) from queue.gated o where o.workspace_id = g.workspace_id
            and o.job_type = g.job_type and o.key = g.key and o.admitted and not o.ended)
            < coalesce(t.key_concurrency, 1)
          and not exists ({NOTED})""",
    "a slot that was given back is looked at": f"""
        select g.job_id from queue.gated g
        where g.ended and exists ({SERVED}) and not exists ({NOTED})""",
    "a processing job has exactly one lease with its fence": """
        select coalesce(j.id, l.job_id)
        from jobs j full join queue.leases l on l.job_id = j.id
        where (j.status is not distinct from 'processing') <> (l.job_id is not null)
          or l.fence <> j.fence""",
    "a waiting job has one wait, others none": """
        select j.id from jobs j full join queue.waits w on w.job_id = j.id
        where (j.status is not distinct from 'waiting') <> (w.job_id is not null)""",
    "each lease ever given ended once, or runs": """
        select j.id from jobs j where j.fence <> (
          select count(*) from queue.attempts a where a.job_id = j.id)
          + (j.status = 'completed' and j.fence = 1)::integer
          + (select count(*) from queue.leases l where l.job_id = j.id)""",
    "a failed job is a dead letter, no other is": """
        select coalesce(j.id, d.job_id) from (select id from jobs where status = 'failed') j
        full join queue.dead d on d.job_id = j.id where j.id is null or d.job_id is null""",
    "the deadline of a live job is watched": """
        select j.id from jobs j where j.finished_at is null and j.deadline_at is not null
          and j.status <> 'processing' and not exists (
            select from queue.deferred d
            where d.job_id = j.id and d.run_at = j.deadline_at and not d.is_place)""",
    "the last start of a job that has not started is watched": """
        select j.id from jobs j where j.finished_at is null and j.started_at is null
          and j.start_by_seconds is not null and not exists (
            select from queue.deferred d
            where d.job_id = j.id and d.run_at = j.start_by_at and not d.is_place
              and d.run_at >= j.created_at + make_interval(secs => j.start_by_seconds))""",
    "a line says when its job is due": """
        select d.job_id from queue.deferred d left join jobs j on j.id = d.job_id
        where case when d.is_place then d.run_at = coalesce(j.next_retry_at, j.scheduled_for)
          else d.run_at in (j.deadline_at, j.start_by_at) end is not true""",
    "a unique key is held by a live job": """
        select u.job_id from queue.job_keys u left join jobs j on j.id = u.job_id
        where u.is_unique and (j.id is null or j.finished_at is not null)""",
}


@pytest.fixture
def engine(renewed: Renewed) -> Iterator[Engine]:
    """A database session with the service's role.

    After the test, the fixture checks the invariants.
    """
    engine = Engine(renewed, renewed.session())
    engine.register(lease_seconds=60)
    yield engine
    assert breaches(engine.connection, **INVARIANTS) == {}


@pytest.fixture
def ada(engine: Engine) -> Iterator[Engine]:
    """A session of Ada, who manages Acme."""
    with engine.member(ADA) as session:
        yield session


@pytest.fixture
def bob(engine: Engine) -> Iterator[Engine]:
    """A session of Bob, a member of Acme."""
    with engine.member(BOB) as session:
        yield session


@pytest.fixture
def eve(engine: Engine) -> Iterator[Engine]:
    """A session of Eve, who manages Globex."""
    with engine.member(EVE) as session:
        yield session
