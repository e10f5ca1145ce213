"""The events of a job are numbered from 1 without a gap.

A client that reads all events up to n, and then listens, misses none.
"""

import uuid
from functools import partial
from typing import Any

import pytest

from tests.contract.observed import ask, later, messages, refused, sent_on, started
from tests.support.engine import ACME, ADA, ERROR, GLOBEX, Engine, Json, handle, ids_of

Seen = list[tuple[str, int]]


def read(engine: Engine, cursor: str | None) -> tuple[Seen, str]:
    given: Seen = []
    while True:
        page = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor)
        given += [(event["job_id"], event["seq"]) for event in page["events"]]
        cursor = page["cursor"]
        if not page["more"]:
            return given, str(cursor)


def test_a_life_is_logged_without_a_gap(engine: Engine) -> None:
    """A job logs one event for each change, in order. Its progress is at most 100 percent.

    The fixture also checks that the events' numbers have no gap.
    """
    engine.stop_clock()
    job_id, lease = engine.start()
    log = {"level": "info", "message": "x"}
    engine.report(lease, progress={"percentage": 105, "stage": "s"}, logs=[log, log])
    engine.settle(lease, "retry", error=ERROR, retry_after_seconds=0)
    engine.suspend(engine.lease_one(), **ask())
    engine.rpc("answer_job", p_job_id=job_id, p_answer={"answer": 1})
    engine.lease_one()
    engine.advance(61)
    lease = engine.lease_one()
    engine.cancel(job_id)
    engine.settle(lease, "cancelled")
    engine.retry(job_id)
    engine.settle(engine.lease_one(), result={"n": 1})

    life = (
        "created leased log log progress retried leased waiting resumed leased reclaimed leased"
        " cancel_requested cancelled redriven leased completed"
    )
    assert [kind.removeprefix("job.") for kind in engine.events(job_id)] == life.split()
    query = "select type, data from job_events where job_id = %s order by seq"
    data = dict(engine.rows(query, job_id))
    assert data["job.progress"]["progress"]["percentage"] == 100
    assert (data["job.completed"]["status"], data["job.completed"]["attempts"]) == ("completed", 1)


def test_a_line_of_thousands_of_jobs_is_read_to_its_end(engine: Engine) -> None:
    """One statement creates 2,600 jobs.

    A reader of the workspace's events gets all their events, and then the event of the next job.
    """
    made = "select %s, 'work' from generate_series(1, 2600)"
    engine.run(f"insert into jobs (workspace_id, job_type) {made}", ACME)
    last = engine.enqueue()

    seen, _ = read(engine, "1:1:")
    assert (len(seen), seen[-1][0]) == (2601, last)


def test_a_call_that_settles_and_leases_writes_one_feed_row(engine: Engine, ada: Engine) -> None:
    """Readers of any page size get the completions of the call, and then its leases.

    Followers get the same events.
    """
    session = str(uuid.uuid4())
    engine.enqueue_many(2, session_id=session)
    leases = engine.lease()
    engine.enqueue_many(3, session_id=session)
    _, cursor = read(engine, None)
    rows = engine.count("queue.feed")
    engine.run("delete from realtime.messages")

    leased = engine.complete_and_lease(leases)

    assert engine.count("queue.feed") == rows + 1
    ended = {"type": "job.completed", "seq": 3, "data": {"status": "completed", "attempts": 1}}
    began = {"status": "processing", "attempts": 1, "worker_id": "w1"}
    events = [ended | {"job_id": job} for job in ids_of(leases)]
    events += [
        {"type": "job.leased", "seq": 2, "data": began, "job_id": job} for job in ids_of(leased)
    ]
    assert sent_on(engine, f"workspace:{ACME}") == events
    readers = {"event_feed": {"p_workspace_id": ACME}, "session_feed": {"p_session_id": session}}
    for function, scope in readers.items():
        for limit in (1, 2, 500):
            page: Json = {"cursor": cursor, "more": True}
            found: list[Json] = []
            while page["more"]:
                page = ada.rpc(function, **scope, p_cursor=page["cursor"], p_limit=limit)
                found += page["events"]
            assert [{name: each[name] for name in events[0]} for each in found] == events
        for number, place in enumerate(page["places"], 1):
            page = ada.rpc(function, **scope, p_cursor=place)
            assert page["events"] == found[number:]

    other = engine.enqueue(session_id=str(uuid.uuid4()))
    engine.complete_and_lease(leased)
    page = ada.rpc("session_feed", p_session_id=session)
    assert other not in {event["job_id"] for event in page["events"]}


def test_a_minimal_type_logs_its_ends_alone(engine: Engine) -> None:
    engine.register("quiet", events="minimal")
    job_id = engine.enqueue(job_type="quiet")
    engine.settle(engine.lease_one(), logs=[{"level": "info", "message": "kept as a line"}])

    assert engine.events(job_id) == ["job.completed"]
    assert engine.count("job_logs") == 1


def test_what_commits_late_is_read_late_and_not_lost(engine: Engine) -> None:
    """A reader of a workspace's events gets the event of a transaction that commits late.

    An event of a rolled-back transaction is never read.
    """
    _, cursor = read(engine, None)
    with engine.open_transaction() as slow, engine.open_transaction() as doomed:
        early = slow.enqueue()  # this transaction begins first and commits last
        doomed.enqueue()
        quick = engine.enqueue()
        first, cursor = read(engine, cursor)
        slow.run("commit")
        doomed.run("rollback")
        second, cursor = read(engine, cursor)

    assert (first, second) == ([(quick, 1)], [(early, 1)])
    assert read(engine, cursor)[0] == []


def test_a_followers_messages_are_the_log(engine: Engine, ada: Engine) -> None:
    """A person who follows a job, a workspace or a session gets its logged events in order.

    The messages contain no event of another tenant.
    """
    session = str(uuid.uuid4())
    jobs = [engine.enqueue(session_id=session), engine.enqueue(workspace=GLOBEX)]
    topics = [f"job:{jobs[0]}", f"workspace:{ACME}", f"session:{session}"]
    for topic in topics:
        ada.follow(topic)
    engine.run("delete from realtime.messages")
    leases = engine.lease(2)
    log = {"level": "info", "message": "for members"}
    news = {"progress": {"percentage": 5}, "logs": [log]}
    engine.report_all([{**handle(lease), **news} for lease in leases])
    engine.report(leases[0], logs=[log])
    engine.complete(leases)

    logged = engine.rows(
        "select jsonb_build_object('job_id', job_id, 'seq', seq, 'type', type, 'data', data)"
        " from job_events where job_id = %s and seq > 1 order by seq",
        jobs[0],
    )
    for topic, hidden in zip(topics, ([], ["job.progress", "job.log"], ["job.log"]), strict=True):
        assert sent_on(engine, topic) == [each for each in logged if each["type"] not in hidden]
    assert len(messages(engine, topics[0])) == 4
    assert {event["job_id"] for event in sent_on(engine, f"workspace:{GLOBEX}")} <= {jobs[1]}


def wait(engine: Engine, **wait_: Any) -> str:
    lease = started(engine)
    assert engine.settle(lease, "waiting", wait=wait_)["status"] == "waiting"
    return lease["job"]["id"]


def test_a_sleeper_continues_when_its_time_has_come(engine: Engine) -> None:
    engine.stop_clock()
    job_id = wait(engine, kind="sleep", name="nap", until=later(engine, 60))
    answer = engine.lease_call()
    assert (answer["leases"], answer["next_due_in_ms"]) == ([], 60_000)
    engine.advance(60)

    lease = engine.lease_one()
    assert (lease["job"]["attempts"], lease["steps"]) == (1, {"nap": {"slept": True}})
    assert engine.events(job_id)[-3:] == ["job.waiting", "job.resumed", "job.leased"]


@pytest.mark.parametrize("length", ["soon", "NaN", 1e30, {}])
def test_a_length_that_is_none_fails_its_job(engine: Engine, length: Any) -> None:
    lease = started(engine)

    engine.suspend(lease, kind="sleep", delay_seconds=length)

    job = engine.job(lease["job"]["id"])
    assert (job["status"], job["error_data"]["type"]) == ("failed", "InvalidWait")


def test_a_question_is_answered_once_by_one_of_its_options(engine: Engine, ada: Engine) -> None:
    """A job's question accepts one answer, which must be one of its options.

    After the question's timeout, the job gets the default answer.
    """
    job_id = wait(engine, **ask("go", options=["yes", "no"]))
    call = partial(engine.rpc, "answer_job", p_job_id=job_id)
    for response, hint in (
        ({"answer": "maybe"}, "payload_invalid"),
        ({"ansver": "yes"}, "invalid_argument"),
        ({"answer": "yes", "name": "before"}, "invalid_state"),
        ({"answer": "x" * 262_144}, "payload_too_large"),
    ):
        assert refused(call, p_answer=response)[1] == hint
    good = {"answer": "yes", "name": "go"}
    assert ada.rpc("answer_job", p_job_id=job_id, p_answer=good)["status"] == "pending"
    assert refused(call, p_answer=good)[:2] == ("PT409", "invalid_state")
    lease = engine.lease_one()
    assert lease["steps"]["go"] == {"answer": "yes", "by": ADA}

    late = ask("late", default="no", timeout_at=later(engine, 60))
    engine.settle(lease, "waiting", wait=late)
    engine.advance(61)
    assert engine.lease_one()["steps"]["late"] == {"answer": "no", "timed_out": True}


@pytest.mark.parametrize("first", ["event", "wait"])
def test_an_event_is_received_before_or_after_the_wait(engine: Engine, first: str) -> None:
    """A job that waits for a named event gets the first event of that name in its workspace.

    The event may be emitted before or after the wait begins.
    """

    def emit(value: int, workspace: str = ACME) -> Any:
        payload = {"n": value}
        return engine.rpc("emit_event", p_workspace_id=workspace, p_name="paid", p_payload=payload)

    emit(0, GLOBEX)
    if first == "event":
        assert emit(1) == {"first": True}
    wait(engine, kind="event", name="payment", event="paid")
    if first == "wait":
        assert engine.lease() == []
        emit(1)
    assert emit(2) == {"first": False}

    assert engine.lease_one()["steps"]["payment"] == {"event": {"n": 1}}


def test_an_event_of_a_locked_job_is_kept(engine: Engine) -> None:
    """A job that another transaction has locked continues with its event when it is free."""
    job_id = wait(engine, kind="event", name="w", event="held")
    with engine.open_transaction("select from jobs where id = %s for update", job_id):
        engine.rpc("emit_event", p_workspace_id=ACME, p_name="held")
        assert engine.lease() == []
    engine.advance(2)
    assert engine.lease_one()["job"]["id"] == job_id


def test_children_are_gathered_in_order_with_their_fates(engine: Engine) -> None:
    """A parent job gets the results of its child jobs, also of failed ones, in spawning order.

    A repeated spawn creates no more children.
    """
    parent = started(engine)
    child = {"job_type": "work"}
    ids = engine.spawn(parent, "map", [child] * 3)
    assert engine.spawn(parent, "map", [child]) == ids
    leases = {lease["job"]["id"]: lease for lease in engine.lease()}
    engine.settle(leases[ids[2]], "completed", result=2)
    engine.suspend(parent, "all", kind="children", job_ids=ids)
    engine.settle(leases[ids[0]], "failed", error=ERROR)
    assert engine.lease() == []
    engine.settle(leases[ids[1]], "completed", result=1)

    lease = engine.lease_one()
    gathered = lease["steps"]["all"]["children"]
    assert [child["id"] for child in gathered] == ids
    assert [child["status"] for child in gathered] == ["failed", "completed", "completed"]
    assert [child["result"] for child in gathered] == [None, 1, 2]
    engine.suspend(lease, "none", kind="children", job_ids=[])
    assert (engine.lease_one()["steps"]["none"]["children"] or []) == []
