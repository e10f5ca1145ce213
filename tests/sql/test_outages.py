# ruff: noqa: E501 - queries and requests stay on one line
"""What has once stopped or slowed down everyone: each case, and that it costs what it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.engine import ACME, GLOBEX, Engine, handle

READ = """
select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint
from pg_stat_xact_user_tables where schemaname in ('public', 'queue')
"""


def rows_read(engine: Engine, action: Callable[[], Any]) -> int:
    """Rows of our tables that `action` reads, whichever way."""
    with engine.connection.transaction():
        before = engine.one(READ)
        action()
        return int(engine.one(READ) - before)


def maintain_all(engine: Engine, most: int = 200) -> int:
    """Call maintenance for as long as it asks for another call; return how many calls it took."""
    for call in range(1, most):
        if not engine.rpc("run_maintenance", p_request={"budget_ms": 5000})["more"]:
            return call
    raise AssertionError("maintenance never ends")


# --- retention ---


def test_retention_of_one_type_costs_nothing_for_10000_empty_workspaces(engine: Engine) -> None:
    """One set-based statement over what is due, whoever owns it."""
    engine.run(
        "insert into public.workspaces (id, name)"
        " select md5(n::text)::uuid, 'T' from generate_series(1, 10000) as n"
    )
    engine.register("brief")
    engine.run(
        "update queue.job_types set retention_days = %s where job_type = 'brief'",
        '{"completed": 7}',
    )
    engine.enqueue_many(20, job_type="brief")
    engine.enqueue_many(20)
    engine.run_all()
    engine.advance(8 * 86400)

    due = "select queue.due_removals(2000, queue.clock())"
    assert rows_read(engine, lambda: engine.run(due)) <= 200
    assert engine.maintain()["retention"] == 20


def test_a_job_with_more_rows_than_a_call_carries_goes_row_by_row(engine: Engine) -> None:
    """However much one job has written, no call takes more of it than its measure."""
    engine.enqueue()
    engine.run_all()
    engine.run(
        "insert into public.job_logs (job_id, workspace_id, attempt, message)"
        " select id, workspace_id, 1, 'm' from public.jobs, generate_series(1, 120000)"
    )
    engine.advance(31 * 86400)

    left = []
    for _ in range(3):
        assert engine.maintain()["retention"] == 1
        left.append(engine.one("select count(*) from public.job_logs"))

    assert left == [70000, 20000, 0]
    assert engine.one("select count(*) from public.jobs") == 0


def test_3000_talkative_jobs_due_together_are_removed_in_several_calls(engine: Engine) -> None:
    """A call ends at about 50,000 rows, however many jobs are due at once."""
    engine.enqueue_many(3000)
    engine.run_all()
    engine.run(
        "insert into public.job_logs (job_id, workspace_id, attempt, message)"
        " select id, workspace_id, 1, 'm' from public.jobs, generate_series(1, 40)"
    )
    engine.advance(31 * 86400)

    removed = []
    while (count := engine.one("select count(*) from public.jobs")) > 0:
        engine.maintain()
        removed.append(count - engine.one("select count(*) from public.jobs"))

    assert len(removed) >= 3
    assert all(0 < jobs <= 50_000 / 40 for jobs in removed)


def test_retention_never_removes_a_job_that_lives_again(engine: Engine) -> None:
    """Somebody retries it between its being chosen and its being removed."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "failed", error={"type": "E", "message": "m"})
    engine.advance(91 * 86400)
    chosen = engine.one("select queue.due_removals(10, queue.clock())")
    engine.rpc("retry_job", p_job_id=job_id)

    assert [str(one) for one in chosen] == [job_id]
    assert engine.one("select queue.remove_jobs(%s::uuid[], queue.clock())", chosen) == 0
    assert engine.status(job_id) == "pending"


# --- events, schedules ---


def test_an_event_of_200_kb_is_stored_once_for_300_jobs(engine: Engine) -> None:
    """Each job's step refers to it; each reads it whole."""
    engine.enqueue_many(300)
    engine.settle_all(
        [
            {**handle(lease), "outcome": "waiting", "wait": {"kind": "event", "name": "w", "event": "e"}}
            for lease in engine.lease(300)
        ]
    )  # fmt: skip
    payload = {"text": "".join(chr(97 + n % 26) for n in range(200_000))}
    engine.rpc("emit_event", p_workspace_id=ACME, p_name="e", p_payload=payload)

    read = rows_read(engine, lambda: maintain_all(engine))
    leases = engine.lease(300, call=2)

    assert len(leases) == 300
    assert read <= 40 * 300
    assert engine.one("select sum(bytes) from queue.steps") < 1000 * 10
    assert {lease["steps"] is None for lease in leases} == {True}
    page = engine.rpc("read_steps", p_request=handle(leases[0]))
    assert page["next"] is None
    assert [(line["name"], line["value"]) for line in page["lines"]] == [("w", {"event": payload})]


def test_an_event_is_kept_for_as_long_as_a_job_has_it(engine: Engine) -> None:
    """Thirty days, or until the last job that got it is gone."""
    engine.enqueue()
    wait = {"kind": "event", "name": "w", "event": "e"}
    engine.settle(engine.lease_one(), "waiting", wait=wait)
    engine.rpc("emit_event", p_workspace_id=ACME, p_name="e", p_payload={"n": 1})
    lease = engine.lease_one(lease_seconds=43200)
    engine.rpc("emit_event", p_workspace_id=ACME, p_name="other", p_payload={})
    engine.run("update queue.named_events set emitted_at = emitted_at - interval '40 days'")
    engine.run("select queue.prune(100, queue.clock())")

    assert engine.rows("select name from queue.named_events") == ["e"]
    engine.settle(lease, "retry", error={"type": "E", "message": "m"}, delay_seconds=0)
    engine.advance(100)
    assert engine.lease_one()["steps"] == {"w": {"event": {"n": 1}}}


# --- dependencies ---


# --- crowds ---


def test_a_crowd_due_at_one_instant_does_not_keep_anothers_job_waiting(engine: Engine) -> None:
    """30,000 of one tenant, and one of another's that is due last."""
    engine.run(
        "insert into public.jobs (workspace_id, job_type, scheduled_for)"
        " select %s, 'work', now() + interval '60 seconds' from generate_series(1, 30000)",
        ACME,
    )
    other = engine.enqueue(workspace=GLOBEX, delay_seconds=61)
    engine.advance(62)

    assert engine.rpc("run_maintenance", p_request={"budget_ms": 5000})["more"]

    ready = engine.rows("select job_id::text from queue.ready where workspace_id = %s", GLOBEX)
    assert ready == [other]


# --- results ---


def test_a_child_that_runs_again_is_waited_for(engine: Engine) -> None:
    """A person retries one dead letter while the others still run."""
    engine.enqueue()
    parent = engine.lease_one()
    bad, good = engine.spawn(parent, "s", [{"job_type": "work"}] * 2)
    wait = {"kind": "children", "name": "all", "job_ids": [bad, good]}
    engine.settle(parent, "waiting", wait=wait)
    leases = {lease["job"]["id"]: lease for lease in engine.lease()}
    engine.settle(leases[bad], "failed", error={"type": "E", "message": "m"})
    engine.maintain()
    engine.rpc("retry_job", p_job_id=bad)
    engine.settle(leases[good])

    [again] = engine.lease()
    assert again["job"]["id"] == bad
    engine.settle(again, result=7)
    gathered = engine.lease_one()["steps"]["all"]["children"]
    assert [child["status"] for child in gathered] == ["completed", "completed"]
    assert gathered[0]["result"] == 7


def test_two_first_leases_of_one_key_do_not_wait_for_each_other(engine: Engine) -> None:
    """Each would make the row to lock for it; where there are many keys they met in a circle."""
    engine.register("work", key_concurrency=1)
    for key in "abc":
        engine.enqueue_many(2, concurrency_key=key)
    engine.lease_call(0)
    with engine.beside() as other, other.connection.transaction():
        assert len(other.lease(3, call=2)) == 3
        engine.run("set statement_timeout = '20s'")
        answer = engine.lease_call(3, call=2)
        assert (answer["leases"], answer["next_due_in_ms"]) == ([], 0)


@pytest.mark.parametrize("tenants", [1, 10_000])
def test_a_removed_job_costs_the_same_among_10000_tenants(engine: Engine, tenants: int) -> None:
    """Retention goes by age; what it touches is the jobs' own rows."""
    engine.run(
        "insert into public.workspaces (id, name)"
        " select md5(n::text)::uuid, 'T' from generate_series(1, %s) as n",
        tenants,
    )
    engine.run(
        "insert into public.jobs (workspace_id, job_type)"
        " select md5((n %% %s + 1)::text)::uuid, 'work' from generate_series(1, 2000) as n",
        tenants,
    )
    engine.run(
        "select queue.cancel(array(select id from public.jobs), queue.clock())",
    )
    engine.run("update queue.maintenance_tasks set done_at = 'infinity' where name <> 'retention'")
    engine.advance(31 * 86400)
    engine.run("vacuum analyze")

    blocks = engine.blocks("select public.run_maintenance(jsonb_build_object('budget_ms', 5000))")

    assert engine.one("select count(*) from public.jobs") == 0
    assert blocks <= 70 * 2000
