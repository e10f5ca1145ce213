# ruff: noqa: E501 - queries and requests stay on one line
"""Sleep, questions, events, children, dependencies and batches: waiting without a worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, handle, refusal
from tests.support.functions import until_waiting


def wait(engine: Engine, **wait_: Any) -> str:
    """Enqueue a job and let it wait."""
    engine.enqueue()
    lease = engine.lease_one()
    answer = engine.settle(lease, "waiting", wait=wait_)
    assert answer["status"] == "waiting"
    return str(lease["job"]["id"])


def later(engine: Engine, seconds: float) -> str:
    """An instant from now on the engine's clock."""
    return str(engine.one("select queue.clock() + %s * interval '1 second'", seconds).isoformat())


def test_a_sleeper_continues_when_its_time_has_come(engine: Engine) -> None:
    """At that instant, within the same attempt: the sleep costs none."""
    engine.stop_clock()
    other = engine.enqueue()
    engine.settle(engine.lease_one(), steps=[{"name": "nap", "result": 1}])
    job_id = wait(engine, kind="sleep", name="nap", until=later(engine, 60))
    step = "insert into queue.steps (job_id, name, result) select %s, 'before', result from queue.steps"
    engine.run(step, job_id)

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("answer_job", p_job_id=job_id, p_answer={"answer": 1})
    assert refusal(refused.value) == ("PT409", "invalid_state", "waiting")
    answer = engine.lease_call()
    assert (answer["leases"], answer["next_due_in_ms"]) == ([], 60_000)
    engine.advance(60)

    lease = engine.lease_one()
    assert lease["job"]["attempts"] == 1
    assert lease["steps"]["nap"] == {"slept": True}
    assert engine.events(job_id)[-3:] == ["job.waiting", "job.resumed", "job.leased"]
    assert set(engine.rows("select job_id::text, name, kind from queue.steps")) == {
        (other, "nap", "step"),
        (job_id, "before", "step"),
        (job_id, "nap", "sleep"),
    }


def test_a_wait_that_was_replaced_meanwhile_does_not_expire(engine: Engine) -> None:
    """Its job was found by the wait before; the one it has by now is not over yet."""
    job_id = wait(engine, kind="sleep", name="nap", until=later(engine, 60))
    engine.advance(61)

    with engine.beside() as other, ThreadPoolExecutor(1) as pool:
        other.run("begin")
        other.run("lock table public.jobs in access exclusive mode")
        expired = pool.submit(
            engine.one,
            "select queue.expire_waits(array(select job_id from queue.waits), queue.clock())",
        )
        until_waiting(engine.database)
        other.run(
            "update queue.waits set timeout_at = queue.clock() + interval '1 hour'"
            " where job_id = %s",
            job_id,
        )
        other.run("commit")
        assert expired.result() == 0

    assert engine.status(job_id) == "waiting"


def test_a_question_is_answered_by_one_of_its_options(engine: Engine) -> None:
    """Anything else is refused; the answer becomes the step's value."""
    job_id = wait(engine, kind="ask", name="go", question="Go?", options=["yes", "no"])

    for answer, state in (
        ({"answer": "maybe"}, ("PT422", "payload_invalid")),
        ({"ansver": "yes"}, ("PT400", "invalid_argument")),
        ({"answer": "x" * 262_144}, ("PT413", "payload_too_large")),
    ):
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("answer_job", p_job_id=job_id, p_answer=answer)
        assert refusal(refused.value)[:2] == state
    with engine.member(ADA) as ada:
        assert (
            ada.rpc("answer_job", p_job_id=job_id, p_answer={"answer": "yes"})["status"]
            == "pending"
        )
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("answer_job", p_job_id=job_id, p_answer={"answer": "no"})
    assert refusal(refused.value)[:2] == ("PT409", "invalid_state")

    assert engine.lease_one()["steps"]["go"] == {"answer": "yes", "by": ADA}


def test_an_answer_to_the_question_before_is_no_answer_to_the_next(engine: Engine) -> None:
    """Two people answer, and the job has asked again meanwhile."""
    job_id = wait(engine, kind="ask", name="second", question="?")

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("answer_job", p_job_id=job_id, p_answer={"answer": 1, "name": "first"})

    assert refusal(refused.value) == ("PT409", "invalid_state", "second")
    assert engine.status(job_id) == "waiting"


def test_a_strangers_answer_finds_no_job(engine: Engine) -> None:
    """Not even its existence is told; nor are events and workspaces of others."""
    job_id = wait(engine, kind="ask", name="go", question="Go?")

    for function, missing, arguments in (
        ("answer_job", "job_not_found", {"p_job_id": job_id, "p_answer": {"answer": 1}}),
        ("emit_event", "workspace_not_found", {"p_workspace_id": ACME, "p_name": "paid"}),
    ):
        with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
            eve.rpc(function, **arguments)
        assert refusal(refused.value)[:2] == ("PT404", missing), function


def test_an_unanswered_question_takes_its_default(engine: Engine) -> None:
    """People go on holiday; who watches is told until when they may answer."""
    until = later(engine, 60)
    job_id = wait(engine, kind="ask", name="go", question="Go?", default="no", timeout_at=until)
    event = (
        "select data -> 'wait' from public.job_events where job_id = %s and type = 'job.waiting'"
    )
    asked = {"kind": "ask", "name": "go", "question": "Go?", "until": until}
    assert engine.rows(event, job_id) == [asked]
    engine.advance(61)

    assert engine.lease_one()["steps"]["go"] == {"answer": "no", "timed_out": True}


def test_an_event_that_does_not_come_is_its_default(engine: Engine) -> None:
    """The processor reads it like one that came, and that it did not."""
    until = later(engine, 60)
    wait(engine, kind="event", name="paid", event="paid", default={"n": 0}, timeout_at=until)
    engine.advance(61)

    assert engine.lease_one()["steps"]["paid"] == {"event": {"n": 0}, "timed_out": True}


def test_an_event_reaches_more_jobs_than_one_call_continues(engine: Engine) -> None:
    """A thousand at a time: its signal stays until none is left."""
    engine.enqueue_many(1001)
    event = {"kind": "event", "name": "e", "event": "e"}
    for _ in range(2):
        leases = engine.lease(1000)
        engine.settle_all([{**handle(one), "outcome": "waiting", "wait": event} for one in leases])
    engine.maintain()  # which finds that it has not come yet
    engine.rpc("emit_event", p_workspace_id=ACME, p_name="e")

    for _ in range(2):
        engine.maintain()

    assert engine.one("select count(*) from public.jobs where status = 'waiting'") == 0


def test_more_children_end_with_their_parent_than_one_call_ends(engine: Engine) -> None:
    """Those beyond a thousand would run for no one."""
    engine.enqueue(max_attempts=1)
    parent = engine.lease_one()
    for name in ("a", "b"):
        engine.spawn(parent, name, [{"job_type": "work"}] * 501)
    engine.settle(parent, "failed")

    for _ in range(2):
        engine.maintain()

    assert engine.one("select count(*) from public.jobs where status = 'cancelled'") == 1002


def test_two_racing_answers_give_one(engine: Engine) -> None:
    """The second is told that nothing is asked any more."""
    job_id = wait(engine, kind="ask", name="go", question="Go?")

    with engine.beside() as first:
        first.run("begin")
        first.rpc("answer_job", p_job_id=job_id, p_answer={"answer": 1})

        def commit(other: Engine) -> None:
            until_waiting(other.database)
            first.run("commit")

        [late, _] = engine.race(
            lambda other: other.rpc("answer_job", p_job_id=job_id, p_answer={"answer": 2}), commit
        )

    assert refusal(late) == ("PT409", "invalid_state", "pending")
    assert engine.step(job_id, "go")["answer"] == 1
    assert engine.events(job_id).count("job.resumed") == 1


@pytest.mark.parametrize("first", ["event", "wait"])
def test_an_event_is_received_before_or_after_the_wait(engine: Engine, first: str) -> None:
    """First of a name wins; order does not matter."""

    def emit(value: int) -> Any:
        return engine.rpc("emit_event", p_workspace_id=ACME, p_name="paid", p_payload={"n": value})

    if first == "event":
        assert emit(1) == {"first": True}
    wait(engine, kind="event", name="payment", event="paid")
    if first == "wait":
        assert engine.lease() == []
        emit(1)
    assert emit(2) == {"first": False}

    assert engine.lease_one()["steps"]["payment"] == {"event": {"n": 1}}


def test_an_event_has_a_name_of_1_to_255_characters(engine: Engine) -> None:
    """It is part of an index's row."""
    for name in (None, "", "x" * 256):
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("emit_event", p_workspace_id=ACME, p_name=name)
        assert refusal(refused.value) == ("PT400", "invalid_argument", "name")
    wait(engine, kind="event", name="longest", event="x" * 255)
    assert engine.rpc("emit_event", p_workspace_id=ACME, p_name="x" * 255) == {"first": True}
    assert engine.lease_one()["steps"]["longest"] == {"event": {}}


def test_a_large_event_is_one_of_a_persons_few_large_calls(engine: Engine) -> None:
    """A small one is sent whatever else they do."""
    engine.run("update queue.settings set value = '0' where name = 'user_calls_at_once'")
    event = {"p_workspace_id": ACME, "p_name": "e"}
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("emit_event", **event, p_payload={"x": "y" * 262_136})
    assert refusal(refused.value) == ("PT413", "payload_too_large", "payload")
    with engine.member(ADA) as ada:
        with pytest.raises(psycopg.Error, match="too many large calls"):
            ada.rpc("emit_event", **event, p_payload={"x": "y" * 8192})
        assert ada.rpc("emit_event", **event) == {"first": True}


def test_an_event_of_another_workspace_wakes_no_job(engine: Engine) -> None:
    """Names are a tenant's own."""
    wait(
        engine,
        kind="event",
        name="payment",
        event="paid",
        timeout_at=later(engine, 60),
        default=None,
    )
    engine.rpc("emit_event", p_workspace_id=GLOBEX, p_name="paid", p_payload={})

    assert engine.lease() == []
    engine.advance(61)
    assert engine.lease_one()["steps"]["payment"] == {"event": None, "timed_out": True}


def test_an_event_for_a_job_that_another_session_holds_is_not_lost(engine: Engine) -> None:
    """The call that sees the event passes the locked job by; a later one must find it again."""
    job_id = wait(engine, kind="event", name="payment", event="paid")

    with engine.beside() as other:
        other.run("begin")
        other.run("select from public.jobs where id = %s for update", job_id)
        engine.rpc("emit_event", p_workspace_id=ACME, p_name="paid", p_payload={"n": 1})
        assert engine.lease() == []
        assert engine.status(job_id) == "waiting"
        other.run("commit")

    assert engine.lease_one()["steps"]["payment"] == {"event": {"n": 1}}


def test_racing_events_and_waits_lose_none(engine: Engine) -> None:
    """The signal outlives whichever transaction commits last."""
    engine.enqueue_many(30)
    leases = engine.lease(30)

    def emits(other: Engine) -> None:
        for n in range(30):
            other.rpc("emit_event", p_workspace_id=ACME, p_name=f"e{n}", p_payload={"n": n})

    def waits(other: Engine) -> None:
        for n, lease in enumerate(leases):
            other.settle(lease, "waiting", wait={"kind": "event", "name": "w", "event": f"e{n}"})

    def leases_too(other: Engine) -> None:
        for _ in range(20):
            other.lease_call(0)

    assert engine.race(emits, waits, leases_too) == [None] * 3
    assert len(engine.lease(100)) == 30


def test_children_are_gathered_in_order_with_their_fates(engine: Engine) -> None:
    """Also those that failed; the parent decides what to make of it."""
    engine.enqueue()
    parent = engine.lease_one()
    children = engine.spawn(
        parent, "map", [{"job_type": "work", "payload": {"n": n}} for n in range(3)]
    )
    assert engine.spawn(parent, "map", [{"job_type": "work"}]) == children
    engine.settle(parent, "waiting", wait={"kind": "children", "name": "all", "job_ids": children})

    leases = {lease["job"]["id"]: lease for lease in engine.lease()}
    engine.settle(leases[children[2]], "completed", result=2)
    engine.settle(leases[children[0]], "failed", error={"type": "E", "message": "no"})
    assert engine.lease() == []
    engine.settle(leases[children[1]], "completed", result=1)

    gathered = engine.lease_one()["steps"]["all"]["children"]
    assert [child["id"] for child in gathered] == children
    assert [child["status"] for child in gathered] == ["failed", "completed", "completed"]
    assert [child["result"] for child in gathered] == [None, 1, 2]
    assert gathered[0]["error_message"] == "no"


def test_each_name_makes_children_of_its_own_for_the_jobs_person(engine: Engine) -> None:
    """Anything that a processor passes on as options."""
    with engine.member(ADA) as ada:
        other, job_id = engine.enqueue(), ada.enqueue(session_id="s1")
    [beside, lease] = engine.lease(2)

    first = engine.spawn(lease, "a", [{"job_type": "work"}])
    [child] = engine.spawn(lease, "b", [{"job_type": "work", "parent_id": other, "user_id": BOB}])
    [others] = engine.spawn(beside, "b", [{"job_type": "work"}])

    assert len({child, *first, others}) == 3
    row = engine.job(child)
    assert (row["parent_id"], row["user_id"], row["session_id"]) == (job_id, ADA, "s1")
    assert engine.spawn(lease, "none", []) == []


@pytest.mark.parametrize(
    "request_",
    [
        {"name": None}, {"children": None}, {"children": {}}, {"children": [{"job_type": "work"}] * 1001},
        {"children": [{"job_type": "work", "priority": "x"}]},
    ],
)  # fmt: skip
def test_what_is_no_list_of_children_is_refused(engine: Engine, request_: dict[str, Any]) -> None:
    """None of them is made."""
    engine.enqueue()
    request = {**handle(engine.lease_one()), "name": "s", "children": [], **request_}
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("spawn_jobs", p_request=request)
    state, word, field = refusal(refused.value)
    assert (state, word, str(field)[:8]) == ("PT400", "invalid_argument", "children")


def test_the_end_of_a_child_leaves_a_signal(engine: Engine) -> None:
    """What looks after parents without one comes later, and costs more."""
    engine.enqueue()
    [child] = engine.spawn(engine.lease_one(), "s", [{"job_type": "work"}])
    engine.settle(engine.lease_one())

    assert engine.rows("select kind from queue.signals where job_id = %s", child) == ["ended"]


def test_a_parent_gathers_children_that_ended_before_it_waited(engine: Engine) -> None:
    """And an empty family at once."""
    for count in (2, 0):
        engine.enqueue()
        parent = engine.lease_one()
        children = engine.spawn(parent, "s", [{"job_type": "work"}] * count)
        for lease in engine.lease():
            engine.settle(lease)
        engine.settle(
            parent, "waiting", wait={"kind": "children", "name": "all", "job_ids": children}
        )

        lease = engine.lease_one()
        assert len(lease["steps"]["all"]["children"] or []) == count
        engine.settle(lease)


def test_results_are_copied_in_slices(engine: Engine) -> None:
    """A call that has copied its share of rows or bytes leaves the rest to the next."""
    engine.enqueue_many(2)
    leases = {lease["job"]["id"]: lease for lease in engine.lease(2)}
    families = {
        parent: engine.spawn(lease, "s", [{"job_type": "work"}] * 3)
        for parent, lease in leases.items()
    }
    for n, lease in enumerate(engine.lease(6)):
        engine.settle(lease, result=n)
    for parent, children in families.items():
        of_children = {"kind": "children", "name": "all", "job_ids": children}
        engine.settle(leases[parent], "waiting", wait=of_children)
    parents = sorted(families)
    engine.run("select queue.watch_children(%s::uuid[])", parents)
    gather = "select queue.gather_results(%s::uuid[], %s, queue.clock())"
    copied = "select gathered from queue.waits order by job_id"

    assert (engine.one(gather, parents, 2), engine.rows(copied)) == ([], [2, 0])
    assert [str(done) for done in engine.one(gather, parents, 2)] == parents[:1]
    assert engine.rows(copied)[1] == 1
    size = "(select pg_column_size(result) from public.jobs where id = %s)"
    slice_ = f"select s.copied from queue.waits as w, queue.gather_slice(w, 9, {size} + %s) as s where w.job_id = %s"
    second, third = parents[1], families[parents[1]][1]
    assert [engine.one(slice_, third, more, second) for more in (0, 1)] == [1, 2]

    for lease in engine.lease():
        found = lease["steps"]["all"]["children"]
        assert [child["id"] for child in found] == families[lease["job"]["id"]]
        assert [child["status"] for child in found] == ["completed"] * 3


def test_a_deleted_child_does_not_keep_its_parent_waiting(engine: Engine) -> None:
    """Retention and people delete rows; waiting for ever is not an answer."""
    engine.enqueue()
    parent = engine.lease_one()
    children = engine.spawn(parent, "s", [{"job_type": "work"}])
    engine.settle(parent, "waiting", wait={"kind": "children", "name": "all", "job_ids": children})

    engine.run("delete from public.jobs where id = %s", children[0])

    [child] = engine.lease_one()["steps"]["all"]["children"]
    assert child["status"] == "cancelled"
    engine.run("delete from public.jobs")
    assert engine.one("select count(*) from queue.gathered") == 0


def test_a_parent_waits_again_for_a_child_that_is_retried_before_it_is_gathered(
    engine: Engine,
) -> None:
    """What it gathered then would say that the child has not ended, and for good."""
    engine.enqueue()
    parent = engine.lease_one()
    [child] = engine.spawn(parent, "s", [{"job_type": "work"}])
    engine.settle(parent, "waiting", wait={"kind": "children", "name": "all", "job_ids": [child]})
    engine.settle(engine.lease_one(), "failed")
    with engine.beside() as session, session.connection.transaction():
        session.run("select from public.jobs where id = %s for update", parent["job"]["id"])
        engine.maintain()
    engine.rpc("retry_job", p_job_id=child)

    engine.settle(engine.lease_one())

    [gathered] = engine.lease_one()["steps"]["all"]["children"]
    assert (gathered["id"], gathered["status"]) == (child, "completed")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"kind": "moon"}, "must be a sleep"), ({}, "not nothing"),
        ({"kind": "event", "name": "x"}, "must name it"), ({"kind": "event", "event": ""}, "must name it"),
        ({"kind": "sleep", "name": "x"}, "until when"), ({"kind": "sleep", "until": "soon"}, "wrong type"),
        ({"kind": "ask", "timeout_at": "soon"}, "wrong type"),
        ({"kind": "children", "job_ids": "x"}, "list their ids"), ({"kind": "children", "job_ids": ["x"]}, "wrong type"),
        ({"kind": "children", "job_ids": [ACME] * 10_001}, "at most 10000"),
    ],
)  # fmt: skip
def test_a_wait_that_would_never_end_fails_the_job_with_the_reason(
    engine: Engine, bad: dict[str, Any], why: str
) -> None:
    """And spoils neither its batch nor later leases."""
    job_id = engine.enqueue()

    answer = engine.settle(engine.lease_one(), "waiting", wait=bad)

    assert (answer["outcome"], answer["status"]) == ("applied", "failed")
    job = engine.job(job_id)
    assert job["error_data"]["reason"] == "invalid_wait"
    assert why in job["error_message"]


def test_a_nameless_wait_takes_its_kind_as_name(engine: Engine) -> None:
    """An empty step name would break the lease that resumes it, for everyone."""
    wait(engine, kind="ask", name="", question="?", default=1, timeout_at=later(engine, 5))
    engine.advance(6)

    assert engine.lease_one()["steps"]["ask"]["answer"] == 1


def test_many_children_ending_at_once_resume_their_parent_once(engine: Engine) -> None:
    """Settles race; the parent must neither be lost nor run twice."""
    engine.enqueue()
    parent = engine.lease_one()
    children = engine.spawn(parent, "s", [{"job_type": "work"}] * 32)
    leases = engine.lease(32)

    def settle(part: list[dict[str, Any]]) -> Any:
        def act(other: Engine) -> None:
            for lease in part:
                other.settle(lease)
                other.lease_call(0)

        return act

    parent_waits = lambda other: other.settle(  # noqa: E731
        parent, "waiting", wait={"kind": "children", "name": "all", "job_ids": children}
    )
    answers = engine.race(*[settle(leases[n::4]) for n in range(4)], parent_waits)

    assert not [answer for answer in answers if isinstance(answer, psycopg.Error)]
    assert len(engine.lease_one()["steps"]["all"]["children"]) == 32
