"""Maintenance is bounded, exclusive and fair. An old queue costs as much as a new one."""

import pytest

from tests.contract.observed import refused
from tests.support.engine import ACME, GLOBEX, Engine, Json, ids_of

TABLES = (
    "select relid::regclass::text from pg_stat_user_tables where schemaname ~ '^(queue|public)$'"
)
IDS_OF_THE_CLOCK = """
create or replace function queue.new_id() returns uuid language sql volatile as $$
  select (left(queue.id_at(queue.clock())::text, 14) || '7'
    || substr(gen_random_uuid()::text, 16))::uuid $$;
create or replace function queue.new_ids(p_count integer) returns uuid[] language sql as $$
  select array(select queue.new_id() from generate_series(1, p_count) order by 1) $$;
"""


def sizes(engine: Engine) -> dict[str, int]:
    """Return the number of rows of every table of the project."""
    return {table: engine.count(table) for table in engine.rows(TABLES)}


def test_one_maintains_at_a_time_and_the_others_are_answered_busy(engine: Engine) -> None:
    """While one maintenance call runs, another call returns `busy` immediately."""
    with engine.open_transaction() as other:
        other.rpc("run_maintenance", p_request={})
        assert engine.rpc("run_maintenance", p_request={}).get("busy") is True


def test_retention_removes_what_ended_by_how_it_ended(engine: Engine) -> None:
    """Ended jobs are deleted after the retention days of their status.

    Live jobs stay, and so do child jobs for which a parent waits.
    """
    kept = {"completed": 1, "cancelled": 1, "failed": 10}
    engine.set(retention_days=kept)
    done, failed, live, parent = engine.enqueue_many(4)
    by_id = {lease["job"]["id"]: lease for lease in engine.lease(4)}
    engine.settle(by_id[done], logs=[{"level": "info", "message": "m"}])
    engine.settle(by_id[failed], "failed")
    engine.settle(by_id[live], "snoozed", delay_seconds=86400 * 30)
    [child, other] = engine.spawn(by_id[parent], "s", [{"job_type": "work"}] * 2)
    engine.suspend(by_id[parent], kind="children", job_ids=[child, other])
    engine.settle(engine.lease(1)[0])

    def left() -> set[str]:
        for _ in range(3):
            engine.elapse(3700)
        return {str(one) for one in engine.rows("select id from jobs")}

    engine.advance(2 * 86400)
    assert left() == {failed, live, parent, child, other}
    engine.advance(10 * 86400)
    assert left() == {live, parent, child, other}
    assert engine.count("job_logs") == 0


def some_life(engine: Engine, day: int) -> None:
    """Create rows in every table, as one day of use does."""
    keys: Json = {"concurrency_key": f"k{day}", "session_id": f"s{day}"}
    keys |= {"idempotency_key": f"i{day}", "unique": {"key": f"u{day}"}, "tags": [f"t{day}"]}
    for workspace in (ACME, GLOBEX):
        engine.enqueue_many(3, workspace=workspace)
        engine.enqueue(workspace=workspace, job_type="keyed", **keys)
        engine.enqueue(workspace=workspace, job_type="rated", concurrency_key=f"k{day}")
        engine.rpc("emit_event", p_workspace_id=workspace, p_name=f"e{day}")
    news: Json = {"progress": {"percentage": 1}, "steps": [{"name": "s", "result": 1}]}
    wait = {"kind": "event", "name": "w", "event": f"e{day}"}
    end = {"wait": wait, "error": {"type": "E", "message": f"m{day}"}, "delay_seconds": 60}
    outcomes = ("completed", "failed", "retry", "cancelled", "waiting", "snoozed")
    for number, lease in enumerate(engine.lease(20, worker=f"w{day}")):
        engine.report(lease, **news, logs=[{"level": "info", "message": "m"}])
        engine.settle(lease, outcomes[number % 6], **end)
    run = {"tick_id": f"00000000-0000-4000-8000-{day:012}", "worker_id": "w", "limit": 0}
    engine.rpc("lease_jobs", p_request={**run, "most": 9, "run_seconds": 60})
    engine.advance(4000)
    engine.run_all()
    engine.maintain()


@pytest.mark.parametrize("steps", [pytest.param(12, marks=pytest.mark.weekly(only=True)), 4])
def test_a_simulated_year_leaves_every_table_flat(engine: Engine, steps: int) -> None:
    """No table grows between the second and the last third of a simulated year.

    `make test` simulates four months, in steps of ten days.
    """
    engine.register("keyed", key_concurrency=1, schedules=[{"name": "n", "cron": "@hourly"}])
    engine.register("rated", rate_limit={"limit": 5, "per_seconds": 60, "per_key": True})
    engine.publish_deliveries()
    engine.put_webhook()
    kept = {"completed": 5, "cancelled": 5, "failed": 5}
    engine.set(retention_days=kept)
    engine.run(IDS_OF_THE_CLOCK)
    seen: list[dict[str, int]] = []
    for window in range(3):
        for day in range(steps):
            some_life(engine, 100 * window + day)
            engine.elapse(10 * 86400 - 4000)
            engine.maintain()
        seen.append(sizes(engine))

    was, now = seen[1], seen[2]
    assert {t: (was[t], now[t]) for t in now if now[t] > 1.1 * was[t] + 5} == {}


def test_a_rate_of_a_week_is_not_forgiven_by_the_sweep(engine: Engine) -> None:
    """Maintenance keeps the state of a rate limit of one job per week until the week is over."""
    engine.stop_clock()
    for name, per_key in (("work", False), ("keyed", True)):
        rate = {"limit": 1, "per_seconds": 7 * 86400, "per_key": per_key}
        engine.register(name, rate_limit=rate)
        engine.enqueue_many(2, job_type=name)
    engine.complete(engine.lease())
    engine.elapse(6 * 86400)
    assert engine.lease() == []

    engine.advance(86400)
    assert len(engine.lease()) == 2


def asks_for_maintenance(engine: Engine) -> bool:
    """Return whether the response to a lease asks the worker to call maintenance."""
    return engine.lease_call(1, call=2)["maintenance"]


def test_a_lease_says_when_maintenance_is_due(engine: Engine) -> None:
    """A lease asks the worker to call maintenance as soon as work is due, and not before."""
    engine.maintain()
    assert not asks_for_maintenance(engine)
    engine.enqueue(delay_seconds=30)
    answer = engine.lease_call(1, call=2)
    assert 0 < answer["next_due_in_ms"] <= 30_000
    engine.advance(6)
    assert asks_for_maintenance(engine), "maintenance must read the enqueue for the statistics"
    engine.maintain()
    engine.elapse(20)
    assert not asks_for_maintenance(engine)
    engine.advance(6)
    assert asks_for_maintenance(engine)


def test_a_line_that_belongs_to_no_time_of_its_job_is_met_once(engine: Engine) -> None:
    """Maintenance deletes a row of queue.deferred whose job is gone or has another time."""
    engine.maintain()
    later = engine.enqueue(delay_seconds=3600)
    lines = "select queue.clock(), i, %s, true from unnest(array[%s::uuid, queue.new_id()]) as i"
    engine.run(f"insert into queue.deferred {lines}", ACME, later)

    engine.maintain()

    assert engine.rows("select job_id::text from queue.deferred") == [later]
    assert engine.status(later) == "pending"
    engine.elapse(3600)
    assert engine.rows("select job_id from queue.deferred") == []
    assert ids_of(engine.lease()) == [later]


@pytest.mark.parametrize("job_type", ["keyed", "work"])
def test_a_job_retried_at_its_latest_start_has_one_place(engine: Engine, job_type: str) -> None:
    """A job retried at the instant of its latest start runs once.

    Its concurrency key stays usable.
    """
    engine.register("keyed", key_concurrency=1)
    engine.stop_clock()
    options: Json = {"job_type": job_type, "concurrency_key": "k"}
    first, lease = engine.start(start_by_seconds=1, **options)
    engine.advance(1)
    engine.settle(lease, "retry", retry_after_seconds=0)
    engine.elapse(1)
    second = engine.enqueue(**options)

    engine.run_all()

    assert [engine.status(first), engine.status(second)] == ["completed", "completed"]


def test_what_someone_holds_is_due_again_a_second_later(engine: Engine) -> None:
    """Maintenance that meets a locked job is due again one second later.

    It does other work meanwhile.
    """
    engine.stop_clock()
    engine.lease_call(1)
    held = engine.enqueue(delay_seconds=5)
    engine.advance(6)
    with engine.open_transaction("select from jobs where id = %s for update", held):
        engine.maintain()
        assert not asks_for_maintenance(engine)
        engine.advance(1)
        assert asks_for_maintenance(engine)
        engine.maintain()
        engine.enqueue(delay_seconds=0.5)
        engine.advance(0.6)
        assert asks_for_maintenance(engine)

    engine.run("update queue.tasks set retry_at = queue.clock() + interval '1 hour'")
    engine.advance(60)
    assert not asks_for_maintenance(engine), "all tasks are postponed"


def test_one_tenants_many_schedules_and_webhooks_delay_no_others(engine: Engine) -> None:
    """One tenant has 1,500 due schedules and webhooks.

    Another tenant's first one is among the first two that maintenance handles.
    """
    engine.register("other")
    for workspace in (ACME, GLOBEX):
        engine.put_webhook(workspace)
        engine.put_schedule(workspace)
    for table, key in (("webhooks", "id"), ("schedules", "name")):
        engine.run(
            f"insert into queue.{table} select (jsonb_populate_record(t, jsonb_build_object("
            f"'id', gen_random_uuid(), '{key}', gen_random_uuid()))).* from queue.{table} as t"
            f" cross join generate_series(1, 1500) where t.workspace_id = '{ACME}'"
        )
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace, job_type="other")
    engine.advance(61)

    made = "select workspace_id::text from jobs where job_type = %s order by id"
    for job_type in ("webhook_delivery", "work"):
        while len(engine.rows(made, job_type)) < 2:
            engine.rpc("run_maintenance", p_request={})
        assert GLOBEX in engine.rows(made, job_type)[:2]


def test_schedules_above_a_lowered_limit_of_bytes_can_still_be_changed(engine: Engine) -> None:
    for name in "abcdef":
        engine.put_schedule(name=name, payload={"text": "x" * 900})
    engine.set(payload_max_bytes=1024)
    assert engine.put_schedule(name="a", payload={"text": "x" * 800})["name"] == "a"
    longer = refused(engine.put_schedule, name="a", payload={"text": "x" * 900})
    assert longer[1] == "quota_exceeded"


def test_a_workspace_has_a_most_of_schedules_webhooks_and_deliveries(engine: Engine) -> None:
    engine.set(webhooks_max=1, schedules_max=1)
    engine.publish_deliveries()
    for _ in range(2):
        engine.put_schedule(cron="@daily")  # the second call updates the schedule
    most = ("PT429", "quota_exceeded", "schedules_max")
    assert refused(engine.put_schedule, name="t") == most
    engine.put_webhook()
    assert refused(engine.put_webhook)[2] == "webhooks_max"

    engine.limit(max_pending=3)
    engine.enqueue_many(4)
    engine.elapse(2)
    [shown] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert "at most 3 live jobs" in shown["last_answer"]
    engine.run_all()
    engine.elapse(2)
    assert engine.lease(job_types=["webhook_delivery"])


def test_a_clock_that_goes_back_delays_nothing(engine: Engine) -> None:
    """A clock that was an hour ahead goes back.

    Due jobs and expired leases are still handled in time.
    """
    engine.enqueue_many(2)
    engine.elapse(3600)
    dead = engine.lease_one(limit=1)
    engine.advance(-3600)
    due = engine.enqueue(delay_seconds=1)
    engine.advance(2)
    assert engine.rpc("run_maintenance", p_request={})["done"]["promotion"] == 1
    engine.elapse(61)
    # The job of the lost worker is leased alone, and the other jobs by another worker.
    leased = ids_of([*engine.lease(5, worker="w2"), *engine.lease(5, worker="w3")])
    assert {dead["job"]["id"], due} <= set(leased)


def test_retention_goes_on_until_its_time_is_over(engine: Engine) -> None:
    engine.enqueue_many(3000)
    engine.run_all()
    engine.advance(86400 * 40)
    with engine.open_transaction("select from jobs order by id limit 1 for update"):
        while engine.rpc("run_maintenance", p_request={"budget_ms": 5000})["more"]:
            pass
    assert engine.count("jobs") == 1


def test_a_task_that_failed_is_retried_soon_on_a_quiet_queue(engine: Engine) -> None:
    """A maintenance task that failed is retried soon, even if the queue has no other work."""
    engine.maintain()
    engine.run("alter function queue.do_sweep rename to away")
    engine.elapse(61)
    engine.run("alter function queue.away rename to do_sweep")
    engine.elapse(3600)  # no other task is due
    is_due = "select queue.maintenance_is_due(queue.clock(), false)"
    engine.advance(1)
    assert engine.one(is_due) is False


def test_a_queue_that_nothing_names_for_a_day_is_swept(engine: Engine) -> None:
    """A queue that no job type uses for a day is deleted.

    A retried job of that queue goes to the queue of its job type.
    """
    engine.register(queue="old")
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "failed")
    engine.register(queue="new")
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace)
    engine.settle(engine.lease_one(limit=1))  # both queues now share one order of tenants
    engine.put_schedule(cron="@daily", options={"queue": None}, enabled=False)
    for seconds in (7300, 61, 80_000, 7000):
        engine.enqueue(queue="old" if seconds == 61 else "new")  # does not keep the queue
        engine.run_all()
        engine.elapse(seconds)
    engine.advance(86_500)
    with engine.open_transaction() as other:
        other.maintain()
        engine.retry(job_id)
    assert engine.rows("select queue from queue.lanes where job_type = 'work'") == ["new"]
    assert refused(engine.enqueue, queue="old")[1] == "unknown_queue"
    assert {job_id, engine.enqueue(workspace=GLOBEX)} == set(ids_of(engine.lease()))


def test_explanations_delay_the_end_of_many_late_jobs_only_briefly(engine: Engine) -> None:
    """An explanation takes longer if many jobs wait, and a batch has hundreds of late jobs."""
    engine.enqueue_many(20, start_by_seconds=5)
    engine.advance(10)
    engine.run("alter function queue.explain rename to away")
    engine.run(
        "create function queue.explain(jobs, jsonb, queue.workers[], timestamptz, boolean)"
        " returns jsonb language sql stable"
        " as 'select jsonb_build_object(''sentence'', ''slow'', ''after'', pg_sleep(0.2))'"
    )
    engine.maintain()
    assert engine.count("jobs where status = 'cancelled'") == 20
    assert engine.count("jobs where error_data ->> 'waited' = 'slow'") <= 3
