# ruff: noqa: E501 - queries and requests stay on one line
"""Retention, statistics, health: what ticks do besides running jobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, GLOBEX, Engine, handle, refusal
from tests.support.functions import until

ERROR = {"type": "KeyError", "message": "no field 7"}
SYSTEM = "ffffffff-ffff-4fff-bfff-ffffffffffff"


def test_retention_deletes_in_bounded_batches_by_status(engine: Engine) -> None:
    """Completed after 30 days, dead letters after 90, live ones never."""
    engine.enqueue_many(700)
    engine.run_all()
    engine.enqueue()
    engine.settle(engine.lease_one(), "failed", error=ERROR)
    live = engine.enqueue(delay_seconds=3e6 * 60)
    engine.run("update queue.settings set value = '500' where name = 'retention_batch'")
    engine.advance(31 * 86400)

    engine.lease_call(0)
    assert engine.one("select count(*) from public.jobs where status = 'completed'") == 200
    for _ in range(3):
        engine.advance(60)
        engine.lease_call(0)
    assert engine.rows("select status, count(*) from public.jobs group by 1 order by 1") == [
        ("failed", 1),
        ("pending", 1),
    ]
    assert engine.one("select count(*) from public.job_events") == 4
    assert engine.one("select queue.remove_jobs(array[%s]::uuid[], queue.clock())", live) == 0
    engine.advance(60 * 86400)
    for _ in range(4):
        engine.advance(60)
        engine.lease_call(0)
    assert [str(one) for one in engine.rows("select id from public.jobs")] == [live]


def in_a_minute(engine: Engine) -> str:
    """That instant."""
    return str(engine.one("select queue.clock() + interval '1 minute'"))


SCHEDULE = {"name": "s", "cron": "* * * * *", "job_type": "work"}
COMES: dict[str, Callable[[Engine], Any]] = {
    "a job's time": lambda e: e.enqueue(delay_seconds=60),
    "a job's deadline": lambda e: e.enqueue(deadline_at=in_a_minute(e)),
    "a lease's end": lambda e: (e.enqueue(), e.lease_one(lease_seconds=60)),
    "a wait's end": lambda e: (
        e.enqueue(),
        e.settle(
            e.lease_one(), "waiting", wait={"kind": "sleep", "name": "s", "until": in_a_minute(e)}
        ),
    ),
    "a schedule's time": lambda e: e.rpc("put_schedule", p_workspace_id=ACME, p_schedule=SCHEDULE),
    "retention": lambda e: (e.enqueue(), e.run_all()),
    "nothing": lambda e: None,
    "nothing, as a schedule is off": lambda e: e.rpc(
        "put_schedule", p_workspace_id=ACME, p_schedule={**SCHEDULE, "enabled": False}
    ),
    "nothing, as a schedule is held": lambda e: (
        e.rpc("put_schedule", p_workspace_id=ACME, p_schedule=SCHEDULE),
        e.rows("update queue.schedules set held_until = 'infinity' returning id"),
    ),
}


@pytest.mark.parametrize("name", COMES)
def test_maintenance_is_due_when_something_comes_and_not_before(engine: Engine, name: str) -> None:
    """A worker that is asked too early costs an idle queue; one that is not asked, the job."""
    engine.stop_clock()
    due = "select queue.maintenance_is_due(queue.clock())"
    COMES[name](engine)
    for _ in range(100):
        if engine.one(due):
            engine.maintain()
    assert not engine.one(due)

    engine.advance(60)

    assert engine.one(due) is not name.startswith("nothing")
    schedules = engine.one("select queue.due_items('schedules', 9, queue.clock())")
    assert len(schedules) == (name == "a schedule's time")


@pytest.mark.parametrize(
    "left",
    [
        "queue.signals (kind, job_id) values ('check', gen_random_uuid())",
        "queue.outbox (webhook_id, job_id, seq, stream_id) select i, i, 1, i from gen_random_uuid() as i",
        "queue.held_topics (workspace_id, topic, held_at) values (gen_random_uuid(), 't', now())",
    ],
)
def test_maintenance_is_due_at_once_for_what_is_left_to_it(engine: Engine, left: str) -> None:
    """Ends that others wait for, deliveries and announcements."""
    due = "select queue.maintenance_is_due(queue.clock())"
    with engine.connection.transaction(force_rollback=True):
        assert not engine.one(due)
        engine.run(f"insert into {left}")
        assert engine.one(due)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("promotion", "a job's time"),
        ("expire", "a job's deadline"),
        ("reclaim", "a lease's end"),
        ("waits", "a wait's end"),
        ("schedules", "a schedule's time"),
        ("retention", "retention"),
    ],
)
def test_a_parked_item_leaves_its_place_to_the_next(engine: Engine, task: str, name: str) -> None:
    """Of its own task; what is done is due no more."""
    engine.stop_clock()
    for _ in range(1 if task == "schedules" else 2):
        COMES[name](engine)
    engine.advance(60 if task != "retention" else 31 * 86400)
    due = "select queue.due_items(%s, %s, queue.clock())"
    first, *others = engine.one(due, task, 10)

    engine.run("select queue.park('another', %s, 'e', queue.clock())", first)
    assert {*engine.one(due, task, 10)} == {first, *others}
    engine.run("select queue.park(%s, %s, 'e', queue.clock())", task, first)
    assert engine.one(due, task, 1) == others

    engine.run("delete from queue.parked")
    engine.maintain()
    assert engine.one(due, task, 10) == []


def test_a_leased_jobs_deadline_is_left_to_its_worker(engine: Engine) -> None:
    """Maintenance takes none away."""
    engine.enqueue(deadline_at=in_a_minute(engine))
    engine.lease_one(lease_seconds=600)
    engine.advance(70)

    assert engine.one("select queue.due_items('expire', 10, queue.clock())") == []


def test_of_too_many_due_jobs_each_tenant_gets_a_share(engine: Engine) -> None:
    """Half of the places are the oldest's; what is not due yet has none."""
    engine.stop_clock()
    many = engine.enqueue_many(9, delay_seconds=5)
    one = engine.enqueue(workspace=GLOBEX, delay_seconds=9)
    engine.enqueue(workspace=GLOBEX, delay_seconds=99)
    engine.advance(10)

    due = [str(job) for job in engine.one("select queue.due_jobs(8, queue.clock())")]

    assert one in due
    assert {*due} <= {*many, one}
    assert 4 < len(due) <= 8


def test_every_task_has_its_own_pace(engine: Engine) -> None:
    """In order, and what locks most comes last."""
    engine.stop_clock()
    engine.run(
        "update queue.maintenance_tasks set done_at = queue.clock(), failed_at = queue.clock()"
    )

    paces = engine.rows(
        "select t, (select min(s) from generate_series(0, 300) as s where t in"
        " (select queue.due_tasks(queue.clock() + make_interval(secs => s))))"
        " from queue.due_tasks(queue.clock() + interval '1 hour') as t"
    )

    assert paces == [
        *(("reclaim", 0), ("waits", 0), ("signals", 0), ("schedules", 1), ("promotion", 0)),
        *(("deliveries", 0), ("expire", 1), ("statistics", 15), ("retention", 10)),
        *(("old_rows", 60), ("orphans", 300), ("messages", 0), ("sweep", 60), ("buckets", 60)),
        ("histories", 60),
    ]


def instead(engine: Engine, function: str, returns: str, body: str) -> None:
    """Let a part of maintenance do something else."""
    engine.run(
        f"create or replace function queue.{function} returns {returns} language plpgsql"
        f" as $$ begin {body}; end; $$"
    )


TRY = "try_to_maintain(p_task text, p_now timestamptz, p_until timestamptz)"


@pytest.mark.parametrize(
    ("request_", "milliseconds"),
    [({}, 1000), ({"budget_ms": 1}, 50), ({"budget_ms": 2000}, 2000), ({"budget_ms": 9e6}, 5000)],
)
def test_a_call_has_its_budget_within_bounds(
    engine: Engine, request_: dict[str, float], milliseconds: int
) -> None:
    """A second, unless it says otherwise."""
    instead(engine, TRY, "integer", "return extract(epoch from p_until - now()) * 1000")

    done = engine.rpc("run_maintenance", p_request=request_)["done"]

    assert milliseconds <= done["reclaim"] < milliseconds + 900


def test_what_a_budget_does_not_reach_is_left_to_the_next_call(engine: Engine) -> None:
    """The answer asks for it; items that failed together are not begun after it either."""
    jobs = engine.enqueue_many(2, delay_seconds=1)
    engine.advance(2)
    late = "%s, queue.clock(), clock_timestamp() - interval '1 second')"
    engine.run("update queue.maintenance_tasks set failures = 3 where name = 'promotion'")
    assert engine.one(f"select queue.try_one_by_one('promotion', {late}", jobs) == 0
    assert engine.one(f"select queue.maintain_in_slices({late}", "promotion") == 1
    assert engine.one("select max(failures) from queue.maintenance_tasks") == 3

    instead(engine, TRY, "integer", "perform pg_sleep(0.06); return 0")
    answer = engine.rpc("run_maintenance", p_request={"budget_ms": 50})

    assert (answer["done"], answer["more"]) == ({}, True)


def test_a_call_asks_for_another_while_something_it_did_has_more(engine: Engine) -> None:
    """Not for what is done as a whole, nor when nothing is due."""
    instead(engine, "due_tasks(p_now timestamptz)", "setof text",
        "return next current_setting('test.task')")  # fmt: skip
    instead(engine, TRY, "integer", "return 1")

    def asking() -> set[str]:
        found = set()
        for task in engine.rows("select name from queue.maintenance_tasks"):
            engine.run("select set_config('test.task', %s, false)", task)
            if engine.rpc("run_maintenance")["more"]:
                found.add(task)
        return found

    assert asking() == set()
    engine.run("insert into queue.signals (kind, job_id) values ('check', gen_random_uuid())")
    whole = {"expire", "orphans", "messages"}
    assert asking() == {*engine.rows("select name from queue.maintenance_tasks")} - whole


def test_where_a_slow_call_made_jobs_ready_leases_look_again(engine: Engine) -> None:
    """From the start: others may have leased what came after those."""
    for priority in (7, 100):
        engine.enqueue_many(2, priority=priority)
    engine.lease(1, call=2)
    engine.advance(10)
    engine.enqueue(priority=7)

    engine.run("select queue.rewind_ready(queue.clock() - interval '5 seconds')")

    assert engine.rows("select priority from queue.openings where rewind") == [7]


def test_a_lease_waits_for_no_maintenance(engine: Engine) -> None:
    """Whatever an unfinished call of maintenance holds: retention, statistics, jobs made ready."""
    engine.enqueue_many(20)
    engine.run_all()
    engine.enqueue(delay_seconds=60)
    engine.advance(40 * 86400)
    ready = engine.enqueue_many(3)
    engine.run("set lock_timeout = '100ms'")
    with engine.beside() as other:
        other.run("begin")
        assert {"promotion", "retention"} <= set(other.maintain())
        assert len(engine.lease(10, call=2)) == len(ready)
        assert engine.maintain() == {}  # one at a time, and the second waits for nothing
        other.run("commit")

    assert len(engine.lease(10, call=2)) == 1


def test_a_cancelled_task_is_parked_and_the_others_are_done(engine: Engine) -> None:
    """The statement timeout is no outage: what did not fit is noted, and is tried last."""
    engine.run(
        "create or replace function queue.roll_up(p_now timestamptz) returns integer language plpgsql"
        " as $$ begin perform pg_sleep(60); return 0; end; $$"
    )
    engine.enqueue(delay_seconds=1)
    engine.advance(20)
    cancelled = (
        "select count(pg_cancel_backend(pid)) from pg_stat_activity"
        " where wait_event = 'PgSleep' and datname = current_database()"
    )

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(engine.rpc, "run_maintenance", p_request={"budget_ms": 5000})
        until(engine.database, cancelled, 1)
        answer = call.result(60)

    assert (answer["failed"], answer["done"]) == (["statistics"], {"promotion": 1})
    [parked] = engine.rpc("queue_health")["failing_maintenance"]
    assert (parked["name"], parked["failures"]) == ("statistics", 1)
    assert "statistics" not in engine.rows("select queue.due_tasks(queue.clock())")
    assert len(engine.lease(call=2)) == 1
    engine.advance(26)
    assert engine.rows("select queue.due_tasks(queue.clock())")[-1] == "statistics"


def test_a_task_that_fails_rests_twice_as_long_each_time(engine: Engine) -> None:
    """Five seconds at first and an hour at most; a success ends it."""
    engine.stop_clock()

    def rests(failures: int, done_ago: str = "1 day") -> float:
        engine.run(
            "update queue.maintenance_tasks set failures = %s, failed_at = queue.clock(),"
            " done_at = queue.clock() - %s::interval where name = 'reclaim'",
            failures, done_ago,
        )  # fmt: skip
        return float(
            engine.one(
                "select min(s) from generate_series(0, 4000, 5) as s where 'reclaim' in"
                " (select queue.due_tasks(queue.clock() + make_interval(secs => s)))"
            )
        )

    assert [rests(failures) for failures in (1, 2, 3, 10, 40)] == [5, 10, 20, 2560, 3600]
    assert rests(40, "-1 second") == 5


def break_item(engine: Engine, job_id: str, how: str) -> None:
    """Let everything that makes this one job ready fail."""
    engine.run(
        "create function public.break_it() returns trigger language plpgsql as"
        f" $$ begin {how}; return new; end; $$"
    )
    engine.run(
        "create trigger break_it before insert on queue.ready for each row"
        f" when (new.job_id = '{job_id}') execute function public.break_it()"
    )


#: What the statement timeout raises, at once: no timeout is too short for this statement alone.
TOO_LONG = "raise query_canceled using message = 'canceling statement due to statement timeout'"


def mend(engine: Engine) -> None:
    """Let it succeed again."""
    engine.run("drop trigger break_it on queue.ready")


def test_an_item_that_fails_is_parked_and_those_beside_it_get_on(engine: Engine) -> None:
    """One job that cannot be made ready holds up no other, is shown, and is not forgotten."""
    engine.stop_clock()
    bad, *good = engine.enqueue_many(5, delay_seconds=10)
    break_item(engine, bad, "raise exception 'a broken trigger'")
    engine.advance(11)

    assert engine.maintain()["promotion"] == 4
    assert {lease["job"]["id"] for lease in engine.lease(call=2)} == set(good)
    [item] = engine.rpc("queue_health")["parked_items"]
    assert (item["task"], item["item"]) == ("promotion", bad)
    assert "a broken trigger" in item["failure"]
    assert not engine.one("select queue.maintenance_is_due(queue.clock())")

    mend(engine)
    engine.advance(11)
    assert engine.one("select queue.maintenance_is_due(queue.clock())")
    engine.maintain()
    assert engine.lease_one(call=2)["job"]["id"] == bad
    assert engine.rpc("queue_health")["parked_items"] == []


def test_an_item_longer_than_the_statement_timeout_is_parked_alone(engine: Engine) -> None:
    """Bites get smaller until what cannot be swallowed is alone; leases go on meanwhile."""
    good = engine.enqueue_many(15, delay_seconds=1)
    bad = engine.enqueue(delay_seconds=2)
    good += engine.enqueue_many(15, delay_seconds=3)
    break_item(engine, bad, TOO_LONG)
    engine.advance(4)

    first = engine.rpc("run_maintenance", p_request={"budget_ms": 5000})
    assert (first["failed"], "promotion" in first["done"]) == (["promotion"], False)
    leased: set[str] = set()
    for _ in range(6):
        leased |= {lease["job"]["id"] for lease in engine.lease(100, call=2)}
        engine.advance(50)
        engine.maintain()

    assert leased == set(good)
    [item] = engine.rpc("queue_health")["parked_items"]
    assert item["item"] == bad
    assert "canceling statement" in item["failure"]
    mend(engine)
    engine.advance(3600)
    assert bad in {lease["job"]["id"] for lease in engine.lease(100)}


def test_after_a_cancelled_item_no_other_is_tried_in_the_same_call(engine: Engine) -> None:
    """The statement timeout strikes once: what followed it in the call would have no limit."""
    slow, good = engine.enqueue_many(2, delay_seconds=1)
    break_item(engine, slow, TOO_LONG)
    engine.advance(2)

    tried = "select queue.try_one_by_one('promotion', %s, queue.clock(), 'infinity')"
    assert engine.one(tried, [slow, good]) == 0
    assert engine.rows("select item from queue.parked") == [slow]
    assert engine.one(tried, [good]) == 1


def test_a_parked_item_is_not_tried_with_one_whose_time_has_come(engine: Engine) -> None:
    """Its own comes later."""
    bad = engine.enqueue(delay_seconds=1)
    break_item(engine, bad, "raise exception 'never'")
    for after in (2, 11):
        engine.advance(after)
        engine.maintain()
    engine.run(
        "insert into queue.parked select task, gen_random_uuid(), failed_at, failure, 1, queue.clock()"
        " from queue.parked"
    )
    engine.maintain()
    mend(engine)

    assert engine.rows("select item, failures from queue.parked") == [(bad, 2)]


def test_parked_items_are_tried_later_each_time(engine: Engine) -> None:
    """Ten seconds, twenty, forty, an hour at most: a broken item is no busy loop."""
    bad = engine.enqueue(delay_seconds=1)
    break_item(engine, bad, "raise exception 'never'")
    engine.advance(2)
    waits = []
    for failures in (1, 2, 3, 20):
        engine.run("update queue.parked set failures = %s", failures - 1)
        engine.maintain()
        waits.append(
            round(engine.one("select extract(epoch from retry_at - failed_at) from queue.parked"))
        )
        engine.advance(waits[-1] + 1)
    mend(engine)
    engine.maintain()

    assert waits == [10, 20, 40, 3600]


def test_a_refused_signal_does_not_hold_up_the_next(engine: Engine) -> None:
    """A task that failed goes on in smaller bites, until what it cannot swallow is alone."""
    engine.run(
        "update queue.maintenance_tasks set failures = 3, failed_at = '-infinity' where name = 'promotion'"
    )
    engine.enqueue(delay_seconds=1)
    engine.enqueue(delay_seconds=1)
    engine.advance(5)

    assert engine.maintain()["promotion"] == 2
    assert engine.one("select failures from queue.maintenance_tasks where name = 'promotion'") == 0


def test_retention_keeps_up_with_one_tenant_among_many(engine: Engine) -> None:
    """The oldest of all tenants go first; nobody's workspaces are visited one by one."""
    engine.run(
        "insert into public.workspaces (id, name)"
        " select md5(n::text)::uuid, 'T' from generate_series(1, 3000) as n"
    )
    engine.register("brief")
    engine.run(
        "update queue.job_types set retention_days = %s where job_type = 'brief'",
        '{"completed": 7}',
    )
    engine.enqueue_many(900)
    engine.enqueue_many(50, job_type="brief")
    engine.run_all()
    engine.advance(8 * 86400)
    assert engine.maintain()["retention"] == 50
    engine.advance(31 * 86400)

    assert engine.maintain()["retention"] == 900
    assert engine.one("select count(*) from public.jobs") == 0


@pytest.mark.parametrize(("events", "lines", "each"), [(3, 20000, 2), (25000, 0, 2), (60000, 0, 1)])
def test_talkative_jobs_go_by_their_rows(
    engine: Engine, events: int, lines: int, each: int
) -> None:
    """A call removes rows, not jobs, by the measure of what it can carry; one at least."""
    engine.enqueue_many(2 * each)
    engine.run_all()
    engine.run(
        "insert into public.job_logs (job_id, workspace_id, attempt, message)"
        " select id, workspace_id, 1, 'm' from public.jobs, generate_series(1, %s)",
        lines,
    )
    engine.run("update public.jobs set last_seq = %s", events)
    engine.advance(31 * 86400)

    assert [engine.maintain().get("retention") for _ in range(3)] == [each, each, None]


def test_a_job_with_too_many_rows_goes_bit_by_bit(engine: Engine) -> None:
    """Its lines and its oldest events first; another job loses none."""
    job, other = engine.enqueue_many(2)
    for lease in engine.lease():
        engine.report(lease, logs=[{"level": "info", "message": "m"}] * 3)
    left = (
        "select array(select seq from public.job_events as e where e.job_id = j.id order by seq),"
        " (select count(*) from public.job_logs as l where l.job_id = j.id)"
        " from public.jobs as j where j.id = %s"
    )
    events, lines = engine.one(left, other)

    engine.run("begin")
    assert engine.one("select queue.strip_job(%s, 5)", job) == 5
    assert engine.one(left, job) == (events[2:], 0)
    assert engine.one("select queue.strip_job(%s, 5)", job) == len(events) - 2
    assert engine.one(left, other) == (events, lines)
    engine.run("rollback")


def test_a_job_that_another_call_holds_is_removed_by_the_next(engine: Engine) -> None:
    """Retention waits for no one."""
    held, free = engine.enqueue_many(2)
    engine.run_all()
    engine.run("set lock_timeout = '1s'")
    remove = "select queue.remove_jobs(array[%s, %s]::uuid[], queue.clock())"
    with engine.beside() as other, other.connection.transaction():
        other.run("select from public.jobs where id = %s for update", held)
        assert engine.one(remove, held, free) == 1

    assert engine.one(remove, held, free) == 1


def test_a_bucket_goes_an_hour_after_it_is_surely_full(engine: Engine) -> None:
    """Twice its period is long enough; without a rate it was full at once."""
    engine.stop_clock()
    engine.register("work", rate_limit={"limit": 1, "per_seconds": 7200})
    for job_type, hours in (("gone", 0.9), ("gone", 1.1), ("work", 4.9), ("work", 5.1)):
        engine.run(
            "insert into queue.buckets select %s, %s, %s, 1, queue.clock() - make_interval(secs => %s)",
            *(job_type, ACME, str(hours), 3600 * hours),
        )

    engine.run("select queue.prune_buckets(10, queue.clock())")

    assert {*engine.rows("select concurrency_key from queue.buckets")} == {"0.9", "4.9"}


@pytest.mark.parametrize("state", ["ready", "deferred", "waits", "ended"])
def test_jobs_of_a_workspace_deleted_meanwhile_go_as_well(engine: Engine, state: str) -> None:
    """Enqueued in the moment of its deletion, before and after others', with partitions open or not."""
    gone = [f"{digit}0000000-0000-4000-8000-000000000000" for digit in "0f"]
    engine.run("insert into public.workspaces select w, 'Gone' from unnest(%s::uuid[]) as w", gone)
    for each in gone:
        engine.enqueue(workspace=each, delay_seconds=3600 * (state == "deferred"))
    if state == "ended":
        engine.run_all()
    for lease in engine.lease() if state == "waits" else []:
        engine.settle(lease, "waiting", wait={"kind": "event", "name": "e", "event": "never"})
    assert engine.one(f"select count(*) from queue.{state}") == 2
    make = 'select queue.enqueue_unwaited(%s, \'{"job_type": "work"}\')::text'
    kept = {engine.one(make, each) for each in (ACME, SYSTEM)}
    with engine.connection.transaction():
        engine.run("set local session_replication_role = replica")
        engine.run("delete from public.workspaces where id = any (%s)", gone)
    engine.run("delete from queue.partitions")

    engine.run("select queue.forget_orphans()")

    assert {*engine.rows("select id::text from public.jobs")} == kept


def test_a_workspace_that_is_there_again_keeps_what_it_has(engine: Engine) -> None:
    """As one restored from a backup, within the hour after its deletion."""
    again = str(uuid.uuid4())
    make = "insert into public.workspaces (id, name) values (%s, 'Again')"
    engine.run(make, again)
    engine.run("delete from public.workspaces where id = %s", again)
    engine.run(make, again)
    engine.rpc("set_workspace_limits", p_workspace_id=again, p_limits={"max_pending": 7})
    engine.advance(1300)

    engine.run("select queue.forget_orphans()")

    kept = "select max_pending from queue.tenant_limits where workspace_id = %s"
    assert engine.one(kept, again) == 7


def test_failing_maintenance_stops_no_lease_and_shows_in_health(engine: Engine) -> None:
    """Upkeep is not worth an outage."""
    engine.enqueue()
    engine.settle(engine.lease_one())
    engine.advance(20)
    engine.run(
        'update queue.settings set value = \'{"completed": "x", "cancelled": 1, "failed": 1}\' where name = \'retention_days\''
    )
    job_id = engine.enqueue()

    assert engine.lease_one()["job"]["id"] == job_id
    [task] = engine.rpc("queue_health")["failing_maintenance"]
    assert task["name"] == "retention"
    engine.rpc(
        "set_settings", p_settings={"retention_days": {"completed": 1, "cancelled": 1, "failed": 1}}
    )
    for seconds, failures in ((600, [0]), (3600, [])):  # one that heals is shown for an hour
        engine.advance(seconds)
        engine.maintain()
        tasks = engine.rpc("queue_health")["failing_maintenance"]
        assert [task["failures"] for task in tasks] == failures


def test_statistics_count_without_reading_history(engine: Engine) -> None:
    """Before and after the roll-up they say the same."""
    engine.enqueue_many(10)
    leases = engine.lease(10)
    engine.settle_all(
        [
            {**handle(lease), "outcome": "completed", "duration_ms": 100, "cost_usd": 0.5}
            for lease in leases[:8]
        ]
    )
    engine.settle_all(
        [{**handle(lease), "outcome": "failed", "error": ERROR} for lease in leases[8:]]
    )

    def read() -> Any:
        stats = engine.rpc("queue_stats", p_workspace_id=ACME)
        work = stats["types"]["work"]
        return work["completed"], work["failed"], work["enqueued"], work["cost_usd"]

    before = read()
    assert before == (8, 2, 10, 4)
    for _ in range(2):
        engine.advance(16)
        engine.lease_call(0)
    assert engine.one("select count(*) from queue.stat_deltas") == 0
    assert read() == before
    run = engine.rpc("queue_stats")["types"]["work"]["run"]
    assert 80 <= run["p50_ms"] <= 125


def test_a_tenant_sees_only_its_own_numbers(engine: Engine) -> None:
    """The whole is the operator's."""
    engine.enqueue_many(3)
    engine.enqueue_many(5, workspace=GLOBEX)
    for kind, name in (("workspace", GLOBEX), ("queue", "slow")):
        engine.rpc("pause_jobs", p_request={"kind": kind, "name": name, "reason": "ours"})
    with engine.member(ADA) as ada:
        own = ada.rpc("queue_stats", p_workspace_id=ACME)
        assert [pause["name"] for pause in own["pauses"]] == ["slow"]
        assert (own["live"]["queued"], own["types"]["work"]["enqueued"]) == (3, 3)
        assert own["workers"] is own["limits"] is own["messages"] is None
        engine.run("select queue.roll_up(queue.clock())")
        rolled_up = ada.rpc("queue_stats", p_workspace_id=ACME)["types"]
        assert rolled_up["work"]["enqueued"] == 3
        with pytest.raises(psycopg.Error) as refused:
            ada.rpc("queue_stats")
        assert refusal(refused.value)[:2] == ("PT403", "forbidden")
    everything = engine.rpc("queue_stats")
    assert (everything["live"]["queued"], everything["types"]["work"]["enqueued"]) == (8, 8)
    with engine.member(ADA, role="job_worker") as worker, pytest.raises(psycopg.Error) as refused:
        worker.rpc("queue_stats", p_workspace_id=ACME)
    assert refused.value.sqlstate == "PT404"


def test_health_names_the_depth_the_tick_and_who_holds_a_snapshot(engine: Engine) -> None:
    """Readiness must say what to do, not only that something is wrong."""
    engine.stop_clock()
    engine.enqueue_many(3)
    engine.enqueue(delay_seconds=100)
    engine.lease(1)
    with engine.beside() as holder:
        holder.run("set application_name = 'nightly report'")
        holder.run("begin isolation level repeatable read")
        holder.run("select 1 from public.jobs limit 1")
        engine.advance(100)
        health = engine.rpc("queue_health")
        holder.run("rollback")

    assert (health["due"], health["deferred"], health["processing"], health["pending"]) == (
        2,
        1,
        1,
        3,
    )
    assert health["oldest_due_seconds"] == pytest.approx(100)
    assert health["last_tick_seconds"] == pytest.approx(100)
    assert health["holding_session"]["application_name"] == "nightly report"
    assert health["xmin_age"] >= 0
    assert health["workers"][0]["worker_id"] == "w1"


def test_health_does_not_blame_what_waits_on_purpose(engine: Engine) -> None:
    """A paused type or one that nobody serves any more must not make the service not ready."""
    engine.stop_clock()
    engine.register("gone")
    engine.register("halted")
    engine.enqueue(job_type="gone")
    engine.enqueue(job_type="halted")
    engine.rpc("pause_jobs", p_request={"kind": "job_type", "name": "halted"})
    engine.advance(1000)
    engine.lease_call(0, job_types=["work", "halted"])

    assert engine.rpc("queue_health")["oldest_due_seconds"] is None

    engine.enqueue_many(2)
    engine.advance(100)
    [lease] = engine.lease(1, job_types=["work", "halted"])
    engine.advance(10)
    health = engine.rpc("queue_health")
    assert health["oldest_due_seconds"] == pytest.approx(110)
    assert health["stalled_seconds"] is None  # one runs
    engine.settle(lease)
    assert engine.rpc("queue_health")["stalled_seconds"] == pytest.approx(10)


def test_one_tenants_limit_does_not_look_like_a_dead_queue(engine: Engine) -> None:
    """Its manager may set it to nothing; readiness is everybody's."""
    engine.run(
        "insert into queue.tenant_limits (workspace_id, own_max_running) values (%s, 0)", ACME
    )
    engine.enqueue()
    engine.advance(1000)
    engine.lease_call(1)

    health = engine.rpc("queue_health")

    assert health["oldest_due_seconds"] > 999
    assert health["stalled_seconds"] is None


def test_long_types_are_not_leased_near_the_end_of_a_tick(engine: Engine) -> None:
    """What usually takes a minute is not begun with ten seconds left."""
    engine.enqueue_many(20)
    leases = engine.lease(20)
    engine.settle_all(
        [{**handle(lease), "outcome": "completed", "duration_ms": 60_000} for lease in leases]
    )
    engine.advance(16)
    engine.lease_call(0)
    engine.enqueue()

    assert engine.lease(budget_ms=10_000) == []
    assert len(engine.lease(budget_ms=120_000)) == 1


def test_what_is_due_and_not_promoted_counts_as_due(engine: Engine) -> None:
    """Workers promote: while none can work, nothing would ever be due."""
    engine.stop_clock()
    engine.enqueue(delay_seconds=5)
    engine.advance(65)

    health = engine.rpc("queue_health")

    assert health["oldest_due_seconds"] == pytest.approx(60)
    assert health["due"] == 1
