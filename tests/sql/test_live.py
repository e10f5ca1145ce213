"""Messages to Realtime are few and stay within the plan's rate.

A server process is notified of the events that it streams.
"""

from operator import itemgetter
from typing import Any

from tests.contract.observed import messages, sent_on
from tests.support.engine import ACME, Engine, handle


def test_a_statement_is_one_message_or_as_few_as_its_size_allows(engine: Engine) -> None:
    """One statement that changes 1,000 jobs sends one message, or several if it exceeds 256 kB.

    Hosted Realtime rejects larger messages.
    """
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
    """Each event of a busy workspace is in one Realtime message.

    This includes events whose transaction commits late. There are fewer messages than events.
    """
    announce = "select queue.do_announcements(queue.clock(), null)"
    engine.stop_clock()
    with engine.open_transaction() as slow:
        for _ in range(20):
            slow.enqueue()
        for _ in range(20):
            engine.enqueue()
            engine.complete(engine.lease())
        engine.maintain()
        early = events_sent(engine)
        engine.enqueue_many(2)
        first, second = engine.lease()
        with engine.connection.transaction(), engine.another_session() as other:
            engine.settle(first)
            engine.run(announce)
            other.enqueue()
            engine.run(announce)
    engine.complete([second, *engine.lease(100)])
    engine.run(announce)
    assert len(messages(engine)) < 60
    # the rows of one statement have the same number
    engine.run(
        "insert into queue.feed (number, at, workspace_id, type, data, job_ids, seqs, unsent,"
        " leased_ids, leased_seqs, leased_data)"
        " select pg_snapshot_xmax(pg_current_snapshot())::text::bigint, queue.clock(), %s,"
        " 'job.completed', '{}', array[n.id], '{1}', true, array[n.id], '{2}', '{}'"
        " from (select queue.new_id() as id from generate_series(1, 6000)) as n",
        ACME,
    )
    with engine.connection.transaction():
        engine.enqueue()
        engine.run(announce)
    for _ in range(3):
        engine.run(announce)

    events = engine.rows("select job_id::text, seq from job_events")
    sent = events_sent(engine)
    inserted = [each for each in sent if each not in events]
    sent = [each for each in sent if each in events]
    assert sorted(sent) == sorted(events)
    assert len(early) < len(sent) == 130
    by_job = sorted(inserted, key=itemgetter(0))  # a stable sort keeps the order of sending
    assert [seq for _, seq in by_job] == [1, 2] * 6000


def test_where_realtime_rejects_messages_no_job_fails_and_a_late_topic_stays(
    engine: Engine,
) -> None:
    """If Realtime rejects messages, enqueues and leases still succeed.

    `queue_health` returns the reason. Later, followers get the events, and a message to read again.
    """
    engine.stop_clock()  # the publisher sends no events that are older than two seconds
    engine.run(
        "insert into queue.late_topics (topic, workspace_id, since)"
        " values ('workspace:' || %s, %s, queue.clock())",
        ACME,
        ACME,
    )
    engine.run("alter table realtime.messages rename column payload to away")
    try:
        engine.enqueue()
        assert len(engine.lease(1)) == 1
        engine.maintain()
    finally:
        engine.run("alter table realtime.messages rename column away to payload")
    causes = [each["cause"] for each in engine.rpc("queue_health")["findings"]]
    assert any("the task announcements fails: column" in str(cause) for cause in causes)
    engine.run("select queue.do_announcements(queue.clock(), null)")
    sent = [event.get("type") for event in sent_on(engine, f"workspace:{ACME}")]
    assert sent == ["job.created", "job.leased", None]
    assert engine.rows("select from realtime.messages where event = 'job.look_again'") != []


def test_a_publisher_that_sends_nothing_also_runs_ten_times_a_second(engine: Engine) -> None:
    now = "(date_part('epoch', clock_timestamp()) * 10)::bigint"
    left = engine.one(f"select setval('queue.unsent_at', {now})")
    engine.run("select queue.send_unsent()")
    assert engine.one("select pg_sequence_last_value('queue.published_at')") >= left


def test_a_server_is_notified_of_what_it_streams_alone(engine: Engine) -> None:
    """A server process that registers topics is notified of their events for a minute.

    It gets no other notifications.
    """
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


def test_of_a_persons_many_topics_the_latest_are_followed(engine: Engine, ada: Engine) -> None:
    """A person who follows 101 topics gets messages for the latest but not for the oldest."""
    job_ids = engine.enqueue_many(101)
    for job_id in job_ids:
        ada.follow(f"job:{job_id}")

    engine.complete(engine.lease(200))

    assert messages(engine, f"job:{job_ids[0]}") == []
    # There is one message, or two if a new second begins.
    assert messages(engine, f"job:{job_ids[-1]}") != []
