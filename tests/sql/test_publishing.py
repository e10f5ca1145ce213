# ruff: noqa: E501 - queries stay on one line
"""What is sent to Realtime: one message per topic and statement, and none that nobody can follow."""

from __future__ import annotations

from typing import Any

from tests.support.engine import ACME, Engine


def messages(engine: Engine, topic: str = "%") -> list[tuple[str, str, Any]]:
    """Topic, event and payload of each message, in the order of sending."""
    return engine.rows(
        "select topic, event, payload from realtime.messages where topic like %s order by id", topic
    )


def events_of(payload: Any) -> list[Any]:
    """The events of a message, as clients read it."""
    return payload.get("events", [payload])


def told(engine: Engine, topic: str) -> list[tuple[str, int]]:
    """Job and number of every event that was sent to a topic."""
    return [
        (event["job_id"], event["seq"])
        for _, _, payload in messages(engine, topic)
        for event in events_of(payload)
    ]


def test_a_job_costs_five_messages_over_its_life(engine: Engine) -> None:
    """The plan's quota is counted in messages; nobody can follow a job before its id is known."""
    engine.enqueue()
    engine.settle(engine.lease_one())

    sent = [(topic.partition(":")[0], event) for topic, event, _ in messages(engine)]
    assert sent == [
        ("workspace", "job.created"),
        ("job", "job.leased"),
        ("workspace", "job.leased"),
        ("job", "job.completed"),
        ("workspace", "job.completed"),
    ]


def test_a_bulk_is_told_in_few_messages(engine: Engine) -> None:
    """A thousand jobs at once would use up a plan's second ten times over."""
    items = [{"job_type": "work", "payload": {"n": n}} for n in range(500)]
    made = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)

    sent = messages(engine)
    assert {event for _, event, _ in sent} == {"job.events"}
    assert len(sent) <= 0.02 * len(items)
    assert len(made["jobs"]) == 500
    log = engine.rows("select job_id::text, seq from public.job_events order by job_id, seq")
    assert told(engine, f"workspace:{ACME}") == log


def test_a_single_event_keeps_its_own_form(engine: Engine) -> None:
    """What listens for a type by the broadcast's name goes on working."""
    job_id = engine.enqueue()

    [(topic, event, payload)] = messages(engine)
    assert (topic, event) == (f"workspace:{ACME}", "job.created")
    assert set(payload) == {"job_id", "seq", "type", "data", "at"}
    assert (payload["job_id"], payload["seq"]) == (str(job_id), 1)


def test_ten_thousand_events_of_a_statement_arrive_whole_and_in_order(engine: Engine) -> None:
    """Each message stays below what the smallest plan takes, and none is missing between two."""
    job_id = engine.enqueue()
    engine.run("delete from realtime.messages")
    engine.run(
        "insert into public.job_events (job_id, seq, workspace_id, type, data, created_at)"
        " select %s, n + 1, %s, 'job.log', jsonb_build_object('message', repeat('x', 100 + n %% 50)), now()"
        " from generate_series(1, 10000) as n",
        job_id,
        ACME,
    )

    engine.run("update public.jobs set last_seq = 10001 where id = %s", job_id)

    sent = messages(engine)
    assert told(engine, f"job:{job_id}") == [(str(job_id), n + 1) for n in range(1, 10_001)]
    assert 1 < len(sent) < 100
    largest = engine.one("select max(octet_length(payload::text)) from realtime.messages")
    assert largest < 256_000
