"""Run again from a step, as a new job; another payload for one that is to run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine, refusal
from tests.support.functions import until_waiting


def finished(engine: Engine, *steps: str, **options: Any) -> str:
    """A completed job with these steps, reported together, each with its name as result."""
    job_id = engine.enqueue({"n": 1}, **options)
    lease = engine.lease_one()
    # the later, the longer: when they began is not the order they ended in
    reported = [{"name": s, "result": s, "took_ms": 10 * n} for n, s in enumerate(steps)]
    engine.settle(lease, "completed", steps=reported, result={"done": True})
    return job_id


def replay(engine: Engine, job_id: str, **request: Any) -> dict[str, Any]:
    """The new job."""
    return dict(engine.rpc("replay_job", p_job_id=job_id, p_request=request)["job"])


def test_steps_before_the_chosen_one_are_kept(engine: Engine) -> None:
    """In the order they finished in, although they were reported together."""
    options = {
        "queue": "slow", "priority": 7, "max_attempts": 3, "timeout_seconds": 9, "session_id": "s",
        "backoff": {"first_seconds": 5}, "concurrency_key": "k", "user_id": ADA,
    }  # fmt: skip
    origin = finished(engine, "read", "price", "write", "mail", tags=["a"], **options)
    engine.register("work", schema_version=2)

    made = replay(engine, origin, from_step="write")
    [lease] = engine.lease()

    assert lease["job"]["id"] == made["id"] != origin
    assert lease["steps"] == {"read": "read", "price": "price"}
    assert (made["replay_of"], made["replay_from"]) == (origin, "write")
    kept = ("payload", "tags", "schema_version", *options)
    before, after = engine.job(origin), engine.job(made["id"])
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    columns = "name, kind, started_at, created_at, result"
    steps = f"select {columns} from queue.steps where job_id = %s order by created_at"
    assert engine.rows(steps, made["id"]) == engine.rows(steps, origin)[:2]
    assert engine.status(origin) == "completed"


def test_a_payload_and_results_take_the_place_of_the_recorded_ones(engine: Engine) -> None:
    """The origin keeps its own."""
    engine.register("work", tagged_by=["n"])
    origin = finished(engine, "read", "write", tags=["given"])
    engine.run("update queue.steps set event_name = 'e' where name = 'read'")
    largest = "x" * (262_144 - len('{"read": ""}'))

    made = replay(engine, origin, from_step="write", payload={"n": 2}, results={"read": largest})
    [lease] = engine.lease()

    assert (lease["job"]["payload"], made["tags"]) == ({"n": 2}, ["given", "n:2"])
    assert engine.rpc("job_steps", p_job_id=made["id"])["steps"][0]["result"] == largest
    assert engine.step(origin, "read") == "read"


def test_a_job_without_steps_runs_again_from_its_start(engine: Engine) -> None:
    """Also while it is still to run, and of one that failed."""
    origin = engine.enqueue({"n": 1})
    made = replay(engine, origin, payload=None, results=None)

    assert made["replay_from"] is None
    assert {lease["job"]["id"] for lease in engine.lease()} == {origin, made["id"]}


def test_what_children_returned_is_kept_with_their_step(engine: Engine) -> None:
    """The new job reads the same results and spawns none of them again."""
    origin = engine.enqueue()
    lease = engine.lease_one()
    [child] = engine.spawn(lease, "parts", [{"job_type": "work", "payload": {}}])
    wait = {"kind": "children", "name": "parts", "job_ids": [child]}
    engine.settle(lease, "waiting", wait=wait)
    engine.settle(engine.lease_one(), "completed", result={"part": 1})
    engine.maintain()
    lease = engine.lease_one()
    engine.settle(lease, "completed", steps=[{"name": "sum", "result": 1, "took_ms": 1}])

    engine.run(
        "insert into queue.gathered (job_id, name, nth, child_id, status)"
        " select child_id, name, 2, child_id, status from queue.gathered"  # of another job
    )
    replay(engine, origin, from_step="sum")
    [again] = engine.lease()

    assert again["steps"] == lease["steps"]
    assert again["steps"]["parts"]["children"][0]["result"] == {"part": 1}

    given = {"children": [{"id": child, "status": "completed", "result": {"part": 2}}]}
    replay(engine, origin, from_step="sum", results={"parts": given})
    assert engine.lease_one()["steps"]["parts"] == given


def test_of_a_graph_a_stage_and_those_after_it_run_again(engine: Engine) -> None:
    """Also one that never finished; what ran beside it is kept, although it ended later."""
    other = {"name": "graph", "kind": "graph", "result": {"left": [], "first": ["left"]}}
    engine.enqueue()
    engine.settle(engine.lease_one(), steps=[other])
    shape = {"top": [], "left": ["top"], "right": ["top"], "bottom": ["left", "right"], "new": []}
    origin = engine.enqueue({"n": 1})
    later = {"left": [], "right": ["left"]}  # of a graph that ran when the first had finished
    steps = [
        {"name": "first", "result": {"left": [], "new": []}},  # which is no graph
        {"name": "graph", "kind": "graph", "result": shape},
        *({"name": name, "result": name} for name in ("top", "left", "right", "bottom")),
        {"name": "later", "kind": "graph", "result": later},
    ]
    engine.settle(engine.lease_one(), "completed", steps=[*steps, {"name": "last", "result": 1}])

    kept = {}
    for stage in ("left", "new"):
        replay(engine, origin, from_step=stage, results={"right": "R"})
        [lease] = engine.lease()
        kept[stage] = set(lease["steps"])
        assert lease["steps"]["right"] == "R"

    assert kept["left"] == {"graph", "first", "top", "right"}
    assert kept["new"] == {"graph", "first", "top", "left", "right", "bottom", "later", "last"}
    shown = engine.rpc("job_steps", p_job_id=origin)["steps"]
    assert {step["name"]: step["kind"] for step in shown}["graph"] == "graph"
    [job] = engine.rpc("job_trace", p_job_id=origin)["jobs"]
    assert job["graphs"] == [shape, later]
    assert "graph" not in {step["name"] for step in job["steps"]}


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"from_step": "nothing"}, "the job has no finished step nothing"),
        ({"results": {"read": 1}}, "read is not a step that is kept"),
        ({"from_step": "read", "results": {"write": 1}}, "write is not a step that is kept"),
        ({"results": [1]}, "results must be an object"),
        ({"from": "read"}, "unknown field of request: from"),
        ({"from_step": "write", "results": {"read": "x" * 262_133}}, "results are longer than"),
    ],
    ids=["unknown step", "none kept", "a later one", "no object", "misspelt", "too large"],
)
def test_what_cannot_be_replayed_is_refused_and_makes_no_job(
    engine: Engine, request_: dict[str, Any], why: str
) -> None:
    """A typo must not run a job from its start."""
    origin = finished(engine, "read", "write")
    finished(engine, "nothing")  # which is a step of another job

    with pytest.raises(psycopg.Error, match=why) as refused:
        replay(engine, origin, **request_)

    large = "longer" in why
    expected = ("PT413", "payload_too_large") if large else ("PT400", "invalid_argument")
    assert refusal(refused.value)[:2] == expected
    assert engine.one("select count(*) from public.jobs") == 2


def test_only_who_may_enqueue_replays_and_edits(engine: Engine) -> None:
    """Another tenant's job is not there."""
    origin = finished(engine, "read")
    later = engine.enqueue(delay_seconds=60)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("replay_job", {"p_job_id": origin, "p_request": {}}),
        ("job_replays", {"p_job_id": origin}),
        ("edit_job", {"p_job_id": later, "p_changes": {"payload": {}}}),
        ("retry_job", {"p_job_id": later, "p_payload": {}}),
    ]

    for function, arguments in calls:
        with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
            eve.rpc(function, **arguments)
        assert refusal(refused.value)[0] == "PT404", function
    with engine.member(ADA) as ada:
        assert replay(ada, origin)["user_id"] == ADA


def test_a_key_makes_one_replay(engine: Engine) -> None:
    """A repeated call gets the first; one from another step or of another job is no repetition."""
    origin, other = (finished(engine, "read", "write") for _ in range(2))

    first, again = (
        replay(engine, origin, from_step="write", idempotency_key="once") for _ in range(2)
    )

    assert first["id"] == again["id"]
    for job_id, step in ((origin, "read"), (other, "write")):
        with pytest.raises(psycopg.Error) as refused:
            replay(engine, job_id, from_step=step, idempotency_key="once")
        assert refusal(refused.value) == ("PT409", "idempotency_conflict", first["id"])


def test_replays_of_replays_are_one_chain(engine: Engine) -> None:
    """Asked of any of them; one that retention took is named and missing."""
    origin = finished(engine, "read")
    engine.advance(1)
    first = replay(engine, origin, from_step="read")["id"]
    engine.advance(1)
    second = replay(engine, first)["id"]

    chains = [engine.rpc("job_replays", p_job_id=each) for each in (origin, first, second)]
    engine.run("delete from public.jobs where id = %s", origin)
    rest = engine.rpc("job_replays", p_job_id=second)

    assert [one["id"] for one in chains[0]] == [origin, first, second]
    assert chains[0] == chains[1] == chains[2]
    assert [(one["id"], one["replay_of"]) for one in rest] == [(first, origin), (second, first)]


def test_another_workspaces_job_is_of_no_chain(engine: Engine) -> None:
    """Whatever a row of it says: its id and state are not for strangers."""
    origin = finished(engine, "read")
    other = engine.enqueue(workspace=GLOBEX)
    engine.run("update public.jobs set replay_of = %s where id = %s", origin, other)

    for asked in (origin, other):
        assert [one["id"] for one in engine.rpc("job_replays", p_job_id=asked)] == [asked]


def test_a_failed_job_is_retried_with_another_payload(engine: Engine) -> None:
    """Its history has what changed."""
    old = {f"to{n:02}": "x" * 300 for n in range(20)}
    job_id = engine.enqueue({"n": 1, **old}, max_attempts=1)
    engine.run_all("failed", error={"type": "X", "message": "no"})

    new = {**dict.fromkeys(old, "y" * 300), "n": 1, "new": 2}
    engine.rpc("retry_job", p_job_id=job_id, p_payload=new)
    [lease] = engine.lease()

    assert lease["job"]["payload"] == new
    assert engine.events(job_id)[-3:] == ["job.redriven", "job.edited", "job.leased"]
    assert engine.one(
        "select data -> 'changed' from public.job_events where job_id = %s and type = 'job.edited'",
        job_id,
    ) == {
        "new": {"before": None, "after": "2"},
        **{name: {"before": '"' + "x" * 199, "after": '"' + "y" * 199} for name in list(old)[:19]},
    }


def test_guests_do_not_read_what_was_edited(engine: Engine) -> None:
    """They see no payload, and read each event of their session."""
    for session in ("guest_" + "0" * 64, "guests"):
        job_id = engine.enqueue({"n": 1}, session_id=session, delay_seconds=60)
        engine.rpc("edit_job", p_job_id=job_id, p_changes={"payload": {"n": 2}})

    assert engine.rows(
        "select data -> 'changed' from public.job_events where type = 'job.edited' order by job_id"
    ) == [None, {"n": {"before": "1", "after": "2"}}]


def test_a_scheduled_job_is_edited_and_stays_scheduled(engine: Engine) -> None:
    """By its schema, as at an enqueue."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    engine.register("strict", payload_schema=schema)
    job_id = engine.enqueue({"n": 1}, job_type="strict", delay_seconds=60)

    for _ in range(2):
        with engine.member(ADA) as ada:
            edited = ada.rpc("edit_job", p_job_id=job_id, p_changes={"payload": {"n": 2}})
    invalid = ("PT422", "payload_invalid")
    for wrong, answer in (
        ({"payload": {"n": "two"}}, invalid), ({"payload": None}, invalid),
        ({"payload": {"n": 3}, "priority": 1}, ("PT400", "invalid_argument")),
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("edit_job", p_job_id=job_id, p_changes=wrong)
        assert refusal(refused.value)[:2] == answer

    assert (edited["payload"], edited["state"]) == ({"n": 2}, "scheduled")
    assert engine.events(job_id) == ["job.created", "job.edited"]
    assert engine.lease() == []
    engine.run("update queue.job_types set internal = true")
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as refused:
        ada.rpc("edit_job", p_job_id=job_id, p_changes={"payload": {"n": 3}})
    assert refusal(refused.value)[:2] == ("PT403", "forbidden")


@pytest.mark.parametrize("state", ["queued", "running", "completed"])
def test_the_payload_of_a_job_that_may_run_is_not_changed(engine: Engine, state: str) -> None:
    """What a worker was given is what the job shows."""
    job_id = engine.enqueue({"n": 1})
    if state != "queued":
        lease = engine.lease_one()
        if state == "completed":
            engine.settle(lease, "completed")

    for function, arguments in (
        ("edit_job", {"p_changes": {"payload": {"n": 2}}}),
        ("retry_job", {"p_payload": {"n": 2}}),
    ):
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc(function, p_job_id=job_id, **arguments)
        assert refusal(refused.value)[:2] == ("PT409", "invalid_state")

    assert engine.job(job_id)["payload"] == {"n": 1}
    assert engine.job(job_id)["workspace_id"] == ACME


def test_a_job_that_ran_while_its_edit_waited_keeps_its_payload(engine: Engine) -> None:
    """The edit looks again once it holds the job."""
    job_id = engine.enqueue({"n": 1}, delay_seconds=60)
    with engine.beside() as other, ThreadPoolExecutor(1) as threads:
        other.run("begin")
        other.rpc("retry_job", p_job_id=job_id)
        edit = {"p_job_id": job_id, "p_changes": {"payload": {"n": 2}}}
        edited = threads.submit(engine.rpc, "edit_job", **edit)
        until_waiting(engine.database)
        other.run("commit")
        with pytest.raises(psycopg.Error) as refused:
            edited.result(60)

    assert refusal(refused.value)[:2] == ("PT409", "invalid_state")


def test_what_a_replay_copies_is_charged_to_who_asks(engine: Engine) -> None:
    """Else a rate of small calls would write any number of megabytes."""
    origin = engine.enqueue()
    steps = [{"name": f"s{n}", "result": "x" * 100_000, "took_ms": 1} for n in range(3)]
    engine.settle(engine.lease_one(), "completed", steps=steps)
    engine.stop_clock()  # else the limit grows while this calls
    engine.run("update queue.settings set value = '20' where name = 'user_enqueues_burst'")

    with engine.member(ADA) as ada:
        replay(ada, origin, from_step="s2")
        with pytest.raises(psycopg.Error) as refused:
            replay(ada, origin, from_step="s2")
        assert refusal(refused.value)[:2] == ("PT429", "rate_limited")
        engine.run("update queue.settings set value = '0' where name = 'user_calls_at_once'")
        engine.advance(3600)
        with pytest.raises(psycopg.Error, match="too many large calls"):
            replay(ada, origin)


def test_a_corrected_payload_has_the_version_it_was_checked_by(engine: Engine) -> None:
    """Else a worker takes it for an old one and rewrites it once more."""
    job_id = engine.enqueue(delay_seconds=60)
    engine.register("work", schema_version=2)

    made = replay(engine, job_id, payload={"n": 2})
    engine.rpc("edit_job", p_job_id=job_id, p_changes={"payload": {"n": 2}})

    assert made["schema_version"] == engine.job(job_id)["schema_version"] == 2
