"""Queries of a queue's public state, and invariants that hold in each committed snapshot."""

import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.support.engine import Engine, Json, refusal

ENDED = "('completed', 'failed', 'cancelled')"
ENDS = "('job.completed', 'job.failed', 'job.cancelled')"
HOLDS = {
    "events run from 1 to the job's last without a gap": """
        select j.id from jobs as j left join job_events as e on e.job_id = j.id
        group by j.id, j.last_seq having count(e.seq) <> j.last_seq
          or coalesce(max(e.seq), 0) <> j.last_seq or count(distinct e.seq) <> j.last_seq""",
    "a job ends once, and once more for each time that it is retried": f"""
        select job_id from job_events group by job_id
        having count(*) filter (where type in {ENDS})
          > 1 + count(*) filter (where type = 'job.redriven')""",
    "an ended job says so last": f"""
        select j.id from jobs as j left join lateral (
          select e.type from job_events as e where e.job_id = j.id
          order by e.seq desc limit 1
        ) as l on true
        where (j.status in {ENDED}) <> coalesce(l.type in {ENDS}, false)""",
    "what has ended has an end": f"""
        select id from jobs where (status in {ENDED}) <> (finished_at is not null)
          or (status = 'completed') <> (completed_at is not null)""",
    "attempts stay within bounds": "select id from jobs where attempts > max_attempts",
}


def breaches(connection: psycopg.Connection[Any], **more: str) -> Json:
    """Check all invariants, and the queries in `more`, in one snapshot.

    Return the first five rows that violate each invariant.
    """
    found: Json = {}
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        for name, query in {**HOLDS, **more}.items():
            if rows := connection.execute(query.encode()).fetchall():
                found[name] = json.loads(json.dumps(rows[:5], default=str))
    return found


def refused(call: Callable[..., Any], *args: Any, **options: Any) -> tuple[str | None, ...]:
    """Return the SQLSTATE, hint and detail of the error that a call must raise."""
    with pytest.raises(psycopg.Error) as error:
        call(*args, **options)
    return refusal(error.value)


def started(engine: Engine, **options: Any) -> Json:
    """Enqueue a job, lease it, and return the lease."""
    return engine.start(**options)[1]


def later(engine: Engine, seconds: float) -> str:
    """Return the time that the database's clock will show after the given seconds."""
    return engine.now(seconds).isoformat()


def seconds_until(engine: Engine, job_id: str) -> float:
    """Return the seconds from the last change of a job to the job's next start."""
    wait = "extract(epoch from coalesce(next_retry_at, scheduled_for) - updated_at)::float"
    return float(engine.one(f"select {wait} from jobs where id = %s", job_id))


def ask(name: str = "q", **more: Any) -> Json:
    return {"kind": "ask", "name": name, "question": "?", **more}


def messages(engine: Engine, topic: str = "%") -> list[tuple[str, str, Any]]:
    """Return topic, event and payload of each Realtime message, in the order of sending."""
    return engine.rows(
        "select topic, event, payload from realtime.messages where topic like %s order by id", topic
    )


def sent_on(engine: Engine, topic: str) -> list[Json]:
    """Return the events of all Realtime messages to a topic, without their times."""
    return [
        {name: value for name, value in event.items() if name != "at"}
        for _, _, payload in messages(engine, topic)
        for event in events_of(payload)
    ]


def events_of(message: Json) -> list[Json]:
    """Return the events in a Realtime message.

    A message is one event, a list of events, or groups of equal events of several jobs.
    """
    if "groups" not in message:
        return message.get("events") or [message]
    several = []
    for group in message["groups"]:
        jobs, seqs = group.pop("job_ids"), group.pop("seqs")
        pairs = zip(jobs, seqs * len(jobs) if len(seqs) == 1 else seqs, strict=True)
        several += [{"job_id": job, "seq": seq, **group} for job, seq in pairs]
    return several


def blocks(engine: Engine, statement: str, *values: Any) -> int:
    """Count the blocks of tables and indexes that an SQL call reads.

    The call runs in a new session and is rolled back.
    """
    found = []
    with engine.another_session() as other:
        # The first calls of a database session also read the system catalogue.
        for _ in range(4):
            other.run("begin")
            found.append(other.blocks(statement, *values))
            other.run("rollback")
    return min(found)


def lease_blocks(engine: Engine, limit: int = 1, **request: Any) -> int:
    """Count the blocks that one lease call reads, when the worker run has leased before."""
    expected = {
        "worker_id": "w1",
        "tick_id": str(uuid.uuid4()),
        "call": 2,
        "limit": limit,
        **request,
    }
    engine.run("select setval('queue.unsent_at', 1)")  # the lease sends no Realtime messages
    return blocks(engine, "select public.lease_jobs(%s::jsonb)", json.dumps(expected))


def may_join(who: Engine, topic: str) -> bool:
    """Return whether the access policies let the caller read Realtime messages of a topic."""
    # The engine sends messages only to topics that someone follows. The caller's right to read a
    # topic does not depend on followers, so this function inserts a message itself.
    who.database.run(
        "insert into realtime.messages (topic, extension, event, payload, private)"
        " values (%s, 'broadcast', 'e', '{}', true)",
        topic,
    )
    who.run("select set_config('realtime.topic', %s, false)", topic)
    with suppress(psycopg.errors.InsufficientPrivilege):  # the role may not use the schema
        return bool(who.rows("select 1 from realtime.messages where topic = %s", topic))
    return False
