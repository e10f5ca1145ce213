"""Two sessions at once: leasing, closing and enqueueing together neither waits nor mixes."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.engine import ACME, GLOBEX, Engine, handle, ids_of
from tests.support.functions import open_partition, until_waiting


def partitions(engine: Engine) -> int:
    """How many are open."""
    return int(engine.one("select count(*) from queue.partitions"))


def test_a_partition_stays_open_under_an_open_enqueue(engine: Engine) -> None:
    """Closed under it, its job would be in no partition that leases read."""
    engine.enqueue()
    engine.lease_call(0)
    with engine.beside() as late:
        late.run("begin")
        job = late.enqueue()
        assert len(engine.lease(10)) == 1  # the last that is visible
        assert partitions(engine) == 1
        late.run("commit")

    assert ids_of(engine.lease(10)) == [job]
    assert partitions(engine) == 0


def test_an_enqueue_waits_for_no_partition_that_is_being_closed(engine: Engine) -> None:
    """It leaves a line, by which the next lease opens it again."""
    engine.enqueue()
    engine.lease_call(0)
    with engine.beside() as closing, closing.connection.transaction():
        closing.run("select from queue.partitions for update")
        engine.run("set lock_timeout = '1ms'")
        engine.enqueue()
        engine.enqueue_many(2)
    engine.run("reset lock_timeout")

    assert len(engine.lease(10)) == 4


def test_a_partition_whose_turn_is_being_passed_on_is_closed_later(engine: Engine) -> None:
    """Closing waits for no lease that is still open, and leaves no turn without a partition."""
    engine.enqueue(concurrency_key="a")
    engine.enqueue(concurrency_key="b")
    engine.lease_call(0)
    engine.run("set lock_timeout = '1ms'")
    with engine.beside() as other:
        other.run("begin")
        assert len(other.lease(1, call=2)) == 1
        assert len(engine.lease(1, call=2)) == 1
        other.run("commit")
    engine.run("reset lock_timeout")

    assert engine.lease(10) == []
    assert (partitions(engine), engine.one("select count(*) from queue.turns")) == (0, 0)


def test_two_leases_of_one_take_two_jobs_without_waiting(engine: Engine) -> None:
    """The second passes by the head that the first holds, and by a job that a cancel holds."""
    jobs = engine.enqueue_many(3)
    engine.lease_call(0)
    with engine.beside() as other:
        other.run("begin")
        first = other.lease(1, call=2)
        other.run("select from public.jobs where id = %s for update", jobs[1])
        engine.run("set lock_timeout = '1ms'")
        second = engine.lease(1, call=2)
        other.run("rollback")

    assert ids_of(first) == jobs[:1]
    assert ids_of(second) == jobs[2:]


def test_a_lease_beside_one_that_opens_a_partition_asks_again(engine: Engine) -> None:
    """It has found nothing before the other's commit, and no line of an opening after it."""
    engine.wait_for_nobody()
    engine.register("render")
    [job] = engine.enqueue_many(1, job_type="render")
    with engine.beside() as opening, ThreadPoolExecutor() as threads:
        opening.run("begin")
        assert opening.lease(1, call=2, job_types=["work"]) == []
        # read once the turns of more than one are read, and before what is left to open
        opening.run("lock table queue.pauses in access exclusive mode")
        late = threads.submit(engine.lease_call, 2, call=2, job_types=["render"])
        until_waiting(engine.database)
        opening.run("commit")
        answer = late.result()

    assert (answer["leases"], answer["next_due_in_ms"]) == ([], 0)
    assert ids_of(engine.lease(1, job_types=["render"])) == [job]


def test_a_lease_beside_one_that_makes_a_delayed_job_ready_asks_again(engine: Engine) -> None:
    """The job was not ready when it chose, and not delayed any more when it looked for when."""
    engine.wait_for_nobody()
    engine.register("render")
    job = engine.enqueue(job_type="render", delay_seconds=1)
    engine.advance(2)
    with engine.beside() as maintaining, ThreadPoolExecutor() as threads:
        open_partition(engine.run, ACME, "render")
        maintaining.run("begin")
        assert maintaining.maintain()["promotion"] == 1  # and keeps the partition open
        # it is read once the choice is made
        maintaining.run("lock table queue.deferred in access exclusive mode")
        late = threads.submit(engine.lease_call, 1, call=2, job_types=["render"])
        until_waiting(engine.database)
        maintaining.run("commit")
        answer = late.result()

    assert (answer["leases"], answer["next_due_in_ms"]) == ([], 0)
    assert ids_of(engine.lease(1, job_types=["render"])) == [job]


def test_a_lease_does_not_ask_again_for_what_it_may_not_start(engine: Engine) -> None:
    """At a limit, paused or of others' types: to ask again would find the same, without end."""
    for job_type, limit in (("narrow", {"max_concurrency": 1}), ("keyed", {"key_concurrency": 1})):
        engine.register(job_type, **limit)
        engine.enqueue_many(2, job_type=job_type, concurrency_key="k")
        assert len(engine.lease(2, job_types=[job_type])) == 1
    engine.register("still")
    engine.enqueue(job_type="still")
    engine.rpc("pause_jobs", p_request={"kind": "job_type", "name": "still"})
    engine.enqueue(queue="other")
    engine.enqueue(job_type="work", workspace=GLOBEX)
    engine.rpc("pause_jobs", p_request={"kind": "workspace", "name": GLOBEX})

    for _ in range(2):
        answer = engine.lease_call(9, queues=["default"])
        assert (answer["leases"], answer["next_due_in_ms"]) == ([], 1000)
    own = engine.enqueue()
    assert ids_of(engine.lease(9, queues=["default"])) == [own]


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        ({"max_concurrency": 1}, {}),
        ({"workspace_concurrency": 1}, {}),
        ({"key_concurrency": 1}, {"concurrency_key": "k"}),
    ],
    ids=["type", "workspace", "key"],
)
def test_a_limit_of_one_is_held_by_single_leases_at_once(
    engine: Engine, limit: dict[str, int], options: dict[str, str]
) -> None:
    """Who cannot have the limit's row takes nothing of it, and says that it may be free soon."""
    engine.register("narrow", **limit)
    engine.enqueue_many(3, job_type="narrow", **options)
    engine.lease_call(0)
    with engine.beside() as other:
        other.run("begin")
        [held] = other.lease(1, call=2)
        engine.run("set lock_timeout = '1ms'")
        answer = engine.lease_call(1, call=2)
        assert (answer["leases"], answer["next_due_in_ms"]) == ([], 0)
        other.run("commit")
    engine.run("reset lock_timeout")

    assert engine.lease(1, call=2) == []
    engine.settle_all([{**handle(held), "outcome": "completed"}])
    assert len(engine.lease(1, call=2)) == 1


LIMITS: list[tuple[dict[str, int], dict[str, str]]] = [
    ({"max_concurrency": 2}, {}),
    ({"workspace_concurrency": 2}, {}),
    ({"key_concurrency": 2}, {"concurrency_key": "k"}),
]


@pytest.mark.parametrize(("limit", "options"), LIMITS, ids=["type", "workspace", "key"])
def test_a_settlement_commits_beside_a_lease_that_is_still_open(
    engine: Engine, limit: dict[str, int], options: dict[str, str]
) -> None:
    """With the next lease in the same call: a lock waited for there would undo the settlement."""
    engine.register("narrow", **limit)
    engine.enqueue_many(4, job_type="narrow", **options)
    [held] = engine.lease(1)
    with engine.beside() as other:
        other.run("begin")
        assert len(other.lease(1, call=2)) == 1  # and keeps the limit's row locked
        engine.run("set lock_timeout = '1ms'")
        lease = {"worker_id": "w1", "tick_id": str(uuid.uuid4()), "call": 2, "limit": 1}
        items = [{**handle(held), "outcome": "completed"}]
        answer = engine.rpc("settle_jobs", p_request={"items": items, "lease": lease})

        assert [result["outcome"] for result in answer["results"]] == ["applied"]
        assert answer["lease"]["leases"] == []
        with engine.beside() as third:
            assert third.status(held["job"]["id"]) == "completed"
        other.run("commit")
    engine.run("reset lock_timeout")
    assert len(engine.lease(9, call=2)) == 1  # of two, one runs


def test_a_settlement_waits_for_a_report_that_renews_its_lease(engine: Engine) -> None:
    """The renewal moves the lease's row: the completion must find it where it then lies."""
    engine.enqueue()
    [held] = engine.lease(1)
    with engine.beside() as reporter, engine.beside() as worker, ThreadPoolExecutor(1) as pool:
        reporter.run("begin")
        reporter.run("update queue.leases set expires_at = expires_at + interval '1 minute'")
        settled = pool.submit(worker.settle, held, result={"n": 1})
        until_waiting(engine.database)
        reporter.run("commit")
        settled.result(60)

    assert engine.status(held["job"]["id"]) == "completed"


def test_limited_and_free_types_meet_in_one_lease_of_one(engine: Engine) -> None:
    """A full type before it in the line does not keep a free one from being leased."""
    engine.register("narrow", max_concurrency=1)
    engine.enqueue_many(2, job_type="narrow", priority=1)
    free = engine.enqueue(priority=900)
    engine.lease_call(0)

    assert [lease["job"]["job_type"] for lease in engine.lease(1, call=2)] == ["narrow"]
    assert ids_of(engine.lease(1, call=2)) == [free]


def test_a_session_continues_when_every_type_has_a_column_more(engine: Engine) -> None:
    """A release adds columns under sessions whose plans are older: they are read by name.

    Rows that only the engine's functions make are left out: who changes such a type replaces them.
    """
    engine.enqueue()
    engine.enqueue_many(2)
    engine.settle(engine.lease(1)[0])
    engine.run(
        "do $$ declare t record; begin"
        "  for t in select c.oid::regclass as name, c.relkind from pg_class as c"
        "    where c.relnamespace in ('queue'::regnamespace, 'public'::regnamespace)"
        "      and (c.relkind = 'r'"
        "        or c.relname in ('enqueue_item', 'worker_item', 'lease_request'))"
        "  loop"
        "    execute format(case t.relkind when 'c' then 'alter type %s add attribute added text'"
        "      else 'alter table %s add column added text' end, t.name);"
        "  end loop; end $$"
    )

    engine.enqueue(priority=5, concurrency_key="k")
    engine.enqueue_many(2)
    leases = [*engine.lease(1, call=2), *engine.lease(10)]
    results = engine.settle_all(
        [
            {**handle(lease), "outcome": outcome}
            for lease, outcome in zip(
                leases, ["completed", "retry", "snoozed", "released", "completed"], strict=True
            )
        ]
    )
    assert {result["outcome"] for result in results} == {"applied"}
    assert engine.one("select count(*) from public.jobs where workspace_id = %s", ACME) == 6


@pytest.mark.parametrize("options", [{}, {"unique": {"key": "u"}}])
def test_a_job_enqueued_under_repeatable_read_is_leased(
    engine: Engine, options: dict[str, Any]
) -> None:
    """A partition cannot be held open by such a transaction: it notes that it is to be opened."""
    with engine.beside() as caller:
        caller.run("begin isolation level repeatable read")
        job_id = caller.enqueue(**options)
        caller.run("commit")

    assert ids_of(engine.lease(1)) == [job_id]


def test_a_job_that_is_put_off_while_it_becomes_ready_waits_for_its_new_time(
    engine: Engine,
) -> None:
    """Maintenance had found it due, and finds it again when it has the lock."""
    job = engine.enqueue(delay_seconds=60)
    engine.advance(61)

    with engine.beside() as other, ThreadPoolExecutor(1) as threads:
        other.run("begin")
        other.run("lock table public.jobs in access exclusive mode")
        promoted = threads.submit(
            engine.one,
            "select queue.promote(array(select job_id from queue.deferred), queue.clock())",
        )
        until_waiting(engine.database)
        other.run("set local role service_role")
        other.run(
            "update public.jobs set scheduled_for = now() + interval '3 days' where id = %s", job
        )
        other.run("commit")
        assert promoted.result(60) == 0

    assert engine.lease() == []
    assert engine.one("select count(*) from queue.deferred where job_id = %s", job) == 1


def test_a_call_that_is_repeated_while_it_is_at_work_waits_and_answers_the_same(
    engine: Engine,
) -> None:
    """Else each would lease jobs, and no one would run those of the answer that was lost."""
    engine.enqueue_many(3)
    tick = str(uuid.uuid4())
    with engine.beside() as first, engine.beside() as second, ThreadPoolExecutor(1) as threads:
        first.run("begin")
        leased = ids_of(first.lease(1, tick_id=tick, call=2))
        repeated = threads.submit(second.lease, 1, tick_id=tick, call=2)
        until_waiting(engine.database)
        first.run("commit")
        assert ids_of(repeated.result(60)) == leased

    assert engine.one("select count(*) from queue.leases") == 1
