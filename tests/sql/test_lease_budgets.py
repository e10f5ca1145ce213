"""A lease reads as much as it gives, whatever waits around it; the server counts the blocks."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest

from tests.support.engine import ACME, GLOBEX, Engine, handle
from tests.support.weekly import weekly

pytestmark = pytest.mark.fresh

BUDGET = 300
FILL = """
insert into public.jobs (workspace_id, job_type, concurrency_key)
select {workspace}, {job_type}, {key} from generate_series(1, {count}) as n
"""
#: All is empty: what tables that were vacuumed between two bursts say, until they are analyzed.
QUIET = (
    "delete from pg_statistic",
    "update pg_class set reltuples = 0 where relkind in ('r', 'i') and relnamespace in"
    " (select oid from pg_namespace where nspname in ('queue', 'public', 'realtime'))",
)
#: What the planner may know when a session makes its plans: a sample that misses rare values,
#: everything, nothing, or that there is nothing.
STATISTICS = (
    "set default_statistics_target = 1; analyze",
    "set default_statistics_target = 1000; analyze",
    "delete from pg_statistic; update pg_class set reltuples = -1 where relkind = 'r'",
    "; ".join(QUIET),
)


def blocks(engine: Engine, limit: int = 1, **request: Any) -> int:
    """Blocks that one lease call touches, as a later call of a tick; it is rolled back."""
    request = {
        "worker_id": "w1",
        "tick_id": str(uuid.uuid4()),
        "call": 2,
        "limit": limit,
        **request,
    }
    engine.run("begin")
    try:
        return engine.blocks("select public.lease_jobs(%s::jsonb)", json.dumps(request))
    finally:
        engine.run("rollback")


def settle_down(engine: Engine) -> None:
    """Open what waits to be opened, as earlier calls would have, and let the server tidy up."""
    while engine.one("select exists (select 1 from queue.openings)"):
        engine.run("select queue.open_openings(10000, queue.clock())")
    # what filling the queue held back is announced by the first statement of each second: apart
    engine.run("delete from queue.held_topics")
    engine.run("vacuum analyze")
    blocks(engine)  # a session's first call reads the catalogue as well


def most_blocks(engine: Engine) -> int:
    """The dearest lease of one by statistics of few rows, of all rows, and of none at all."""
    found = []
    for statistics in STATISTICS:
        for statement in statistics.split("; "):
            engine.run(statement)
        with engine.beside() as other:  # a session of its own makes its own plans
            # the first call reads the catalogue, and one after autovacuum has been at a table
            found.append(min(blocks(other) for _ in range(3)))
    engine.run("analyze")  # for what the test does next
    print(found)
    return max(found)


def fill_tenants(engine: Engine, count: int, job_type: str = "work") -> None:
    """Give each of many new tenants one job."""
    engine.run(
        "insert into public.workspaces (id, name)"
        " select md5(n::text)::uuid, 'T' from generate_series(1, %s) as n",
        count,
    )
    engine.run(
        FILL.format(
            workspace="md5(n::text)::uuid", job_type=f"'{job_type}'", key="null", count=count
        )
    )


def test_a_lease_that_finds_nothing_reads_a_handful(engine: Engine) -> None:
    """Idle costs one query per tick."""
    engine.register("work")
    settle_down(engine)

    assert most_blocks(engine) <= 80


def test_a_lease_that_finds_nothing_writes_nothing(engine: Engine) -> None:
    """Idle workers would use up transaction ids, and fill the log, by asking."""
    engine.stop_clock()
    tick = str(uuid.uuid4())
    engine.lease_call(1, tick_id=tick)
    engine.run("begin")

    assert engine.lease_call(1, tick_id=tick, call=2)["leases"] == []
    assert engine.one("select pg_current_xact_id_if_assigned()") is None
    engine.run("rollback")


def test_a_call_that_settles_and_leases_takes_three_transaction_ids(engine: Engine) -> None:
    """One of its own, and one for each message, whose loss must not fail it."""
    engine.enqueue_many(10)
    next_id = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    taken = []
    leases = engine.lease(1)
    for call in range(2, 7):
        request = {"worker_id": "w1", "tick_id": str(uuid.uuid4()), "call": call, "limit": 1}
        items = [{**handle(lease), "outcome": "completed"} for lease in leases]
        before = engine.one(next_id)
        answer = engine.rpc("settle_jobs", p_request={"items": items, "lease": request})
        taken.append(engine.one(next_id) - before)
        leases = answer["lease"]["leases"]

    assert min(taken) <= 3  # autovacuum may take some in between


def test_a_lease_that_finds_nothing_reads_no_running_jobs(engine: Engine) -> None:
    """Agents that wait for a model made each idle worker's look dearer than a lease."""
    engine.enqueue_many(3000)
    for _ in range(3):
        engine.lease(1000, call=2, tick_id=str(uuid.uuid4()), lease_seconds=3600)
    settle_down(engine)

    assert engine.one("select count(*) from queue.leases") == 3000
    assert min(blocks(engine) for _ in range(3)) <= 80


def test_a_lease_of_one_opens_few_of_many_new_tenants(engine: Engine) -> None:
    """It opened 250 partitions, for which the next job of everyone waited."""
    fill_tenants(engine, 300)

    assert len(engine.lease_call(1, call=2)["leases"]) == 1
    assert engine.one("select count(*) from queue.partitions") <= 20


@pytest.mark.weekly
def test_a_lease_of_one_is_as_cheap_beside_thousands_of_waiting_tenants(engine: Engine) -> None:
    """It reads the tenants whose turn it is, not those that wait."""
    fill_tenants(engine, weekly(10_000, otherwise=2_000))
    settle_down(engine)

    assert most_blocks(engine) <= BUDGET


@pytest.mark.weekly
def test_a_lease_of_one_is_as_cheap_beside_thousands_of_keys_just_drained(engine: Engine) -> None:
    """A partition is gone with its last job: nothing is left to be swept."""
    keys = weekly(50_000, otherwise=3_000)
    engine.run(FILL.format(workspace=f"'{ACME}'", job_type="'work'", key="'k' || n", count=keys))
    while leases := engine.lease(1000, call=2, tick_id=str(uuid.uuid4())):
        engine.settle_all([{**handle(lease), "outcome": "completed"} for lease in leases])
    engine.enqueue()
    settle_down(engine)

    assert engine.one("select count(*) from queue.partitions") == 1
    assert most_blocks(engine) <= BUDGET


@pytest.mark.weekly
def test_a_lease_of_one_is_as_cheap_beside_many_keys_of_a_paused_type(engine: Engine) -> None:
    """A type that is paused is not looked into, whatever the statistics' sample has seen of it."""
    engine.register("still")
    keys = weekly(50_000, otherwise=5_000)
    engine.run(FILL.format(workspace=f"'{ACME}'", job_type="'still'", key="'k' || n", count=keys))
    engine.rpc("pause_jobs", p_request={"kind": "job_type", "name": "still"})
    engine.enqueue()
    settle_down(engine)

    assert most_blocks(engine) <= BUDGET


@pytest.mark.parametrize("known", ["few", "one tenant", "all"])
def test_partitions_are_opened_and_closed_by_one_look_each(engine: Engine, known: str) -> None:
    """Plans made for other rows have read a backlog of them for each: 880 ms in a lease."""
    opened = """
    insert into queue.openings
      (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
    select queue.partition_id(w, 'default', 'work', k, 100), w, 'default', 'work', k, 100
    from (select {workspace}::uuid as w, {key} as k from generate_series(1, {count}) as n) as o
    """
    rows = """
    select sum(seq_tup_read + idx_tup_fetch)::int from pg_stat_xact_user_tables
    where relname in ('openings', 'partitions', 'turns', 'shares')
    """
    for number in range(10 if known == "few" else 0):
        engine.enqueue(concurrency_key=f"few {number}")
        engine.run("analyze")
        engine.lease_call(20, call=2)
    engine.run(opened.format(workspace=f"'{ACME}'", key="'k' || n", count=10_000))
    engine.run("select queue.open_openings(10000, queue.clock())")  # empty, and to be closed
    engine.run(opened.format(workspace=f"'{ACME}'", key="'l' || n", count=20_000))
    if known == "one tenant":
        engine.run("analyze")
    engine.run(opened.format(workspace="md5(n::text)", key="''", count=300))
    if known == "all":
        engine.run("analyze")

    engine.run("begin")
    before = engine.one(rows)
    engine.lease_call(20, call=2)

    assert engine.one(rows) - before <= 10_000
    engine.run("rollback")


def test_a_thousand_tenants_at_their_limits_are_passed_by(engine: Engine) -> None:
    """Whoever is at a limit is set aside, and costs the next lease nothing."""
    engine.register("work", workspace_concurrency=1)
    fill_tenants(engine, 1000)
    while engine.lease(1000, lease_seconds=3600):
        pass
    engine.run(
        FILL.format(workspace="md5(n::text)::uuid", job_type="'work'", key="null", count=1000)
    )
    settle_down(engine)
    while engine.one(
        "select exists (select 1 from queue.turns where queue = '' and not set_aside)"
    ):
        engine.lease(10, call=2, tick_id=str(uuid.uuid4()))
        # the clock runs on while this prepares: looking at a few of them again is apart
        engine.run("update queue.turns set look_at = 'infinity' where set_aside")
    free = engine.enqueue(workspace=GLOBEX)
    settle_down(engine)

    assert most_blocks(engine) <= BUDGET
    assert [lease["job"]["id"] for lease in engine.lease(1)] == [free]


def test_a_crafted_key_takes_over_no_partition(engine: Engine) -> None:
    """Names are no separators: three jobs of three places are three partitions."""
    engine.register("work", key_concurrency=1)
    for queue, key in (("a", "b/1/c"), ("a/1", "b/c"), ("a/1/b", "c")):
        engine.enqueue(queue=queue, concurrency_key=key)

    assert len(engine.lease(3)) == 3
    assert engine.one("select count(distinct partition_id) from queue.leases") == 3


def test_a_batch_costs_the_same_a_job_as_a_small_one(engine: Engine) -> None:
    """Looking for each job whether its partition is empty now passed over the batch each time."""
    engine.enqueue_many(400)
    settle_down(engine)

    few, many = blocks(engine, 20), blocks(engine, 400)

    assert many / 400 <= few / 20


@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_a_settlement_looks_each_item_up(engine: Engine, outcome: str) -> None:
    """By what was known of an empty table, each item was compared with every lease."""
    engine.enqueue_many(100)
    engine.run("analyze")
    leases = engine.lease(100)
    plans: list[str] = []
    with engine.beside() as other:
        other.run("load 'auto_explain'")
        other.run("set client_min_messages = log; set auto_explain.log_min_duration = 0")
        other.run("set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on")
        other.connection.add_notice_handler(lambda found: plans.append(found.message_primary or ""))
        results = other.settle_all([handle(lease) | {"outcome": outcome} for lease in leases])

    assert {result["outcome"] for result in results} == {"applied"}
    assert any("Delete on leases" in plan for plan in plans)
    compared = re.findall(r"Rows Removed by Join Filter: (\d+)", "".join(plans))
    assert all(int(count) <= 100 for count in compared)


@pytest.mark.parametrize("policy", [{}, {"key_concurrency": 1}], ids=["free", "limited"])
def test_a_lease_beside_an_open_one_continues_to_the_next_keys(
    engine: Engine, policy: dict[str, int]
) -> None:
    """What the first holds is left out; looking deeper for it has cost 28,000 blocks."""
    engine.register("work", **policy)
    engine.run(FILL.format(workspace=f"'{ACME}'", job_type="'work'", key="'k' || n", count=3000))
    settle_down(engine)
    blocks(engine, 20)
    alone = blocks(engine, 20)
    with engine.beside() as other:
        other.run("begin")
        held = {lease["job"]["id"] for lease in other.lease(20, call=2)}
        beside = blocks(engine, 20)
        leases = engine.lease(20, call=2)
        other.run("rollback")

    assert beside <= 2 * alone
    assert len(leases) == 20
    assert held.isdisjoint(lease["job"]["id"] for lease in leases)


def test_no_lease_beside_tenants_at_all_their_limits_reads_much(engine: Engine) -> None:
    """Each of 1,000 is at its own limit, its type's, its key's and its rate; all are met."""
    engine.stop_clock()
    rate = {"limit": 1, "per_seconds": 86_400, "per_key": True}
    engine.register("work", workspace_concurrency=1, key_concurrency=1, rate_limit=rate)
    fill = FILL.format(workspace="md5(n::text)::uuid", job_type="'work'", key="'k'", count=1000)
    fill_tenants(engine, 1000)
    engine.run("delete from public.jobs")
    engine.run(
        "insert into queue.tenant_limits (workspace_id, max_running)"
        " select md5(n::text)::uuid, 1 from generate_series(1, 1000) as n"
    )
    engine.run(fill)
    for _ in range(200):  # a call may only set tenants aside, and asks for another
        engine.lease(1000, lease_seconds=36_000)
        if engine.one("select count(*) from queue.leases") == 1000:
            break
    assert engine.one("select count(*) from queue.leases") == 1000
    engine.run(fill)
    settle_down(engine)

    counted = []
    for limit in (1, 20, 100) * 8:  # all are met first, and looked at again later
        engine.advance(2)
        # autovacuum makes a session read the catalogue again, a tenth of this: not twice
        counted.append((limit, min(blocks(engine, limit) for _ in range(2))))
        assert engine.lease(limit, call=2, tick_id=str(uuid.uuid4())) == []

    # about 100 for each of those that are set aside; 20,000 blocks take some 45 ms
    assert max(counted, key=lambda each: each[1])[1] <= 12_000, counted
