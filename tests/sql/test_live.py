"""Messages to Realtime are few and within the plan's rate, and everything else is announced."""

from __future__ import annotations

import uuid
from typing import Any

from tests.contract.observed import complete, messages, sent_on
from tests.support.engine import ADA, Engine, handle


def test_a_statement_is_one_message_or_as_few_as_its_size_allows(engine: Engine) -> None:
    """A bulk would exceed a plan's rate ten times. Hosted Realtime accepts 256 kB per message."""
    engine.run("set statement_timeout = '60s'")
    engine.enqueue_many(1000)
    assert len(messages(engine, "workspace:%")) == 1
    items = [{**handle(lease), "outcome": "failed"} for lease in engine.lease(1000)]
    for number, item in enumerate(items):
        item["error"] = {"type": "E", "message": f"{number} {'m' * 900}"}
    engine.settle_all(items)

    assert engine.one("select max(octet_length(payload::text)) from realtime.messages") < 256_000
    job_ids = engine.rows(
        "select distinct jsonb_path_query(payload, '$.groups[*].job_ids[*]') #>> '{}'"
        " from realtime.messages"
    )
    assert len(job_ids) == 1000


def events_sent(engine: Engine) -> list[tuple[str, int]]:
    return [(event["job_id"], event["seq"]) for event in sent_on(engine, "workspace:%")]


def test_the_lives_of_jobs_in_a_busy_workspace_are_few_messages(engine: Engine) -> None:
    """Each event is in one of them, also if its transaction commits late."""
    with engine.open_transaction() as slow:
        for _ in range(20):
            slow.enqueue()
        for _ in range(20):
            engine.enqueue()
            complete(engine, engine.lease())
        engine.maintain()
        early = events_sent(engine)
        slow.run("commit")
    complete(engine, engine.lease(100))
    engine.advance(1)
    engine.maintain()

    events = engine.rows("select job_id::text, seq from public.job_events")
    assert (
        len(early) < len(events_sent(engine)) == len(set(events_sent(engine))) == len(events) == 120
    )
    assert set(events_sent(engine)) == set(events)
    assert len(messages(engine)) < 60


def test_a_server_is_notified_of_what_it_streams_alone(engine: Engine) -> None:
    """It is notified for a minute, unless it asks again. Without streams, no commit notifies."""
    notified: list[str] = []

    def work(**options: Any) -> str:
        job_id = engine.enqueue(**options)
        engine.settle(engine.lease_one())
        return job_id

    with engine.database.connect() as server:
        server.add_notify_handler(lambda notify: notified.append(notify.payload))
        server.execute("listen minutehand_events")
        work(session_id="s")
        engine.rpc("stream_topics", p_topics=["session:s", "session:t"])
        work()
        server.execute("select")
        assert notified == []
        work(session_id="s")
        server.execute("select")
        assert notified == ["session:s"] * 3
        engine.run("update queue.streamed_topics set expires_at = clock_timestamp()")
        work(session_id="s")
        server.execute("select")
    assert len(notified) == 3


def test_of_a_persons_many_topics_the_latest_are_followed(engine: Engine) -> None:
    """Closed pages count for a while, and must not prevent messages to the next page."""
    job_ids = engine.enqueue_many(101)
    with engine.member(ADA) as ada:
        for job_id in job_ids:
            ada.rpc("follow_topic", p_topic=f"job:{job_id}", p_follower_id=uuid.uuid4())

    complete(engine, engine.lease(200))

    assert messages(engine, f"job:{job_ids[0]}") == []
    # one message, or two if a new second begins
    assert messages(engine, f"job:{job_ids[-1]}") != []
