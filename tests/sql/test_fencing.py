"""Only the holder of the current fencing token changes a job; everyone else is told so."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, Engine, handle, refusal

OUTCOMES: list[tuple[str, dict[str, Any]]] = [
    ("completed", {"result": {"zombie": True}}),
    ("retry", {"error": {"type": "E", "message": "zombie"}}),
    ("failed", {"error": {"type": "E", "message": "zombie"}}),
    ("snoozed", {"delay_seconds": 5}),
    ("released", {}),
    ("waiting", {"wait": {"kind": "ask", "name": "q", "question": "?"}}),
    ("waiting", {"wait": {"kind": "event"}}),  # which fails the job
    ("cancelled", {}),
]


def lost_lease(engine: Engine) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let a lease expire and the job be leased again: the zombie's lease, and the new one."""
    engine.enqueue()
    zombie = engine.lease_one(worker="zombie")
    engine.advance(61)
    return zombie, engine.lease_one(worker="heir")


def snapshot(engine: Engine) -> Any:
    """Everything a zombie might have changed."""
    return engine.one("""
        select jsonb_build_array(
          (select jsonb_agg(to_jsonb(j)) from public.jobs j),
          (select jsonb_agg(to_jsonb(e) order by e.job_id, e.seq) from public.job_events e),
          (select jsonb_agg(to_jsonb(l)) from public.job_logs l),
          (select jsonb_agg(to_jsonb(s)) from queue.steps s),
          (select jsonb_agg(to_jsonb(l)) from queue.leases l),
          (select jsonb_agg(to_jsonb(a)) from queue.attempts a),
          (select jsonb_agg(to_jsonb(w)) from queue.waits w),
          (select count(*) from queue.ready), (select count(*) from queue.deferred),
          (select count(*) from queue.stat_deltas))""")


@pytest.mark.parametrize(("outcome", "item"), OUTCOMES)
def test_a_zombies_settle_stores_nothing(
    engine: Engine, outcome: str, item: dict[str, Any]
) -> None:
    """Exactly once to settle: the token decides, not the state."""
    zombie, heir = lost_lease(engine)
    before = snapshot(engine)

    answer = engine.settle(
        zombie,
        outcome,
        **item,
        steps=[{"name": "s", "result": 1}],
        logs=[{"level": "info", "message": "x"}],
        progress={"percentage": 99},
        tags=["zombie"],
    )

    assert answer["outcome"] == "stale"
    assert snapshot(engine) == before
    assert engine.settle(heir)["outcome"] == "applied"


def test_a_zombies_report_stores_nothing_and_says_lost(engine: Engine) -> None:
    """Its heartbeat must not renew the heir's lease either."""
    zombie, _ = lost_lease(engine)
    before = snapshot(engine)

    outcome = engine.report(
        zombie,
        progress={"percentage": 1},
        logs=[{"level": "info", "message": "x"}],
        steps=[{"name": "s", "result": 1}],
        lease_seconds=4000,
    )

    assert outcome == "lost"
    assert snapshot(engine) == before


def test_a_zombie_spawns_no_children(engine: Engine) -> None:
    """Children of a lost attempt would run twice."""
    zombie, _ = lost_lease(engine)

    with pytest.raises(psycopg.Error) as refused:
        engine.spawn(zombie, "s", [{"job_type": "work"}])

    assert refusal(refused.value)[:2] == ("PT409", "lease_lost")
    assert engine.one("select count(*) from public.jobs") == 1


def test_a_stale_item_does_not_spoil_its_batch(engine: Engine) -> None:
    """A worker settles many at once; each is answered for itself."""
    zombie, heir = lost_lease(engine)
    nobody = {"job_id": "00000000-0000-4000-8000-00000000dead", "fence": 1}

    answers = engine.settle_all(
        [{**item, "outcome": "completed"} for item in (handle(zombie), handle(heir), nobody)]
    )

    outcomes = {(answer["job_id"], answer["fence"]): answer["outcome"] for answer in answers}
    assert outcomes[zombie["job"]["id"], 1] == "stale"
    assert outcomes[heir["job"]["id"], 2] == "applied"
    assert outcomes[nobody["job_id"], 1] == "not_found"


def test_a_stale_item_beside_the_present_one_stores_nothing(engine: Engine) -> None:
    """A worker may have the same job again: its id alone does not say whose news they are."""
    zombie, heir = lost_lease(engine)
    old, new = (
        {
            **handle(lease),
            "progress": {"percentage": 1, "message": word},
            "logs": [{"level": "info", "message": word}],
            "steps": [{"name": word, "result": word}],
            "step": {"name": word, "for_ms": 900},
            "tags": [word],
        }
        for lease, word in ((zombie, "stale"), (heir, "present"))
    )
    wait = {"kind": "ask", "question": "?"}

    told = engine.report_all([old, new, old])
    engine.settle_all(
        [
            {**item, "outcome": "waiting", "wait": {**wait, "name": item["tags"][0]}}
            for item in (old, new)
        ]
    )

    assert {(result["fence"], result["outcome"]) for result in told} == {(1, "lost"), (2, "ok")}
    kept = str(snapshot(engine)) + str(engine.rows("select name from queue.running_steps"))
    assert ("stale" in kept, "present" in kept) == (False, True)


@pytest.mark.parametrize(("outcome", "item"), OUTCOMES)
def test_a_repeated_settle_is_answered_as_the_first(
    engine: Engine, outcome: str, item: dict[str, Any]
) -> None:
    """A lost answer is repeated; it must neither fail nor act twice."""
    engine.enqueue()
    lease = engine.lease_one()
    first = engine.settle(lease, outcome, **item)
    before = snapshot(engine)

    again = engine.settle(lease, outcome, **item)

    assert again == first
    assert snapshot(engine) == before


def test_a_late_settle_of_an_expired_but_unclaimed_lease_counts(engine: Engine) -> None:
    """The work is done and nobody else holds it: throwing it away helps no one."""
    engine.enqueue()
    lease = engine.lease_one()
    engine.advance(1000)

    assert engine.settle(lease)["outcome"] == "applied"


def test_reclaim_and_settle_racing_end_the_attempt_once(engine: Engine) -> None:
    """Whoever comes second finds the lease gone."""
    engine.register("work", max_attempts=50, lease_seconds=60)
    engine.run("update queue.settings set value = '50' where name = 'lost_attempts_max'")
    engine.enqueue_many(40, max_attempts=50)
    leases = engine.lease(40)
    engine.advance(61)

    answers = engine.race(
        *[lambda other: other.lease_call(0) for _ in range(4)],
        *[
            lambda other, half=half: other.settle_all(
                [{**handle(lease), "outcome": "completed"} for lease in half]
            )
            for half in (leases[:20], leases[20:], leases[::2])
        ],
    )

    assert not [answer for answer in answers if isinstance(answer, psycopg.Error)]
    ends = engine.rows(
        "select a.outcome, count(*) from public.jobs as j cross join queue.attempt_lines(j, 9) as a"
        " where a.outcome is not null group by 1"
    )
    assert sum(count for _, count in ends) == 40
    assert {outcome for outcome, _ in ends} <= {"completed", "lost"}


def test_reports_settles_and_cancels_of_the_same_jobs_do_not_deadlock(engine: Engine) -> None:
    """Renewals touch leases only; they must not meet settles the wrong way round."""
    ids = engine.enqueue_many(60)
    leases = engine.lease(60)

    def reports(other: Engine) -> None:
        for _ in range(15):
            other.report_all([handle(lease) for lease in leases[::-1]])
            other.report_all([{**handle(lease), "progress": {"percentage": 5}} for lease in leases])

    def settles(other: Engine) -> None:
        for start in range(0, 60, 6):
            batch = leases[start : start + 6][::-1]
            other.settle_all([{**handle(lease), "outcome": "completed"} for lease in batch])

    def cancels(other: Engine) -> None:
        for start in range(0, 60, 10):
            other.operate("cancel", ids=ids[start : start + 10][::-1])

    answers = engine.race(reports, reports, settles, cancels)

    assert answers == [None] * 4
    assert engine.one("select count(*) from public.jobs where finished_at is null") == 0


@pytest.mark.parametrize(("events", "worker"), [("minimal", None), ("full", "w1")])
def test_a_first_success_is_in_its_row_and_settled_once(
    engine: Engine, events: str, worker: str | None
) -> None:
    """It leaves no line in attempts; a repeat gets the first answer, another outcome is stale."""
    engine.register("quiet", events=events)
    job = engine.enqueue(job_type="quiet")
    lease = engine.lease_one(job_types=["quiet"])

    answers = [
        engine.settle_all([{**handle(lease), "outcome": outcome}])[0]["outcome"]
        for outcome in ("completed", "completed", "retry")
    ]

    assert answers == ["applied", "applied", "stale"]
    assert engine.one("select count(*) from queue.attempts") == 0
    [attempt] = engine.rpc("job_attempts", p_job_id=job)["attempts"]
    assert (attempt["attempt"], attempt["fence"], attempt["outcome"]) == (1, 1, "completed")
    assert attempt["worker_id"] == worker
    listed = {"workspace_id": ACME, "worker_id": "w1"}
    found = engine.rpc("list_jobs", p_filter=listed)["jobs"]
    assert [one["id"] for one in found] == ([job] if worker else [])
    assert ("job.leased" in engine.events(job)) == (events == "full")


@pytest.mark.parametrize("call", [1, 2])
def test_an_end_is_in_the_log_whatever_the_lease_beside_it_finds(engine: Engine, call: int) -> None:
    """The lease of the same call stores it: also a repeated one, and one that finds nothing."""
    job_id = engine.enqueue()
    tick_id = str(uuid.uuid4())
    items = [{**handle(engine.lease_one(tick_id=tick_id)), "outcome": "completed"}]

    lease = {"worker_id": "w1", "tick_id": tick_id, "call": call, "limit": 1}
    answer = engine.rpc("settle_jobs", p_request={"items": items, "lease": lease})

    assert answer["lease"]["leases"] == []
    assert engine.rows(
        "select seq, type from public.job_events where job_id = %s order by seq", job_id
    ) == [(1, "job.created"), (2, "job.leased"), (3, "job.completed")]
