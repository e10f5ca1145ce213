"""The trace of a job: spans of attempts, steps and waits, its children's too, bounded."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, EVE, Engine, handle, refusal


def trace_of(engine: Engine, job_id: str) -> list[dict[str, Any]]:
    """The jobs of a trace, the job itself first."""
    return list(engine.rpc("job_trace", p_job_id=job_id)["jobs"])


def test_steps_know_when_they_began_and_which_runs_now(engine: Engine) -> None:
    """A worker says how long a step took; the database's clock says when that was."""
    graph = {"name": "graph", "kind": "graph", "result": {"read": []}}
    engine.enqueue()  # another job
    engine.settle(engine.lease_one(), steps=[{"name": "other", "result": 1}, graph])
    job_id = engine.enqueue()
    lease = engine.lease_one()
    engine.report(lease, steps=[{"name": "read", "result": 1, "took_ms": 1500}, graph])
    engine.report(lease, step={"name": "write", "for_ms": 250})

    [job] = trace_of(engine, job_id)
    assert job["graphs"] == [graph["result"]]

    read, write = job["steps"]
    assert (read["name"], read["kind"], write["name"], write["ended_at"]) == (
        "read",
        "step",
        "write",
        None,
    )
    assert engine.one(
        "select extract(epoch from created_at - started_at)::float from queue.steps"
        " where job_id = %s and name = 'read'",
        job_id,
    ) == pytest.approx(1.5, abs=0.001)


def test_a_step_that_ended_with_its_attempt_is_not_running(engine: Engine) -> None:
    """The next lease has another fence: what an earlier run was in is over."""
    job_id = engine.enqueue()
    lease = engine.lease_one()
    engine.report(lease, step={"name": "write", "for_ms": 10})
    engine.settle(lease, "retry", error={"type": "X", "message": "no"}, retry_after_seconds=0)
    engine.lease_one()

    [job] = trace_of(engine, job_id)

    assert job["steps"] == []
    assert [one["outcome"] for one in job["attempts"]] == ["retry", None]


def test_a_finished_step_replaces_the_running_one(engine: Engine) -> None:
    """Reported again as finished, it is there once."""
    job_id = engine.enqueue()
    lease = engine.lease_one()
    engine.report(lease, step={"name": "write", "for_ms": 10})
    engine.report(lease, steps=[{"name": "write", "result": None, "took_ms": 30}])

    [job] = trace_of(engine, job_id)

    assert [(one["name"], one["ended_at"] is None) for one in job["steps"]] == [("write", False)]


@pytest.mark.parametrize("took", [None, "soon", -5, 1e300])
def test_a_strange_duration_does_not_refuse_the_report(engine: Engine, took: object) -> None:
    """Results matter more than how long they took."""
    job_id = engine.enqueue()
    lease = engine.lease_one()

    assert engine.report(lease, steps=[{"name": "read", "result": 1, "took_ms": took}]) == "ok"
    assert engine.step(job_id, "read") == 1


def test_waits_have_their_kind_and_span_while_they_last_and_afterwards(engine: Engine) -> None:
    """A question is asked, answered, and stays visible as a wait."""
    job_id = engine.enqueue()
    wait = {"kind": "ask", "name": "sure", "question": "Really?"}
    engine.settle(engine.lease_one(), "waiting", wait=wait)
    [asking] = trace_of(engine, job_id)[0]["steps"]
    engine.rpc("answer_job", p_job_id=job_id, p_answer={"answer": "yes"})
    [answered] = trace_of(engine, job_id)[0]["steps"]

    assert (asking["kind"], asking["question"], asking["ended_at"]) == ("ask", "Really?", None)
    assert answered["kind"] == "ask"
    assert answered["started_at"] == asking["started_at"]
    assert answered["ended_at"] is not None


def test_children_and_their_children_come_with_it(engine: Engine) -> None:
    """Each with its parent; the root has none, whatever its own parent is."""
    root = engine.enqueue()
    lease = engine.lease_one()
    [child] = engine.spawn(lease, "a", [{"job_type": "work", "payload": {}}])
    below = engine.lease_one()
    [grandchild] = engine.spawn(below, "b", [{"job_type": "work", "payload": {}}])

    found = trace_of(engine, root)
    assert [(one["id"], one["parent_id"], one["times"] is None) for one in found] == [
        (root, None, False),
        (child, root, True),
        (grandchild, child, True),
    ]
    assert [one["parent_id"] for one in trace_of(engine, child)] == [None, child]
    for _ in range(5):
        engine.spawn(engine.lease_one(), "c", [{"job_type": "work", "payload": {}}])
    assert len(trace_of(engine, root)) == 7, "six levels below it"


def test_six_levels_below_a_job_are_shown(engine: Engine) -> None:
    """However deep the rest is."""
    ids = [engine.enqueue()]
    for _ in range(7):
        ids += engine.spawn(engine.lease_one(), "a", [{"job_type": "work", "payload": {}}])

    assert [one["id"] for one in trace_of(engine, ids[0])] == ids[:7]


def test_of_very_many_children_a_part_is_shown_and_said_to_be_one(engine: Engine) -> None:
    """A page asks every other second: its answer is bounded."""
    root = engine.enqueue()
    lease = engine.lease_one()
    engine.spawn(lease, "a", [{"job_type": "work", "payload": {}}] * 299)
    assert engine.rpc("job_trace", p_job_id=root)["more"] is False
    engine.spawn(lease, "b", [{"job_type": "work", "payload": {}}])
    engine.run(
        "insert into queue.attempts"
        " (job_id, fence, attempt, worker_id, leased_at, ended_at, outcome, error_message)"
        " select %s, n, 1, 'w', queue.clock(), queue.clock(), 'retry', repeat('x', 501)"
        " from generate_series(1, 101) as n",
        root,
    )
    for table, key in (("public.jobs", "id"), ("queue.leases", "job_id")):
        engine.run(f"update {table} set fence = 102 where {key} = %s", root)
    engine.run(
        "insert into queue.steps (job_id, name, result, created_at) select %s, n, '{}',"
        " queue.clock() + n * interval '1 second' from generate_series(1, 201) as n",
        root,
    )

    trace = engine.rpc("job_trace", p_job_id=root)

    assert (len(trace["jobs"]), trace["more"]) == (300, True)
    attempts = trace["jobs"][0]["attempts"]
    assert [one["fence"] for one in attempts] == list(range(2, 103)), "the latest"
    assert len(attempts[0]["error_message"]) == 500
    steps = [step["name"] for step in trace["jobs"][0]["steps"]]
    assert steps == [str(n) for n in range(2, 202)], "the latest"


def test_a_stranger_learns_nothing(engine: Engine) -> None:
    """The same 404 as for a job that does not exist."""
    job_id = engine.enqueue(workspace=ACME)
    with engine.member(ADA) as ada:
        trace = ada.rpc("job_trace", p_job_id=job_id)
    assert (trace["jobs"][0]["id"], trace["more"]) == (job_id, False)
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as error:
        eve.rpc("job_trace", p_job_id=job_id)

    assert refusal(error.value)[:2] == ("PT404", "job_not_found")


def test_a_removed_job_leaves_no_step_behind(engine: Engine) -> None:
    """Deleting the row deletes what stands beside it."""
    job_id = engine.enqueue()
    lease = engine.lease_one()
    engine.report(lease, step={"name": "write", "for_ms": 10})
    engine.settle_all([{**handle(lease), "outcome": "completed"}])
    engine.run("delete from public.jobs where id = %s", job_id)

    assert engine.one("select count(*) from queue.running_steps") == 0
