"""Only the worker with the current fence reports or settles a job, so a job settles exactly once.

The fence is a number that rises with each lease of the job.
"""

import json
from typing import Any

import pytest

from tests.contract.observed import ask, refused, started
from tests.support.engine import ADA, MISSING, TICK, Engine, Json, handle, ids_of

ERROR = {"type": "E", "message": "zombie"}
OUTCOMES: list[tuple[str, Json]] = [
    ("completed", {"result": {"zombie": True}}),
    ("retry", {"error": ERROR}),
    ("failed", {"error": ERROR}),
    ("snoozed", {"delay_seconds": 5}),
    ("released", {}),
    ("waiting", {"wait": ask()}),
    ("waiting", {"wait": {"kind": "event"}}),  # an invalid wait fails the job
    ("cancelled", {}),
]


def news(word: str) -> Json:
    return {
        "progress": {"percentage": 99, "message": word},
        "logs": [{"level": "info", "message": word}],
        "steps": [{"name": word, "result": word}],
        "tags": [word],
    }


NEWS = news("zombie")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lost_lease(engine: Engine) -> tuple[Json, Json]:
    """Let a job's lease expire and lease the job again. Return the old lease and the new one."""
    engine.enqueue()
    zombie = engine.lease_one(worker="zombie")
    engine.advance(61)
    return zombie, engine.lease_one(worker="heir")


def snapshot(engine: Engine, lease: Json) -> Any:
    tables = engine.one(
        "select jsonb_build_array((select jsonb_agg(to_jsonb(j)) from jobs as j),"
        " (select jsonb_agg(to_jsonb(e) order by e.seq) from job_events as e),"
        " (select jsonb_agg(to_jsonb(l) order by l.id) from job_logs as l))"
    )
    called = ("job_steps", "job_attempts", "job_trace")
    return [tables, *(engine.rpc(function, p_job_id=lease["job"]["id"]) for function in called)]


def test_no_function_of_a_worker_acts_on_a_job_without_its_lease(engine: Engine) -> None:
    """Each function that a worker may call rejects a job id with a wrong fence.

    The example apps' functions do so too, because someone with a stolen worker key may know job
    ids.
    """
    request = {**handle(started(engine)), "fence": 99, "name": "n", "children": []}
    others = {"lease_jobs", "run_maintenance"}
    says_so = {"report_jobs", "settle_jobs", "webhook_sent", "tick_finished"}
    granted = (
        "select proname from pg_proc where pronamespace = 'public'::regnamespace"
        " and proacl::text ~ '[{,]job_worker=' and proargnames = '{p_request}'"
    )
    asked = set(engine.rows(granted))
    assert asked > says_so | {"enrichment_finish_call"}
    for function in asked - others - says_so:
        assert refused(engine.rpc, function, p_request=request)[:2] == ("PT409", "lease_lost")


@pytest.mark.parametrize(("outcome", "item"), OUTCOMES)
def test_a_zombies_settle_stores_nothing(engine: Engine, outcome: str, item: Json) -> None:
    engine.stop_clock()
    zombie, heir = lost_lease(engine)
    before = snapshot(engine, heir)

    assert engine.settle(zombie, outcome, **item, **NEWS)["outcome"] == "stale"
    assert snapshot(engine, heir) == before
    assert engine.settle(heir)["outcome"] == "applied"


def test_a_zombies_report_stores_nothing_and_renews_nothing(engine: Engine) -> None:
    """A report with an expired lease does not renew the new lease.

    It stores nothing and creates no child jobs.
    """
    engine.stop_clock()
    zombie, heir = lost_lease(engine)
    before = snapshot(engine, heir)

    assert engine.report(zombie, lease_seconds=4000, **NEWS) == "lost"
    assert refused(engine.spawn, zombie, "s", [{"job_type": "work"}])[:2] == ("PT409", "lease_lost")
    assert snapshot(engine, heir) == before
    engine.advance(61)
    assert engine.lease_one()["fence"] == 3


def test_an_item_is_answered_for_itself_and_stored_by_its_own_fence(engine: Engine) -> None:
    """When one call contains an old and a new lease of a job, each item gets its own response.

    Only the new lease's data is stored.
    """
    zombie, heir = lost_lease(engine)
    missing = {"job_id": MISSING, "fence": 1}
    old, new = (
        {**handle(lease), **news(word)} for lease, word in ((zombie, "stale"), (heir, "present"))
    )

    response = engine.report_all([old, new, old, missing])
    waits = {"outcome": "waiting", "wait": ask()}
    guess = {**handle(heir), "fence": 9}
    ended = engine.settle_all([{**item, **waits} for item in (old, new, missing, guess)])

    assert {(each["fence"], each["outcome"]) for each in response} == {(1, "lost"), (2, "ok")}
    assert {(each["job_id"], each["fence"]): each["outcome"] for each in ended} == {
        (zombie["job"]["id"], 1): "stale",
        (heir["job"]["id"], 2): "applied",
        (missing["job_id"], 1): "not_found",
        (guess["job_id"], 9): "not_found",
    }
    assert "status" not in ended[3], "of a job that it never leased"
    kept = str(snapshot(engine, heir))
    assert ("stale" in kept, "present" in kept) == (False, True)


@pytest.mark.parametrize(("outcome", "item"), OUTCOMES)
def test_a_repeated_settle_is_answered_as_the_first(
    engine: Engine, outcome: str, item: Json
) -> None:
    """A worker that repeats a settle, because the response was lost, gets the first response again.

    The repeat changes nothing.
    """
    engine.stop_clock()
    _, lease = engine.start()
    first = engine.settle(lease, outcome, **item)
    before = snapshot(engine, lease)

    assert engine.settle(lease, outcome, **item) == first
    engine.settle(lease, "failed" if outcome == "completed" else "completed")
    assert snapshot(engine, lease) == before


def test_a_late_settle_of_an_expired_but_unclaimed_lease_counts(engine: Engine) -> None:
    lease = started(engine)
    engine.advance(1000)

    assert engine.settle(lease)["outcome"] == "applied"


def test_a_repeated_lease_call_returns_the_same_leases(engine: Engine) -> None:
    """A worker that repeats a lease call, because the response was lost, gets equal leases again.

    The repeat counts no further attempt.
    """
    engine.register(lease_seconds=77, timeout_seconds=55, backoff={"first_seconds": 0})
    step = {"name": "s", "result": {"sum": 12.5, "of": ["a", None]}}
    engine.settle(started(engine, priority=1), "retry", retry_after_seconds=0, steps=[step])
    rich: Json = {
        "deadline_at": "2100-01-01T00:00:00.123456Z",
        "tags": ["blue"],
        "timeout_seconds": 7,
    }
    rich |= {"concurrency_key": "k", "session_id": "s-1", "user_id": ADA, "max_attempts": 2}
    engine.enqueue({"näme": 'quote " and \\', "n": 1e21}, priority=2, traceparent=TRACE, **rich)
    engine.enqueue_many(3)

    def call(number: int) -> list[str]:
        leases = engine.lease(3, tick_id=TICK, call=number)
        return sorted(json.dumps(lease) for lease in leases)

    first = call(1)
    assert call(1) == first
    assert len(call(2)) == 2
    engine.enqueue()
    assert call(1) == first  # as if the repeated call had been delayed in the network
    assert '"sum": 12.5' in str(first)
    assert engine.count("jobs where status = 'processing'") == 5


def test_a_settle_may_carry_the_next_lease(engine: Engine) -> None:
    """A settle call can also lease the next jobs.

    These include a job that waited for the settled job's concurrency key. A repeat of the call
    returns an equal response.
    """
    engine.register(key_concurrency=1)
    first, second = engine.enqueue_many(2, concurrency_key="k")
    lease = engine.lease_one()
    request = {
        "items": [{**handle(lease), "outcome": "completed"}],
        "lease": {"worker_id": "w1", "tick_id": TICK, "call": 2, "limit": 5},
    }

    for _ in range(2):
        answer = engine.rpc("settle_jobs", p_request=request)
        assert [each["job_id"] for each in answer["results"]] == [first]
        assert ids_of(answer["lease"]["leases"]) == [second]


def test_an_unknown_outcome_fails_its_job_and_not_the_batch(engine: Engine) -> None:
    """A settle with an unknown outcome, or with a result that is too large, fails that job.

    The other jobs of the call are settled normally.
    """
    engine.enqueue_many(3)
    first, second, third = (handle(lease) for lease in engine.lease(3))
    engine.settle_all(
        [
            {**first, "outcome": "exploded"},
            {**second, "outcome": "completed", "result": "x" * 300_000},
            {**third, "outcome": "completed", "result": "x" * 200_000},
        ]
    )

    found = [engine.status(each["job_id"]) for each in (first, second, third)]
    assert found == ["failed", "failed", "completed"]
    assert engine.job(first["job_id"])["error_data"]["reason"] == "unknown_outcome"


def test_log_lines_of_a_repeated_report_are_stored_once(engine: Engine) -> None:
    """A log line that a worker sends in several reports and in the settle is stored once."""
    job_id, lease = engine.start()
    lines = [{"level": "info", "message": message} for message in "abcd"]

    for most in (2, 2, 3):
        engine.report(lease, logs=lines[:most], logs_from=0)
    engine.settle(lease, logs=lines[2:], logs_from=2)

    stored = "select string_agg(message, '' order by id) from job_logs where job_id = %s"
    assert engine.one(stored, job_id) == "abcd"


def test_what_is_reported_while_an_apps_function_holds_the_job_is_stored(engine: Engine) -> None:
    """A report waits while another transaction has locked the job.

    Afterwards, the report's log lines and steps are stored.
    """
    job_id, lease = engine.start()
    step = {"name": "a", "result": 1}
    with engine.open_transaction() as other:
        other.spawn(lease, "children", [{"job_type": "work"}])
        response = engine.blocked(engine.report, lease, logs=NEWS["logs"], steps=[step])
    assert response.result(60) == "ok"

    assert engine.count("job_logs where job_id = %s", job_id) == 1
    assert "a" in [each["name"] for each in engine.rpc("job_steps", p_job_id=job_id)["steps"]]


def test_a_finished_step_is_handed_to_the_next_attempt(engine: Engine) -> None:
    job_id, lease = engine.start()
    engine.report(lease, steps=[{"name": "a", "result": 1}])
    steps = [{"name": "a", "result": 2}, {"name": "b", "result": None}]
    engine.settle(lease, "retry", retry_after_seconds=0, steps=steps)

    again = engine.lease_one()
    assert (again["steps"], again["job"]["attempts"]) == ({"a": 1, "b": None}, 2)
    lines = engine.rpc("read_steps", p_request=handle(again))["lines"]
    assert {each["name"]: each["value"] for each in lines} == again["steps"]
    shown = engine.rpc("job_steps", p_job_id=job_id)["steps"]
    assert [(each["name"], each["result"]) for each in shown] == [("a", 1), ("b", None)]
