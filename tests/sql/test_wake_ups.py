"""Workers that listen hear of new jobs at the commit, and no enqueue waits for another's."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.engine import ACME, Engine

FREEZE = """
create or replace function queue.clock() returns timestamptz
language sql volatile parallel safe set search_path = ''
as $$ select timestamptz '2026-11-21 12:00:00+00' + interval '{ms} milliseconds' $$
"""


def heard(engine: Engine) -> int:
    """How many notifications have come since the last look."""
    # a commit signals the sessions that listen before it answers, and each sends its notifications
    # with its next answer: nothing is waited for
    engine.run("select")
    return len(list(engine.connection.notifies(timeout=0)))


def listening(engine: Engine) -> None:
    """Listen as a worker's host does, with the clock standing still."""
    engine.run(FREEZE.format(ms=0))
    engine.run("listen minutehand_wakeup")


def test_one_notification_covers_all_commits_of_20_milliseconds(engine: Engine) -> None:
    """A commit that notifies holds a lock of the whole server; a storm must not queue for it."""
    listening(engine)

    with engine.beside() as other:
        for _ in range(5):
            other.enqueue()
        other.enqueue_many(5)
        other.run("insert into public.jobs (workspace_id, job_type) values (%s, 'work')", ACME)
        assert heard(engine) == 1
        engine.run(FREEZE.format(ms=19))
        other.enqueue()
        assert heard(engine) == 0
        engine.run(FREEZE.format(ms=20))
        other.enqueue()
        assert heard(engine) == 1


def test_a_long_transaction_notifies_when_it_commits(engine: Engine) -> None:
    """What another's notification stood for was long over by then."""
    listening(engine)

    with engine.beside() as late, engine.beside() as other:
        other.enqueue()
        late.run("begin")
        late.enqueue()
        assert heard(engine) == 1
        engine.run(FREEZE.format(ms=500))
        late.run("commit")

        assert heard(engine) == 1


def test_what_is_rolled_back_stops_no_other_message(engine: Engine) -> None:
    """It never came to its commit, and nothing was noted in its name."""
    listening(engine)

    with engine.beside() as late, engine.beside() as other:
        late.run("begin")
        late.enqueue()
        late.run("rollback")
        other.enqueue()

        assert heard(engine) == 1


def test_an_enqueue_waits_for_no_open_one(engine: Engine) -> None:
    """Same tenant, type and partition, beside transactions that have enqueued in every way."""
    engine.enqueue()
    engine.lease(0)  # the partition is open
    with engine.beside() as one, engine.beside() as many, engine.beside() as plain:
        for session in (one, many, plain):
            session.run("begin")
        one.enqueue()
        many.enqueue_many(3)
        plain.run("insert into public.jobs (workspace_id, job_type) values (%s, 'work')", ACME)
        engine.run("set lock_timeout = '1ms'")

        engine.enqueue()
        engine.enqueue_many(2)
        assert len(engine.lease(10)) == 4

        for session in (one, many, plain):
            session.run("commit")
    engine.run("reset lock_timeout")
    assert len(engine.lease(10)) == 5


def test_a_run_with_room_is_trusted_to_look_and_no_other_is(engine: Engine) -> None:
    """Else a job waits for the next minute, or each enqueue starts a worker for nothing."""
    engine.stop_clock()
    run: dict[str, Any] = {"tick_id": str(uuid.uuid4()), "worker_id": "w1"}

    def now() -> str:
        return str(engine.one("select queue.clock() + interval '1 second'").isoformat())

    def wakes(**options: Any) -> bool:
        call = {"p_workspace_id": ACME, "p_job_type": "work", "p_options": options}
        engine.advance(1)
        return bool(engine.rpc("enqueue_job", **call)["wake"])

    assert not wakes(delay_seconds=60)
    assert not wakes(delay_seconds=60, unique={"key": "k"})
    engine.lease(1, **run, free_slots=1)
    assert not wakes()
    engine.advance(1)
    assert wakes()  # that run has not looked for two seconds
    engine.lease(1, **run, call=2, free_slots=0)
    assert wakes(scheduled_for=now())
    assert not wakes()  # one is called already
    assert wakes()
    engine.lease(1, **run, call=3, free_slots=1)
    engine.rpc("tick_finished", p_request=run)
    assert wakes()
    run["tick_id"] = str(uuid.uuid4())
    engine.lease(1, **run, free_slots=1)
    engine.advance(3600)
    engine.lease(1, **run, call=2, free_slots=1)
    assert wakes()  # no run lasts that long


def test_what_a_person_does_is_notified_too(engine: Engine) -> None:
    """A job continues at once, and not at the next minute."""
    job_id = engine.enqueue()
    wait = {"kind": "ask", "name": "q", "question": "?"}
    engine.settle(engine.lease_one(), "waiting", wait=wait)
    failed = engine.enqueue()
    engine.settle(engine.lease_one(), "failed")
    later = engine.enqueue(delay_seconds=60)
    resumed = {"kind": "queue", "name": "default", "paused": False}
    listening(engine)

    calls: list[tuple[str, dict[str, Any]]] = [
        ("answer_job", {"p_job_id": job_id, "p_answer": {"answer": 1}}),
        ("emit_event", {"p_workspace_id": ACME, "p_name": "e"}),
        ("retry_job", {"p_job_id": failed}),
        ("retry_job", {"p_job_id": later}),
        ("pause_jobs", {"p_request": resumed}),
    ]
    for ms, (call, given) in enumerate(calls):
        engine.run(FREEZE.format(ms=20 * ms))
        engine.rpc(call, **given)
        assert heard(engine) == 1, call
