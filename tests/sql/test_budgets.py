"""Calls read few blocks even with 100,000 waiting jobs, 10,000 tenants or 10,000 keys."""

import json
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.contract.observed import blocks, lease_blocks
from tests.support.engine import ACME, ADA, GLOBEX, Engine, Json, handle, ids_of
from tests.support.renewed import Renewed

pytestmark = [pytest.mark.fresh, pytest.mark.timeout(600)]

#: Statements after which the planner's statistics are up to date, missing, or those of empty
#: tables.
STATISTICS = (
    "analyze",
    "delete from pg_statistic; update pg_class set reltuples = -1 where relkind = 'r'",
    "delete from pg_statistic; update pg_class set reltuples = 0"
    " where relkind in ('r', 'i') and relnamespace in (select oid from pg_namespace"
    " where nspname in ('queue', 'public', 'realtime'))",
)
#: An SQL call, its argument, and the maximum number of blocks that the call may read.
Call = tuple[str, Any, int]


def fill(engine: Engine, count: int, *columns: str) -> None:
    """Insert jobs.

    The columns are SQL expressions of n for workspace, job type and concurrency key.
    """
    engine.run("set statement_timeout = '300s'")
    for start in range(0, count, 1000):
        engine.run(
            "insert into public.jobs (workspace_id, job_type, concurrency_key)"
            f" select {', '.join(columns)} from generate_series({start}, {start + 999}) as n"
        )


def publish_all(engine: Engine) -> None:
    """Publish all pending events, so that no measured call publishes them."""
    place = "select until is not null from queue.publisher order by round desc limit 1"
    engine.run("select queue.do_announcements(queue.clock(), null)")
    while engine.one(place):
        engine.run("select queue.do_announcements(queue.clock(), null)")
    engine.run("delete from queue.late_topics")


def too_dear(engine: Engine, calls: dict[str, Call]) -> dict[str, int]:
    """Return the calls that read more blocks than allowed."""
    found = {
        name: blocks(engine, statement, *([] if value is None else [value]))
        for name, (statement, value, _) in calls.items()
    }
    return {name: count for name, count in found.items() if count > calls[name][2]}


@pytest.fixture
def crowded(renewed: Renewed) -> Engine:
    """A database in which a tenant has 100,000 waiting jobs and another 3,000 ended jobs."""
    engine = Engine(renewed, renewed.session())
    engine.run("set statement_timeout = '300s'")
    engine.register("work", lease_seconds=600)
    engine.enqueue_many(1000, workspace=GLOBEX)
    engine.run_all()
    for _ in range(2):
        engine.enqueue_many(1000, workspace=GLOBEX)
        engine.complete(engine.lease(1000), outcome="failed", error={"message": "no"})
    items = [{"job_type": "work"}] * 1000
    for _ in range(100):
        engine.enqueue_all(items)
    engine.lease(1)
    engine.run(  # as if the jobs had deadlines
        "insert into queue.deferred (run_at, job_id, workspace_id, is_place)"
        " select queue.clock() + interval '1 day', j.id, j.workspace_id, false"
        " from jobs as j where j.status = 'pending'"
    )
    publish_all(engine)
    engine.run("select queue.do_statistics(queue.clock(), 'infinity')")
    engine.run("vacuum")
    return engine


def test_calls_beside_100_000_waiting_jobs_cost_no_more(crowded: Engine) -> None:
    """With 100,000 waiting jobs, each call reads a bounded number of blocks.

    The planner's statistics may be missing or outdated.
    """
    for known in STATISTICS:
        crowded.run(known)
        with crowded.another_session() as session:  # queries are planned per session
            check_calls(session)


def check_calls(crowded: Engine) -> None:
    """Check that each call reads at most the allowed number of blocks."""
    last = crowded.one(
        "select id::text from public.jobs where workspace_id = %s order by id desc limit 1", ACME
    )
    page = "select public.list_jobs(%s::jsonb, p_limit => 20)"
    assert lease_blocks(crowded) <= 260
    assert lease_blocks(crowded, 50) <= 2000
    [lease] = crowded.lease(1)
    settle = json.dumps({"items": [{**handle(lease), "outcome": "completed"}]})
    calls: dict[str, Call] = {
        "settle": ("select public.settle_jobs(%s::jsonb)", settle, 120),
        "enqueue": ("select public.enqueue_job(%s, 'work')", ACME, 120),
        "get": ("select public.get_job(%s)", last, 40),
        "list": (page, json.dumps({"workspace_id": ACME}), 500),
        "list of few": (page, json.dumps({"workspace_id": ACME, "state": ["running"]}), 200),
        "another": (page, json.dumps({"workspace_id": GLOBEX, "status": ["completed"]}), 500),
        "count": ("select public.count_jobs(%s)", ACME, 60_000),
        "explain": ("select public.explain_job(%s)", last, 60_000),
        "health": ("select public.queue_health()", None, 60_000),
        "failures": ("select public.explain_queue(%s)", GLOBEX, 3000),
        "all failures": ("select queue.recent_failures(null, queue.clock())", None, 5000),
    }
    assert too_dear(crowded, calls) == {}
    crowded.advance(200)  # all jobs are now overdue
    cost = blocks(crowded, "select public.explain_queue(%s)", ACME)
    assert cost <= 2000  # with the last statistics, Postgres 17 reads a whole index of jobs
    crowded.advance(-200)


@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.weekly(only=True)), 100])
def test_a_lease_among_ten_thousand_turns_reads_a_few(engine: Engine, lanes: int) -> None:
    """Among 10,000 tenants with waiting jobs, a lease reads blocks for the requested jobs only."""
    for number in range(lanes):
        engine.register(f"t{number}")
    engine.run(
        "insert into public.workspaces (id, name)"
        " select md5(n::text)::uuid, 'T' from generate_series(0, 4999) as n"
    )
    fill(engine, 10_000, "md5((n % 5000)::text)::uuid", f"'t' || (n * {lanes} / 10000)", "null")
    engine.lease(1)
    # A lease opens at most 200 turns.
    engine.run("select queue.open_turns(10_000, queue.clock())")
    publish_all(engine)
    engine.run("vacuum analyze")
    engine.lease(1)

    most = {1: 400, 20: 1400, 100: 5600}
    assert {n: read for n in most if (read := lease_blocks(engine, n)) > most[n]} == {}


def test_a_free_job_beside_ten_thousand_keys_that_are_full_is_leased(engine: Engine) -> None:
    """A lease finds the only job that may run among jobs of 5,000 concurrency keys in use."""
    engine.register("keyed", key_concurrency=1)
    fill(engine, 10_000, f"'{ACME}'", "'keyed'", "'k' || n / 2")
    while engine.lease(500, job_types=["keyed"]):
        pass
    publish_all(engine)
    engine.run("vacuum analyze")

    # Once a second, a lease also checks whether one of the 5,000 running leases has expired.
    assert lease_blocks(engine, job_types=["keyed"]) <= 2000
    free = engine.enqueue(job_type="keyed", concurrency_key="free")
    assert ids_of(engine.lease(5, job_types=["keyed"])) == [free]


@pytest.fixture
def busy(renewed: Renewed) -> Engine:
    """A database with 10,000 running and 10,000 waiting jobs, 62 types and 190 ended workers."""
    engine = Engine(renewed, renewed.session())
    engine.run("set statement_timeout = '300s'")
    types = [f"t{number}" for number in range(62)]
    for job_type in types:
        engine.register(job_type, lease_seconds=3600)
    items = [{"job_type": types[n % 62], "payload": {}} for n in range(1000)]
    for number in range(20):
        engine.enqueue_all(items)
        if number % 2:
            engine.lease(1000, worker=f"w{number}", call=2, job_types=types)
    engine.run(
        "insert into queue.workers (worker_id, seen_at, ended_at, job_types, summary)"
        " select 'gone' || n, now() - interval '2 minutes', now() - interval '2 minutes', %s,"
        " '{\"stopped\": true}'"
        " from generate_series(1, 190) as n",
        types,
    )
    engine.run(
        "update queue.workers set seen_at = now() - interval '9 minutes' where worker_id ~ '^w'"
    )
    publish_all(engine)
    engine.run("vacuum analyze")
    return engine


def test_no_read_looks_at_ten_thousand_running_jobs_more_than_once(busy: Engine) -> None:
    """Among 10,000 running jobs, a count reads each job once.

    A read of one job reads a few rows.
    """
    runs = str(busy.one("select job_id from queue.leases limit 1"))
    waits = str(busy.one("select job_id from queue.ready limit 1"))
    running = json.dumps({"workspace_id": ACME, "state": ["running"]})
    postpone = partial(busy.enqueue, job_type="t1", unique={"key": "k"}, debounce_seconds=60)
    postpone()
    postponed = postpone()
    busy.run(
        "insert into queue.job_keys select %s, 't1', n, false, gen_random_uuid()"
        " from generate_series(1, 100000) as n",
        ACME,
    )
    calls: dict[str, Call] = {
        "queue_health": ("select public.queue_health()", None, 12_000),
        "queue_stats": ("select public.queue_stats()", None, 30_000),
        "queue_stats of one": ("select public.queue_stats(%s)", ACME, 30_000),
        "queue_series": ("select public.queue_series()", None, 500),
        "list_job_types": ("select public.list_job_types()", None, 3000),
        "a job type": ("select public.list_job_types(p_job_type => %s)", "t1", 3000),
        "list_jobs": ("select public.list_jobs(%s::jsonb)", running, 30_000),
        "count_jobs": ("select public.count_jobs(%s)", ACME, 30_000),
        "dead_letters": ("select public.dead_letters(%s)", ACME, 100),
        "explain of one that runs": ("select public.explain_job(%s)", runs, 440),
        "explain of one that waits": ("select public.explain_job(%s)", waits, 3000),
        "explain of one that is postponed": ("select public.explain_job(%s)", postponed, 400),
        "get_job": ("select public.get_job(%s)", runs, 60),
        "job_trace": ("select public.job_trace(%s)", runs, 200),
        "job_attempts": ("select public.job_attempts(%s)", runs, 100),
    }
    assert too_dear(busy, calls) == {}

    late = busy.enqueue_many(30, job_type="t1", delay_seconds=1)
    lock = "select from jobs where id = any (%s::uuid[]) for update"
    with busy.open_transaction(lock, late):
        busy.advance(20)
        assert too_dear(busy, {"locks": ("select public.explain_queue()", None, 15_000)}) == {}
        busy.advance(-20)


def test_advice_for_250_different_errors_is_bounded(engine: Engine) -> None:
    """Of the groups of retrying jobs, only 50 are findings, because each has advice.

    Among them is the largest group of each workspace.
    """
    engine.enqueue_many(3, workspace=GLOBEX)
    for lease in engine.lease(3):
        engine.settle(lease, "retry", error={"message": "y"})
    engine.enqueue_many(1000)
    for number, lease in enumerate(engine.lease(1000)):
        engine.settle(lease, "retry", error={"message": "x" * (number % 250)})
    assert blocks(engine, "select public.explain_queue(%s)", ACME) <= 16_000
    found = engine.overview(ACME)
    assert [one["jobs"] for one in found["findings"]] == [4] * 50
    assert all(one["more"] for one in found["attention"])
    shown = [one["workspace_id"] for one in engine.overview()["attention"]]
    assert (len(shown), shown.count(GLOBEX)) == (50, 1)


def test_the_first_failure_is_found_without_a_read_of_every_attempt(engine: Engine) -> None:
    _, lease = engine.start()
    for _ in range(4):
        engine.settle(lease, "retry", error={"message": "x"}, retry_after_seconds=1)
        engine.advance(60)
        lease = engine.lease_one()
    engine.settle(lease, "failed", error={"message": "x"})
    calls = "select calls from pg_stat_xact_user_functions where funcname = 'fingerprint'"
    with engine.connection.transaction():
        engine.run("set local track_functions = 'all'")
        engine.overview(ACME)
        assert engine.one(calls) == 2  # of the job and of its first attempt


def test_a_sessions_words_cost_what_is_said_in_it(busy: Engine) -> None:
    """A read of a session's output reads few blocks, whatever the number of other running jobs."""
    busy.run(
        "update public.jobs set session_id = 's' where id = any (array(select id from public.jobs"
        " where id not in (select job_id from queue.leases) limit 1000))"
    )
    runs = busy.rows(
        "update public.jobs set session_id = 's' where id = any (array("
        " select job_id from queue.leases limit 5)) returning id"
    )
    busy.run(
        "insert into queue.pieces (job_id, stream, attempt, end_offset, text)"
        " select id, 'reply', 1, n * 4, 'text' from public.jobs, generate_series(1, 50) as n"
        " where id = any (%s)",
        runs,
    )
    busy.run("vacuum analyze public.jobs")
    with busy.member(ADA) as ada:
        look = "select public.session_output('s', %s::jsonb)"
        result = ada.one(look, "{}")["jobs"]  # this first call also plans the query
        known = {job["job_id"]: {"reply": {"attempt": 1, "next": 200}} for job in result}
        assert len(known) == 5
        costs = [ada.blocks(look, json.dumps(each)) for each in ({}, known)]
    assert max(costs) <= 400, costs


def trickle(engine: Engine, count: int, tick: str) -> int:
    """Return the blocks that enqueue, lease and settlement of one job read.

    The result is the median of the last 20 jobs.
    """
    lease: Json = {"worker_id": "w1", "tick_id": tick, "limit": 5}
    items: list[Json] = []
    used = []
    for number in range(count):
        lease["call"] = engine.one("select coalesce(max(last_call), 0) + 1 from queue.ticks")
        used.append(engine.blocks("select public.enqueue_job(%s, 'work')", ACME))
        request = json.dumps({"items": items, "lease": lease})
        answer = engine.one("select public.settle_jobs(%s::jsonb)", request)
        items = [{**handle(given), "outcome": "completed"} for given in answer["lease"]["leases"]]
        if number >= count - 20:
            lease["call"] += 1
            settle = json.dumps({"items": items, "lease": lease})
            used[-1] += engine.blocks("select public.settle_jobs(%s::jsonb)", settle)
            items = []
    return sorted(used[-20:])[10]  # a median, because once a second a call also does due work


def test_a_trickle_beside_a_held_snapshot_costs_what_it_cost(engine: Engine) -> None:
    """While another session keeps an old snapshot, calls for one job read at most twice the blocks.

    The snapshot prevents the vacuum of dead rows.
    """
    tick = str(uuid.uuid4())
    first = trickle(engine, 60, tick)
    with engine.another_session() as other:
        other.run("begin isolation level repeatable read")
        other.count("public.jobs")
        last = trickle(engine, 600, tick)

    assert last <= 2 * first, (first, last)


def test_an_empty_lease_beside_a_held_snapshot_does_not_read_closed_turns(engine: Engine) -> None:
    tenants = engine.add_workspaces(20)
    insert = (
        "insert into public.jobs (workspace_id, job_type)"
        " select t, 'work' from unnest(%s::uuid[]) as t, generate_series(1, 2)"
    )

    def serve() -> int:
        engine.run(insert, tenants)
        while leases := engine.lease(30, call=2):
            engine.complete(leases)
        return lease_blocks(engine)

    first = serve()
    with engine.another_session() as other:
        other.run("begin isolation level repeatable read")
        other.count("public.jobs")
        last = [serve() for _ in range(12)][-1]

    assert last <= 1.5 * first, (first, last)


def test_no_call_takes_more_than_200_advisory_locks(engine: Engine, ada: Engine) -> None:
    """No enqueue, lease or settlement takes more than 200 of the server's few advisory locks.

    A call that reaches the limit leaves the rest of the work to the next call.
    """
    engine.register("keyed", key_concurrency=1)
    engine.register("shared", workspace_concurrency=1)
    jobs = [{"job_type": "keyed", "concurrency_key": str(n % 300)} for n in range(600)]
    keyed = [
        {"job_type": "keyed", "idempotency_key": str(n), "concurrency_key": str(n)}
        for n in range(150)
    ]
    insert = (
        "insert into public.jobs (workspace_id, job_type) select t, %s from unnest(%s::uuid[]) as t"
    )
    tenants = engine.add_workspaces(300)
    locks: list[int] = []

    def count_locks(call: Callable[[], Any], caller: Engine = engine) -> Any:
        caller.run("begin")
        answer = call()
        locks.append(
            caller.one(
                "select count(*) from pg_locks"
                " where locktype = 'advisory' and pid = pg_backend_pid()"
            )
        )
        caller.run("commit")
        return answer

    count_locks(lambda: engine.enqueue_all(jobs))
    for job_type in ("work", "shared"):
        count_locks(partial(engine.run, insert, job_type, tenants))
    limited = [{"job_type": f"limited-{n}", "max_concurrency": 9} for n in range(300)]
    engine.rpc("register_job_types", p_types=limited)
    engine.run(
        "insert into public.jobs (workspace_id, job_type)"
        " select %s, 'limited-' || n from generate_series(0, 299) as n",
        ACME,
    )
    call_of_a_person = partial(ada.rpc, "enqueue_jobs", p_workspace_id=ACME, p_jobs=keyed)
    count_locks(call_of_a_person, ada)
    request = {"worker_id": "w1", "tick_id": str(uuid.uuid4()), "limit": 1000}
    done, call = 0, 0
    items: list[Json] = []
    while done < 1650 and call < 60:
        call += 1
        lease = request | {"call": call}
        answer = count_locks(
            partial(engine.rpc, "settle_jobs", p_request={"items": items, "lease": lease})
        )
        done += len(items)
        items = [handle(o) | {"outcome": "completed"} for o in answer["lease"]["leases"]]

    assert done == 1650
    assert max(locks) <= 200
