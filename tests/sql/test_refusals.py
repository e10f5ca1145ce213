"""A project's own trigger, foreign key or open transaction affects only the job it concerns."""

import random
import re
import string
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.contract.observed import later, started
from tests.contract.test_prices import CALLS, FUNCTIONS, PAIRS, put, world
from tests.contract.test_ways_in import TABLE
from tests.support.engine import ACME, ADA, GLOBEX, Engine, Json, handle, ids_of, piece

#: A statement that drops the project's trigger, which rejects changes.
NO_TRIGGER = "drop trigger z_own on jobs"


def refuse(engine: Engine, job_id: str) -> None:
    """Create a project's trigger that rejects every change of one job."""
    body = "raise 'no change of %', old.id;"
    engine.add_trigger("before update or delete", body, f"old.id = '{job_id}'")


def refusals(engine: Engine) -> list[tuple[str, str, str]]:
    """Return the task, the job and the start of the reason of each rejected change."""
    found = engine.rpc("queue_health")["findings"]
    causes = [each["cause"] for each in found if each["reason"] == "failing_maintenance"]
    return re.findall(r"(\w+) skips job (\S+): (.{12})", str(causes))


def three_jobs(engine: Engine, task: str) -> list[str]:
    """Create three jobs that a maintenance task must change now."""
    if task == "cancel":
        parent = started(engine)
        ids = engine.spawn(parent, "s", [{"job_type": "work", "delay_seconds": 9999}] * 3)
        engine.settle(parent, "failed")
        return ids
    if task in {"due", "promotion"}:
        at = {"due": "scheduled_for", "promotion": "deadline_at"}[task]
        ids = engine.enqueue_many(3, **{at: later(engine, 5)})
    else:
        ids = engine.enqueue_many(3)
        nap = {"kind": "sleep", "name": "s", "until": later(engine, 5)}
        outcomes = {"waits": "waiting", "retention": "completed"}
        for lease in engine.lease(3):
            if task in outcomes:
                engine.settle(lease, outcomes[task], wait=nap)
    engine.advance({"reclaim": 61, "retention": 40 * 86400}.get(task, 6))
    return ids


PIECE = piece("x")


@pytest.mark.parametrize(
    "odd",
    [
        {"logs": [{"message": "m", "at": "never"}]},
        {"output": [PIECE | {"stream": ""}]},
        {"output": [PIECE | {"start": "x"}]},
        {"output": [PIECE | {"text": None, "items": 5}]},
    ],
)
def test_what_no_one_can_store_of_a_report_stops_no_other(engine: Engine, odd: Json) -> None:
    """A report with an invalid log line or output piece is stored without that part.

    Other reports of the call are stored completely.
    """
    engine.enqueue_many(2)
    first, good = engine.lease(2)
    result = [{**handle(good), "progress": {"percentage": n}, "output": [PIECE]} for n in (1, 2)]
    results = engine.report_all([{**handle(first), **odd}, *result])
    assert {each["outcome"] for each in results} == {"ok"}
    stored = {each["job_id"]: each["output"] for each in results if "output" in each}
    assert stored.pop(good["job"]["id"]) == "unfollowed"
    assert list(stored.values()) == ["refused"] * ("output" in odd)
    assert engine.events(good["job"]["id"])[2:] == ["job.progress", "job.progress"]
    assert engine.settle(first, **odd)["outcome"] == "applied"


@pytest.mark.parametrize(
    ("task", "state"),
    [
        ("reclaim", "pending"),
        ("waits", "pending"),
        ("promotion", "failed"),
        ("cancel", "cancelled"),
        ("retention", None),
    ],
)
def test_a_refused_row_holds_up_no_other(engine: Engine, task: str, state: str | None) -> None:
    """If a project's trigger rejects one job's change, maintenance changes the other jobs.

    A finding names the rejected job, which is changed after the trigger is dropped.
    """
    first, middle, last = three_jobs(engine, task)
    refuse(engine, middle)
    states = "select status from jobs where id = any (%s::uuid[])"

    engine.maintain()
    assert set(engine.rows(states, [first, last])) == {state} - {None}
    assert refusals(engine) == [(task, middle, "no change of")]

    engine.run(NO_TRIGGER)
    engine.elapse(3700)
    assert set(engine.rows(states, [first, middle, last])) == {state} - {None}
    assert refusals(engine) == []


def test_what_is_refused_is_not_due_before_it_is_tried_again(engine: Engine) -> None:
    """A job whose change was rejected does not make maintenance due before its next try."""
    refuse(engine, three_jobs(engine, "promotion")[1])
    due = "select queue.maintenance_is_due(queue.clock(), false)"

    for seconds in (0, 2):
        engine.elapse(seconds)
    engine.advance(2)
    assert not engine.one(due)

    engine.run(f"{NO_TRIGGER}; delete from jobs")
    for _ in range(2):
        engine.elapse(10)
    engine.advance(2)
    assert not engine.one(due)


def test_a_job_that_stays_refused_is_tried_less_and_less_often(engine: Engine) -> None:
    job_id = engine.enqueue()
    engine.stop_clock()
    waits = []
    for _ in range(12):
        engine.run("select queue.record_rejection('lease', %s, 'no', queue.clock())", job_id)
        [at] = engine.rows(
            "select extract(epoch from retry_at - queue.clock()) from queue.refusals"
        )
        waits.append(int(at))
    engine.run("delete from queue.refusals")

    assert waits == [min(5 * 2**n, 3600) for n in range(12)]


def test_a_due_job_needs_no_change_of_its_row(engine: Engine) -> None:
    """A project's trigger that rejects changes of a delayed job makes only its lease fail.

    The job still becomes ready at its time.
    """
    first, middle, last = three_jobs(engine, "due")
    refuse(engine, middle)
    engine.maintain()
    assert set(ids_of(engine.lease(3))) == {first, last}
    assert refusals(engine) == [("lease", middle, "no change of")]
    assert engine.lease(3) == []

    engine.run(NO_TRIGGER)
    engine.advance(6)
    assert engine.lease_one()["job"]["id"] == middle
    engine.elapse(60)
    assert refusals(engine) == []


def test_a_lease_that_lost_its_jobs_is_due_again_beside_a_rejected_job(engine: Engine) -> None:
    """A worker asks again at once for a job that another transaction has locked.

    The worker does not ask again at once for a job whose start was rejected.
    """
    refused, locked = engine.enqueue_many(2)
    engine.run("select queue.record_rejection('lease', %s, 'no', queue.clock())", refused)
    with engine.open_transaction("select from jobs where id = %s for update", locked):
        found = engine.lease_call(2)
    assert (found["leases"], found["next_due_in_ms"]) == ([], 0)

    assert ids_of(engine.lease(2)) == [locked]
    assert engine.lease_call(2)["next_due_in_ms"] != 0


def test_a_lease_tries_no_more_jobs_than_it_may_take(engine: Engine) -> None:
    """If a trigger rejects all jobs of a tenant, a lease tries no more jobs than it requests."""
    engine.enqueue_many(7)
    spared = engine.enqueue(workspace=GLOBEX)
    engine.add_trigger("before update", "raise 'no change of';", f"old.workspace_id = '{ACME}'")
    leased, calls, noted = [], 0, 0
    while (found := engine.lease_call(2))["next_due_in_ms"] == 0 or found["leases"]:
        leased += ids_of(found["leases"])
        calls += 1
        before, noted = noted, len(refusals(engine))
        assert noted - before <= 2
        assert calls < 9
    assert leased == [spared]
    assert noted == 7


@pytest.mark.parametrize(
    ("act", "outcomes"),
    [
        ("select from jobs where id = '{0}' for update", ("busy", "busy")),
        ("select cancel_job('{0}')", ("busy", "busy")),
        ("insert into outputs values ('{0}')", ("ok", "applied")),
    ],
)
def test_a_users_open_transaction_delays_its_job_alone(
    engine: Engine, act: str, outcomes: tuple[str, str]
) -> None:
    """While a user's transaction locks one job, workers report and settle the other jobs.

    A transaction that only refers to a job by a foreign key delays no call.
    """
    engine.run("create table outputs (job_id uuid references jobs (id))")
    ids = engine.enqueue_many(3)
    held, free, last = sorted(engine.lease(3), key=lambda lease: ids.index(lease["job"]["id"]))
    progress = {"progress": {"percentage": 5}, "steps": [{"name": "s", "result": 1}]}
    engine.advance(30)
    with engine.open_transaction(act.format(held["job"]["id"])) as user:
        items = [{**handle(held), **progress}, {**handle(free), **progress}, handle(last)]
        result = engine.report_all(items)
        assert [each["outcome"] for each in result] == [outcomes[0], "ok", "ok"]
        engine.advance(40)  # each lease was renewed, also that of the locked job
        engine.maintain()
        stored = engine.rows("select job_id::text from queue.steps")
        assert set(stored) == {free["job"]["id"]} | ({ids[0]} if outcomes[0] == "ok" else set())
        done = [{**handle(each), "outcome": "completed"} for each in (held, free, last)]
        ended = {each["job_id"]: each["outcome"] for each in engine.settle_all(done)}
        assert [ended[each] for each in ids] == [outcomes[1], "applied", "applied"]
        user.run("rollback")

    if outcomes[1] == "busy":
        assert engine.report(held, **progress) == "ok"
        assert engine.settle(held)["outcome"] == "applied"


def test_a_childs_key_in_an_open_transaction_holds_up_no_other_wait(engine: Engine) -> None:
    parent, sleeper = started(engine), started(engine)
    engine.spawn(parent, "s", [{"job_type": "work", "unique": {"key": "u"}}])
    engine.settle(parent, "failed")
    engine.suspend(sleeper, kind="sleep", until=later(engine, 1))
    engine.maintain()
    engine.retry(parent["job"]["id"])
    engine.advance(2)
    with engine.open_transaction() as user:
        user.enqueue(unique={"key": "u"})
        engine.maintain()
        assert engine.status(sleeper["job"]["id"]) == "pending"


def test_two_transactions_that_wait_for_each_other_end(engine: Engine) -> None:
    one, other = engine.enqueue(), engine.enqueue()
    with engine.open_transaction() as ada, engine.open_transaction() as bob:
        ada.cancel(one)
        bob.cancel(other)
        calls = [engine.blocked(ada.cancel, other), engine.blocked(bob.cancel, one)]
        assert psycopg.errors.LockNotAvailable in {type(call.exception()) for call in calls}


#: A text that is too long for an index and cannot be compressed.
LONG = "".join(random.Random(1).choices(string.ascii_letters, k=20_000))
#: Invalid values for the arguments of functions.
WRONG: list[Any] = [None, "", LONG, -1, 10**9, True, {}, [], [{}]]
OPTIONS = {"concurrency_key": "k", "unique": {"key": "k"}, "tags": ["t"], "queue": "default"}
OPTIONS |= {"idempotency_key": "k", "session_id": "s"}
#: Further arguments of functions, which are stored in an index or together with other rows' values.
STORED: dict[str, Json] = {
    "enqueue_job": {"p_options": OPTIONS},
    "plan_start": {"p_idempotency_key": "k"},
    "put_workspace_settings": {"p_changes": {"last4": "x", "sealed_key": "x"}},
    "chat_request": {"p_request": {"text": "x", "client_id": "c", "workspace_id": ACME}},
}
LEASE = {"lease_jobs": {"p_request": {"worker_id": "w", "tick_id": ACME}}}
ROLES: dict[str, Json] = {"authenticated": {"sub": ADA}, "anon": {}, "service_role": {}}


def wrong_values(value: Any) -> Iterator[Any]:
    """Yield copies of a value in which one part is replaced by an invalid value."""
    yield from WRONG
    if isinstance(value, list) and value:
        yield from ([wrong] for wrong in wrong_values(value[0]))
    for key, part in value.items() if isinstance(value, dict) else ():
        yield from ({**value, key: wrong} for wrong in wrong_values(part))


@pytest.mark.parametrize("role", ROLES)
def test_a_wrong_value_is_the_callers_mistake_and_shows_no_row(engine: Engine, role: str) -> None:
    """A call with an invalid argument fails with an error that the Data API returns as 4xx.

    The error does not contain the failing row.
    """
    engine.allow_guests()
    ids = world(engine, ROLES[role].get("sub"))
    names = engine.rows(FUNCTIONS, role) if role != "service_role" else ()
    calls = {name: {**CALLS[name], **STORED.get(name, {})} for name in names}
    calls = calls or LEASE | {name: ways.sql for name, ways in TABLE.items()}
    found = set()
    with engine.as_role(role, **ROLES[role]) as caller:
        for name, arguments in calls.items():
            for key, value in arguments.items():
                for wrong in wrong_values(value):
                    given = put({**arguments, key: wrong}, ids, "x")
                    try:
                        with caller.connection.transaction(force_rollback=True):
                            caller.rpc(name, **given)
                    except psycopg.Error as error:
                        state = str(error.sqlstate)[:2]
                        shows_row = role != "service_role" and "Failing row" in str(error)
                        if shows_row or state not in {"PT", "22", "23", "42"}:
                            found.add((name, str(error)[:99]))
            engine.run("update queue.buckets set tokens = 9999")
            engine.run(f"select setval(refilled, 1) from {PAIRS}")
    assert found == set()
