"""Operations: what a filter matches once is acted on in batches, each job once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, handle, refusal
from tests.support.functions import until_waiting

ERROR = {"type": "Boom", "message": "no"}


def begin(engine: Engine, action: str, filter: dict[str, Any], **more: Any) -> Any:
    """An operation over ACME's jobs."""
    request = {"action": action, "filter": filter, **more}
    return engine.rpc("create_operation", p_workspace_id=ACME, p_request=request)


def act(engine: Engine, action: str, filter: dict[str, Any], **more: Any) -> Any:
    """The same, once it is done."""
    return engine.carry_out(begin(engine, action, filter, **more))


def undo(engine: Engine, operation: dict[str, Any]) -> Any:
    """Take an operation back; that is done."""
    return engine.carry_out(engine.rpc("undo_operation", p_operation_id=operation["id"]))


def told(engine: Engine, operation: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """These fields of it now."""
    now = engine.rpc("get_operation", p_operation_id=operation["id"])
    return tuple(now[name] for name in names)


def hold(engine: Engine) -> None:
    """Leave each operation that is begun to maintenance: its creator does nothing of it."""
    engine.run(
        "create function queue.not_yet() returns trigger language plpgsql as"
        " 'begin new.advance_at := new.advance_at + interval ''1 second''; return new; end'"
    )
    engine.run(
        "create trigger not_yet before insert on queue.operations"
        " for each row execute function queue.not_yet()"
    )


def maintain_until(engine: Engine, operation: dict[str, Any], name: str, value: Any) -> None:
    """Maintain until a field of it is this: a call has 250 ms for a batch, or stops before it."""
    for _ in range(1000):
        assert engine.rpc("run_maintenance", p_request={"budget_ms": 5000})["failed"] == []
        if told(engine, operation, name) == (value,):
            return
    raise AssertionError(f"{name} does not become {value}")


def finish(engine: Engine, operation: dict[str, Any]) -> list[int]:
    """Maintain until it has finished; returns how many jobs were done after each batch."""
    done: list[int] = []
    for _ in range(1000):
        engine.advance(2)
        assert engine.rpc("run_maintenance", p_request={"budget_ms": 5000})["failed"] == []
        status, now = told(engine, operation, "status", "done")
        done += [now] if [now] != done[-1:] else []
        if status != "running":
            return done
    raise AssertionError("it does not end")


def fail_some(engine: Engine, count: int) -> list[str]:
    """Dead letters."""
    ids = engine.enqueue_many(count)
    engine.run_all("failed", error=ERROR)
    return ids


def test_what_is_counted_is_what_is_acted_on_and_later_jobs_are_not(engine: Engine) -> None:
    """A job that arrives while it runs is another person's."""
    hold(engine)
    ids = engine.enqueue_many(450)
    engine.register("other")
    other = engine.enqueue(job_type="other")
    request: dict[str, Any] = {"action": "cancel", "filter": {"job_type": "work"}}
    counted, some = (
        engine.rpc("count_operation", p_workspace_id=ACME, p_request=request | more)
        for more in ({}, {"limit": 100})
    )
    made = begin(engine, **request, name="Wrong import")
    engine.advance(2)
    maintain_until(engine, made, "counted", True)
    late = engine.enqueue()

    batches = finish(engine, made)

    assert (counted, some) == ({"count": 450, "more": False}, {"count": 100, "more": True})
    assert (made["status"], made["matched"], made["name"]) == ("running", 0, "Wrong import")
    assert batches == [200, 400, 450]
    assert told(engine, made, "status", "matched", "done", "counted", "more") == (
        "completed", 450, 450, True, False,
    )  # fmt: skip
    assert {engine.status(job_id) for job_id in ids} == {"cancelled"}
    assert (engine.status(other), engine.status(late)) == ("pending", "pending")


@pytest.mark.parametrize("action", ["retry", "replay"])
def test_each_job_has_its_result_in_pages(engine: Engine, action: str) -> None:
    """Done, skipped and why, replayed as which job."""
    ids = fail_some(engine, 3)
    hold(engine)
    made = begin(engine, action, {"job_type": "work"})
    engine.advance(2)
    maintain_until(engine, made, "counted", True)
    engine.rpc("retry_job", p_job_id=ids[0])
    engine.run("delete from public.jobs where id = %s", ids[1])
    finish(engine, made)

    first = engine.rpc("operation_jobs", p_operation_id=made["id"], p_limit=2)
    rest = engine.rpc("operation_jobs", p_operation_id=made["id"], p_cursor=first["next"])
    skipped = engine.rpc("operation_jobs", p_operation_id=made["id"], p_outcome="skipped")

    results = {
        one["job_id"]: (one["outcome"], one["reason"]) for one in first["jobs"] + rest["jobs"]
    }
    assert results == {
        ids[0]: ("skipped", "pending"),
        ids[1]: ("skipped", "deleted"),
        ids[2]: ("done", None),
    }
    assert [one["job_id"] for one in first["jobs"]] == ids[:2], "the oldest first"
    assert rest["next"] is None
    assert len(skipped["jobs"]) == 2
    assert told(engine, made, "done", "skipped", "failed") == (1, 2, 0)
    for function, unknown in (("operation_jobs", "outcome"), ("steer_operation", "action")):
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc(function, p_operation_id=made["id"], **{f"p_{unknown}": "x"})
        assert refusal(refused.value) == ("PT400", "invalid_argument", unknown)


def test_two_who_advance_it_act_on_each_job_once(engine: Engine) -> None:
    """Workers and the call that began it come at the same time."""
    hold(engine)
    ids = fail_some(engine, 500)
    made = [begin(engine, "replay", {"ids": ids}), begin(engine, "retry", {"ids": ids})]
    engine.advance(2)

    def advance(other: Engine) -> None:
        for _ in range(40):
            for one in made:
                other.run(
                    "select queue.advance_operation(%s, queue.clock(), queue.clock())", one["id"]
                )

    assert engine.race(advance, advance, advance) == [None] * 3
    for one in made:
        finish(engine, one)

    done, replays = told(engine, made[0], "done", "matched")
    retried, matched = told(engine, made[1], "done", "matched")
    assert (retried, matched, replays) == (500, 500, 500)
    assert engine.one("select count(*) from public.jobs where replay_of is not null") == done
    assert engine.one("select count(distinct replay_of) from public.jobs") == done
    assert engine.one("select count(*) from public.job_events where type = 'job.redriven'") == 500


def test_a_batch_that_is_lost_is_done_by_the_next(engine: Engine) -> None:
    """A connection that dies in the middle takes nothing with it, and another does not wait."""
    hold(engine)
    fail_some(engine, 120)
    made = begin(engine, "replay", {"job_type": "work"})
    engine.advance(2)
    maintain_until(engine, made, "counted", True)
    step = "select queue.advance_operation(%s, queue.clock(), queue.clock() + interval '1 minute')"
    with engine.beside() as dying:
        dying.run("begin")
        assert dying.one(step, made["id"])
        assert not engine.one(step, made["id"]), "another holds it"
        dying.run("rollback")
    assert told(engine, made, "done") == (0,)
    steps = "select queue.advance_operations(array[%s]::uuid[], queue.clock(), 'infinity')"
    assert engine.one(steps, made["id"]) == 1

    finish(engine, made)

    assert told(engine, made, "status", "done") == ("completed", 120)
    assert engine.one("select count(distinct replay_of) from public.jobs") == 120
    assert engine.one("select count(*) from public.jobs") == 240


def test_it_pauses_resumes_and_stops(engine: Engine) -> None:
    """Between batches; what has been done stays."""
    hold(engine)
    engine.enqueue_many(450)
    made = begin(engine, "cancel", {"job_type": "work"})
    steer = {"p_operation_id": made["id"]}
    engine.advance(2)
    maintain_until(engine, made, "done", 200)
    assert engine.rpc("steer_operation", **steer, p_action="pause")["status"] == "paused"
    engine.run("update queue.operation_jobs set chosen_at = chosen_at - interval '31 days'")
    engine.run("select queue.prune(1000, queue.clock())")  # it has not finished
    engine.advance(2)
    engine.rpc("run_maintenance", p_request={})
    assert told(engine, made, "done") == (200,)
    assert not engine.one("select queue.maintenance_is_due(queue.clock())")

    assert engine.rpc("steer_operation", **steer, p_action="resume")["wake"]
    assert engine.one("select queue.maintenance_is_due(queue.clock())")
    maintain_until(engine, made, "done", 400)
    stopped = engine.rpc("steer_operation", **steer, p_action="stop")
    engine.rpc("run_maintenance", p_request={})

    assert (stopped["status"], stopped["done"], stopped["finished_at"] is None) == (
        "stopped", 400, False,
    )  # fmt: skip
    assert engine.one("select count(*) from public.jobs where status = 'pending'") == 50
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("steer_operation", **steer, p_action="resume")
    assert refusal(refused.value) == ("PT409", "invalid_state", "stopped")
    log = "select action, detail ->> 'kind' from queue.actions order by id"
    assert engine.rows(log) == [
        ("cancel", None), ("pause", "operation"), ("resume", "operation"), ("stop", "operation"),
    ]  # fmt: skip


def test_an_undo_takes_back_what_has_not_started(engine: Engine) -> None:
    """Cancelled jobs are retried when due; retried or replayed ones cancelled unless they began."""
    ids = engine.enqueue_many(3)
    cancel = act(engine, "cancel", {"ids": ids})
    undone = undo(engine, cancel)
    again = engine.rpc("undo_operation", p_operation_id=cancel["id"])

    assert (undone["action"], undone["done"], undone["undo_of"]) == ("retry", 3, cancel["id"])
    assert (again["id"], again["created"]) == (undone["id"], False)
    assert told(engine, cancel, "undone_by") == (undone["id"],)
    assert {engine.status(job_id) for job_id in ids} == {"pending"}

    later = engine.enqueue(delay_seconds=3600)
    due = engine.rpc("get_job", p_job_id=later)["scheduled_for"]
    undo(engine, act(engine, "cancel", {"ids": [later]}))
    restored = engine.rpc("get_job", p_job_id=later)
    assert (restored["state"], restored["scheduled_for"]) == ("scheduled", due)

    engine.run_all("failed", error=ERROR)
    retry = act(engine, "retry", {"state": ["failed"]})
    lease, tried = engine.lease(2)
    engine.settle(tried, "retry", error=ERROR)
    undone = undo(engine, retry)
    assert (undone["action"], undone["done"], undone["skipped"]) == ("cancel", 1, 2)
    assert engine.status(lease["job"]["id"]) == "processing"
    assert engine.status(tried["job"]["id"]) == "pending"

    engine.settle(lease)
    replay = act(engine, "replay", {"state": ["completed"]})
    undone = undo(engine, replay)
    [result] = engine.rpc("operation_jobs", p_operation_id=replay["id"])["jobs"]
    assert (undone["done"], engine.status(lease["job"]["id"])) == (1, "completed")
    assert engine.status(result["new_job_id"]) == "cancelled"

    cancelled = engine.enqueue_many(2)
    cancel = act(engine, "cancel", {"ids": cancelled})
    engine.run(
        "update queue.operation_jobs set outcome = 'skipped' where job_id = %s", cancelled[0]
    )
    assert undo(engine, cancel)["matched"] == 1
    assert [engine.status(job_id) for job_id in cancelled] == ["cancelled", "pending"]

    cancel = act(engine, "cancel", {"ids": [cancelled[1]]})
    engine.rpc("retry_job", p_job_id=cancelled[1])
    engine.run_all("failed", error=ERROR)
    assert undo(engine, cancel)["done"] == 0
    assert engine.status(cancelled[1]) == "failed", "it failed since, which no one takes back"

    nothing = act(engine, "retry", {"job_type": "none"})
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("undo_operation", p_operation_id=nothing["id"])
    assert refusal(refused.value) == ("PT409", "invalid_state", "completed")

    hold(engine)
    cancel = begin(engine, "cancel", {"ids": engine.enqueue_many(250)})
    engine.advance(2)
    maintain_until(engine, cancel, "done", 200)
    engine.run("drop trigger not_yet on queue.operations")
    assert undo(engine, cancel)["done"] == 200
    assert told(engine, cancel, "status", "done") == ("stopped", 200), "it is stopped first"


def test_a_replay_that_is_refused_does_not_stop_the_rest(engine: Engine) -> None:
    """Its reason stands beside the job."""
    engine.register("strict")
    good, bad = fail_some(engine, 1)[0], engine.enqueue(job_type="strict", payload={"n": "x"})
    engine.run_all("failed", error=ERROR)
    engine.register("strict", payload_schema={"type": "object", "required": ["must"]})

    made = act(engine, "replay", {"state": ["failed"]})

    results = engine.rpc("operation_jobs", p_operation_id=made["id"])["jobs"]
    assert (made["status"], made["done"], made["failed"]) == ("completed", 1, 1)
    assert {one["job_id"]: one["outcome"] for one in results} == {good: "done", bad: "failed"}
    [failed] = [one for one in results if one["outcome"] == "failed"]
    assert failed["reason"].startswith("payload_invalid: ")


def test_the_databases_own_trouble_is_no_jobs_failure(engine: Engine) -> None:
    """The operation would end with jobs that no one replays."""
    fail_some(engine, 1)
    engine.run(
        "create function public.busy() returns trigger language plpgsql as"
        " 'begin raise exception using errcode = ''40001''; end'"
    )
    engine.run(
        "create trigger busy before insert on public.jobs"
        " for each row execute function public.busy()"
    )

    with pytest.raises(psycopg.errors.SerializationFailure):
        begin(engine, "replay", {"state": ["failed"]})


def test_it_works_as_the_person_who_began_it(engine: Engine) -> None:
    """Their rate limit, their place in the log, and no longer than they belong there."""
    engine.stop_clock()
    hold(engine)
    fail_some(engine, 8)
    engine.rpc("set_settings", p_settings={"user_enqueues_burst": 3})
    with engine.member(BOB) as bob:
        made = begin(bob, "replay", {"state": ["failed"]})
    engine.advance(2)
    for _ in range(1000):
        engine.maintain()
        if told(engine, made, "reason") != (None,):
            break

    status, done, reason = told(engine, made, "status", "done", "reason")
    assert (status, "enqueues a second" in reason) == ("running", True)
    assert 0 < done < 8
    assert not engine.one("select queue.maintenance_is_due(queue.clock())"), "it waits"
    for _ in range(1000):
        engine.advance(11)
        engine.maintain()
        if told(engine, made, "status") != ("running",):
            break
    assert told(engine, made, "status", "done", "reason") == ("completed", 8, None)
    made_by = "select distinct user_id::text from public.jobs where replay_of is not null"
    assert engine.rows(made_by) == [BOB]
    log = "select user_id::text, jobs from queue.actions where action = 'replay'"
    assert engine.rows(log) == [(BOB, 8)]

    with engine.member(BOB) as bob:
        made = begin(bob, "replay", {"state": ["failed"]})
    engine.run("delete from public.workspace_members where user_id = %s", BOB)
    engine.advance(2)
    with engine.connection.transaction():
        engine.maintain()
        assert engine.one("select auth.uid()") is None, "what maintenance does next is its own"
    finish(engine, made)
    status, done, reason = told(engine, made, "status", "done", "reason")
    assert (status, done) == ("stopped", 0)
    assert "no longer belongs" in reason


def test_no_one_else_reads_or_steers_it(engine: Engine) -> None:
    """A stranger learns no more than of an id that never was."""
    engine.enqueue_many(2)
    with engine.member(ADA) as ada:
        made = act(ada, "cancel", {"job_type": "work"})
        assert ada.rpc("list_operations", p_workspace_id=ACME)["operations"][0]["done"] == 2
        with pytest.raises(psycopg.Error) as refused:
            ada.rpc("steer_operation", p_operation_id=made["id"], p_action="pause")
        assert refusal(refused.value) == ("PT409", "invalid_state", "completed")
    with engine.member(EVE) as eve:
        for function, more in (
            ("get_operation", {}), ("operation_jobs", {}), ("undo_operation", {}),
            ("steer_operation", {"p_action": "stop"}),
        ):  # fmt: skip
            with pytest.raises(psycopg.Error) as refused:
                eve.rpc(function, p_operation_id=made["id"], **more)
            assert refusal(refused.value)[:2] == ("PT404", "operation_not_found")
        assert eve.rpc("list_operations", p_workspace_id=GLOBEX)["operations"] == []
        with pytest.raises(psycopg.Error) as refused:
            eve.rpc("list_operations", p_workspace_id=ACME)
        assert refusal(refused.value)[:2] == ("PT404", "workspace_not_found")
        mine = {"action": "cancel", "filter": {"ids": engine.rows("select id::text from jobs")}}
        assert eve.rpc("count_operation", p_workspace_id=GLOBEX, p_request=mine)["count"] == 0
        with pytest.raises(psycopg.Error) as refused:
            begin(eve, "cancel", {"job_type": "work"})
        assert refusal(refused.value)[:2] == ("PT404", "workspace_not_found")


def test_open_operations_and_kept_results_are_bounded(engine: Engine) -> None:
    """One workspace's clicks do not fill the disk, nor maintenance."""
    hold(engine)
    engine.enqueue()
    known = [
        engine.one("select queue.setting(%s)", name)
        for name in ("max_open_operations", "max_operation_jobs", "operation_days")
    ]
    assert known == [10, 1_000_000, 30]
    engine.rpc("set_settings", p_settings={"max_open_operations": 2, "max_operation_jobs": 2})
    made = [begin(engine, "cancel", {"job_type": "work"}) for _ in range(2)]
    with pytest.raises(psycopg.Error) as refused:
        begin(engine, "cancel", {"job_type": "work"})
    assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_open_operations")

    retry = {"action": "retry", "filter": {}}
    elsewhere = engine.rpc("create_operation", p_workspace_id=GLOBEX, p_request=retry)
    assert elsewhere["created"], "another workspace's are its own"
    listed: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": None}
    while not listed or page["next"]:
        page = engine.rpc("list_operations", p_workspace_id=ACME, p_cursor=page["next"], p_limit=1)
        listed += page["operations"]
    assert [one["id"] for one in listed] == [made[1]["id"], made[0]["id"]]
    assert page["operations"], "the last page is none of its own"
    for one in (*made, elsewhere):
        finish(engine, one)
    with pytest.raises(psycopg.Error) as refused:
        begin(engine, "cancel", {"job_type": "work"})
    assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_operation_jobs")
    engine.advance(31 * 86_400)
    for _ in range(2):
        engine.run("select queue.prune(100, queue.clock())")
    assert engine.one("select count(*) from queue.operations") == 0
    assert begin(engine, "cancel", {"job_type": "work"})["status"] == "running"


def test_a_repeated_key_begins_nothing(engine: Engine) -> None:
    """A request that was repeated after a lost answer."""
    engine.enqueue()
    first = act(engine, "cancel", {"job_type": "work"}, idempotency_key="k")
    engine.enqueue()
    again = begin(engine, "cancel", {"job_type": "work"}, idempotency_key="k")

    request = {"action": "cancel", "filter": {"job_type": "work"}, "idempotency_key": "k"}
    other = engine.rpc("create_operation", p_workspace_id=GLOBEX, p_request=request)
    assert (first["created"], again["created"], again["id"]) == (True, False, first["id"])
    assert other["created"], "a key is its workspace's"
    assert engine.one("select count(*) from public.jobs where status = 'pending'") == 1


def test_those_that_begin_at_once_begin_one_after_the_other(engine: Engine) -> None:
    """A repeat under way beside its first begins nothing; none passes by the bound unseen."""
    hold(engine)
    engine.rpc("set_settings", p_settings={"max_open_operations": 1})
    with engine.beside() as first, engine.beside() as third, ThreadPoolExecutor(2) as threads:
        first.run("begin")
        made = begin(first, "retry", {}, idempotency_key="k")
        repeat = threads.submit(begin, engine, "retry", {}, idempotency_key="k")
        other = threads.submit(begin, third, "retry", {})
        until_waiting(engine.database, 2)
        first.run("commit")
        again = repeat.result(60)
        with pytest.raises(psycopg.Error) as refused:
            other.result(60)

    assert (again["id"], again["created"]) == (made["id"], False)
    assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_open_operations")


def test_one_that_ends_at_this_moment_is_not_stopped_any_more(engine: Engine) -> None:
    """Who stops it is told what it came to, and not that it stopped half-way."""
    fail_some(engine, 1)
    hold(engine)
    made = begin(engine, "retry", {"state": ["failed"]})
    engine.advance(2)
    with engine.beside() as worker, ThreadPoolExecutor(1) as threads:
        worker.run("begin")
        finish(worker, made)
        steered = {"p_operation_id": made["id"], "p_action": "stop"}
        late = threads.submit(engine.rpc, "steer_operation", **steered)
        until_waiting(engine.database)
        worker.run("commit")
        with pytest.raises(psycopg.Error) as refused:
            late.result(60)

    assert refusal(refused.value) == ("PT409", "invalid_state", "completed")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"action": "delete"}, "action"),
        ({"action": "cancel", "filter": {"jobtype": "x"}}, "jobtype"),
        ({"action": "cancel", "filter": {"state": ["failed"]}}, "state"),
        ({"action": "retry", "filter": {"status": ["completed"]}}, "status"),
        ({"action": "retry", "filter": {"workspace_id": ACME}}, "filter"),
        ({"action": "retry", "filter": {"ids": ["x"]}}, "filter"),
        ({"action": "retry", "name": ""}, "name"),
        ({"action": "retry", "limit": 1.5}, "limit"),
        ({"action": "retry", "limit": 0}, "limit"),
        ({"action": "retry", "fitler": {}}, "fitler"),
    ],
)
def test_a_request_that_means_nothing_is_refused(
    engine: Engine, request_: dict[str, Any], field: str
) -> None:
    """A typo must not match everything."""
    for function in ("create_operation", "count_operation"):
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc(function, p_workspace_id=ACME, p_request=request_)
        assert refusal(refused.value) == ("PT400", "invalid_argument", field), function


@pytest.mark.parametrize("action", ["cancel", "replay"])
@pytest.mark.parametrize("filter", [{}, {"filter": {}}, {"filter": {"tag": None}}])
def test_all_jobs_are_not_chosen_by_naming_none(
    engine: Engine, action: str, filter: dict[str, Any]
) -> None:
    """As over HTTP; to retry all that failed is a usual thing to want."""
    engine.enqueue()

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("create_operation", p_workspace_id=ACME, p_request={"action": action, **filter})

    assert refusal(refused.value) == ("PT422", "validation_failed", "filter")
    assert begin(engine, "retry", {})["created"]


def test_a_retry_is_of_failed_jobs_unless_it_names_cancelled_ones(engine: Engine) -> None:
    """What a person stopped does not start again with what went wrong."""
    [failed] = fail_some(engine, 1)
    cancelled = engine.enqueue()
    engine.rpc("cancel_job", p_job_id=cancelled)

    act(engine, "retry", {})
    assert (engine.status(failed), engine.status(cancelled)) == ("pending", "cancelled")
    act(engine, "retry", {"status": ["cancelled"]})
    assert engine.status(cancelled) == "pending"


def test_the_newest_within_a_limit_are_chosen(engine: Engine) -> None:
    """And it says that others match."""
    ids = fail_some(engine, 25)
    engine.enqueue_many(3, workspace=GLOBEX)
    engine.run_all("failed", error=ERROR)

    made = act(engine, "retry", {"error_type": "Boom"}, limit=10)

    assert (made["matched"], made["done"], made["more"]) == (10, 10, True)
    assert {engine.status(job_id) for job_id in ids[15:]} == {"pending"}
    rest = act(engine, "retry", {}, limit=15)
    assert (rest["done"], rest["more"]) == (15, False)
    assert engine.one("select count(*) from public.jobs where status = 'failed'") == 3


def test_a_backlog_is_searched_in_slices(engine: Engine) -> None:
    """What no index holds together is looked for a part at a time."""
    hold(engine)
    engine.register("other")
    engine.enqueue_many(3000)
    wanted = engine.enqueue_many(3, job_type="other")
    engine.enqueue_many(3000)
    engine.enqueue(delay_seconds=60, job_type="other")
    made = begin(engine, "cancel", {"job_type": "other"})
    engine.advance(2)
    step = "select queue.advance_operation(%s, queue.clock(), '-infinity')"
    slices = 0
    while not told(engine, made, "counted")[0]:
        assert engine.one(step, made["id"])
        slices += 1

    finish(engine, made)

    assert slices >= 4
    assert told(engine, made, "matched", "done") == (4, 4)
    assert {engine.status(job_id) for job_id in wanted} == {"cancelled"}


def test_a_running_job_is_asked_to_stop(engine: Engine) -> None:
    """As one cancel does; and not asked twice."""
    engine.enqueue_many(2)
    lease = engine.lease_one(limit=1)

    made = act(engine, "cancel", {"state": ["running"]})
    again = act(engine, "cancel", {"state": ["running"]})

    assert (made["done"], engine.report(lease)) == (1, "cancel")
    assert (again["done"], again["skipped"]) == (0, 1)
    engine.settle_all([{**handle(lease), "outcome": "cancelled"}])
    assert engine.one("select count(*) from public.jobs where status = 'pending'") == 1
