# ruff: noqa: E501 - queries stay on one line
"""One tenant's flood does not delay another's first job; weights and priorities decide the rest."""

from __future__ import annotations

import uuid
from collections import Counter
from random import Random
from typing import Any

import pytest

from tests.support.engine import ACME, GLOBEX, Engine, handle, ids_of
from tests.support.weekly import weekly


def tenants(engine: Engine, count: int) -> list[str]:
    """Make workspaces."""
    ids = [
        str(uuid.UUID(int=0x40008000000000000000 + number, version=4)) for number in range(count)
    ]
    engine.connection.cursor().executemany(
        "insert into public.workspaces (id, name) values (%s, 'T')", [(one,) for one in ids]
    )
    return ids


def flood(engine: Engine, workspace: str, count: int) -> None:
    """Fill the queue with jobs of one tenant, as fast as SQL can."""
    engine.run(
        "insert into public.jobs (workspace_id, job_type) select %s, 'work' from generate_series(1, %s)",
        workspace,
        count,
    )


def of_workspaces(engine: Engine, limit: int) -> Counter[str]:
    """Lease and count by tenant."""
    return Counter(lease["job"]["workspace_id"] for lease in engine.lease(limit))


@pytest.mark.weekly
def test_the_only_job_of_a_tenant_is_leased_next_to_a_flood(engine: Engine) -> None:
    """Thousands waiting against 1: the one is in the very next lease."""
    flood(engine, ACME, weekly(100_000, otherwise=10_000))
    engine.lease(5)

    engine.enqueue(workspace=GLOBEX, priority=900)

    assert of_workspaces(engine, 2)[GLOBEX] == 1


def test_the_only_job_that_falls_due_beside_a_flood_is_made_ready(engine: Engine) -> None:
    """When more fall due at once than a call of maintenance makes ready."""
    engine.enqueue_many(30, delay_seconds=1)
    theirs = engine.enqueue(workspace=GLOBEX, delay_seconds=2)
    engine.advance(3)

    assert theirs in engine.one("select queue.due_jobs(10, queue.clock())::text[]")


def test_equal_tenants_share_equally_whatever_their_backlog_and_priority(engine: Engine) -> None:
    """Priority 0 is a wish inside a tenant, not a way past the others."""
    workspaces = tenants(engine, 5)
    for number, workspace in enumerate(workspaces):
        engine.enqueue_many(
            1000 if number == 0 else 100, workspace=workspace, priority=0 if number == 0 else 500
        )

    counts = of_workspaces(engine, 50)

    assert counts == dict.fromkeys(workspaces, 10)


def test_weights_divide_the_slots(engine: Engine) -> None:
    """Three to one, over several calls."""
    engine.run("insert into queue.tenant_limits (workspace_id, weight) values (%s, 3)", ACME)
    engine.enqueue_many(200)
    engine.enqueue_many(200, workspace=GLOBEX)

    counts: Counter[str] = Counter()
    for _ in range(10):
        counts += of_workspaces(engine, 8)

    assert 57 <= counts[ACME] <= 63


@pytest.mark.parametrize("limit", [1, 5, 20])
@pytest.mark.parametrize("weight", [1, 0.01])
@pytest.mark.parametrize("places", ["queue", "concurrency_key"])
@pytest.mark.parametrize("comes_first", [ACME, GLOBEX])
def test_a_tenant_has_its_weights_share_whatever_the_number_of_its_queues_and_keys(
    engine: Engine, limit: int, weight: float, places: str, comes_first: str
) -> None:
    """Each queue was a turn of its own: with forty a tenant had 19 of the first 20 jobs."""
    engine.run(
        "insert into queue.tenant_limits (workspace_id, weight) values (%s, %s)", ACME, weight
    )
    jobs = {
        ACME: [{"job_type": "work", places: f"p{number % 40:02}"} for number in range(120)],
        GLOBEX: [{"job_type": "work"}] * 60,
    }
    for workspace in (comes_first, *(jobs.keys() - {comes_first})):
        engine.rpc("enqueue_jobs", p_workspace_id=workspace, p_jobs=jobs[workspace], p_return="ids")
        engine.lease(0)  # opens some
    counts: Counter[str] = Counter()
    ahead = []

    while counts.total() < 40:
        counts += of_workspaces(engine, limit)
        ahead.append(counts[ACME] - counts.total() * weight / (1 + weight))

    assert counts.total() == 40
    assert max(map(abs, ahead)) <= 2, ahead


def test_turns_that_are_behind_their_tenants_do_not_hide_the_others(engine: Engine) -> None:
    """Thirty tenants had their share in one type; in another each came first once more."""
    engine.register("other")
    workspaces = tenants(engine, 30)
    for workspace in workspaces:
        engine.enqueue_many(4, workspace=workspace)
        engine.enqueue(job_type="other", workspace=workspace)
    while engine.one("select exists (select 1 from queue.openings)"):
        engine.lease(0)
    engine.lease(60, job_types=["work"])
    engine.enqueue(workspace=GLOBEX, job_type="other")
    engine.lease(0)

    first = [engine.lease(1, job_types=["other"])[0]["job"]["workspace_id"] for _ in range(3)]

    assert GLOBEX in first


def test_an_idle_tenants_share_goes_to_the_others_and_is_not_saved_up(engine: Engine) -> None:
    """Work-conserving, and no burst of revenge after a pause."""
    engine.enqueue_many(300)
    for _ in range(10):
        leases = engine.lease(20)
        assert {lease["job"]["workspace_id"] for lease in leases} == {ACME}
        engine.settle_all([{**handle(lease), "outcome": "completed"} for lease in leases])

    engine.enqueue_many(300, workspace=GLOBEX)

    counts = of_workspaces(engine, 20)
    assert 9 <= counts[GLOBEX] <= 11


def test_with_k_tenants_no_one_waits_longer_than_k_leases(engine: Engine) -> None:
    """The bound of queues.md §6.8."""
    workspaces = tenants(engine, 20)
    engine.enqueue_many(2000)
    for workspace in workspaces:
        engine.enqueue_many(3, workspace=workspace)

    first = [of_workspaces(engine, 1) for _ in range(21)]

    assert {one for counts in first for one in counts} == {ACME, *workspaces}


def test_drained_tenants_in_front_do_not_hide_a_full_one(engine: Engine) -> None:
    """A window over all partitions without looking inside made every lease return nothing for ever."""
    workspaces = tenants(engine, 300)
    for workspace in workspaces:
        engine.enqueue(workspace=workspace)
    while engine.one("select exists (select 1 from queue.ready)"):
        engine.lease(200, lease_seconds=9999)  # a call opens as many new tenants as it asks for
    engine.enqueue_many(50)

    assert of_workspaces(engine, 40) == {ACME: 40}


def test_many_partitions_of_one_tenant_fill_a_large_lease(engine: Engine) -> None:
    """A job per key: the lease must look into more partitions, not return half empty."""
    items = [{"job_type": "work", "concurrency_key": f"k{n}"} for n in range(900)]
    engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items, p_return="ids")
    engine.enqueue_many(600)

    assert len(engine.lease(500)) == 500
    assert len(engine.lease(1000)) == 1000


def test_a_paused_queue_hides_no_other_queue_of_its_tenant(engine: Engine) -> None:
    """Its partitions come first by priority, and are passed by."""
    items = [{"job_type": "work", "concurrency_key": f"k{n}"} for n in range(60)]
    still = [{**item, "queue": "still", "priority": 1} for item in items]
    engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=still, p_return="ids")
    pause = {"kind": "queue", "name": "still"}
    engine.rpc("pause_jobs", p_request=pause)
    free = engine.enqueue(queue="free")
    while engine.one("select exists (select 1 from queue.openings)"):
        engine.lease(0)

    got = [lease["job"]["id"] for _ in range(5) for lease in engine.lease(1)]

    assert got == [free]
    assert engine.lease_call(1)["next_due_in_ms"] is None
    engine.rpc("pause_jobs", p_request={**pause, "paused": False})
    assert len(engine.lease(60)) == 60


def test_ageing_lifts_a_starved_priority(engine: Engine) -> None:
    """A step per minute, when the type asks for it."""
    engine.register("work", ageing_seconds=60)
    old = engine.enqueue(priority=105)
    engine.advance(360)
    engine.enqueue_many(5, priority=100)

    assert engine.lease(1)[0]["job"]["id"] == old


def test_a_late_commit_below_the_watermark_is_found(engine: Engine) -> None:
    """It waits for the sweep at most, it is never lost."""
    with engine.beside() as slow:
        slow.run("begin")
        late = slow.enqueue()
        engine.advance(10)
        engine.enqueue_many(5)
        engine.lease(3)
        slow.run("commit")

    engine.advance(61)

    assert late in [lease["job"]["id"] for lease in engine.lease(10, lease_seconds=999)]


def test_a_partition_closed_before_an_enqueue_commits_is_opened_again(engine: Engine) -> None:
    """Nobody could see the job when its partition was closed."""
    engine.enqueue()
    engine.run_all()
    with engine.beside() as slow:
        slow.run("begin")
        late = slow.enqueue()
        engine.advance(400)
        engine.lease_call(0)
        assert engine.one("select count(*) from queue.partitions") == 0
        slow.run("commit")

    assert engine.lease_one()["job"]["id"] == late


def test_a_partition_stays_open_while_an_enqueue_into_it_is_uncommitted(engine: Engine) -> None:
    """The enqueue saw it open, so nobody else announces its job."""
    engine.enqueue_many(2)
    [first] = engine.lease(1)
    with engine.beside() as slow:
        slow.run("begin")
        late = slow.enqueue()
        [second] = engine.lease(1)
        assert engine.lease(1) == []
        assert engine.one("select count(*) from queue.partitions") == 1
        slow.run("commit")

    assert engine.lease_one()["job"]["id"] == late
    assert {first["job"]["id"], second["job"]["id"]}.isdisjoint({late})


def test_two_open_transactions_open_one_partition_and_wait_for_no_one(engine: Engine) -> None:
    """A user's transaction holds up no other enqueue."""
    engine.run("set lock_timeout = '100ms'")
    with engine.beside() as slow:
        slow.run("begin")
        late = slow.enqueue()
        early = engine.enqueue()
        assert engine.lease_one()["job"]["id"] == early
        slow.run("commit")

    assert engine.lease_one()["job"]["id"] == late
    assert engine.rpc("queue_stats", p_workspace_id=ACME)["live"]["queued"] == 0


WITHOUT_THE_SHORT_WAY = """
create or replace function queue.lock_first(p_request queue.lease_request, p_now timestamptz) returns queue.choice
language sql set search_path = '' as $$ select null::queue.choice $$
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_lease_of_one_gets_what_the_whole_choice_gives(engine: Engine, seed: int) -> None:
    """Two ways to choose are one order: of tenants, types, queues, priorities, keys and age."""
    random = Random(seed)
    engine.register("aged", ageing_seconds=600)
    engine.register("keyed", key_concurrency=2)
    for _ in range(60):
        job_type = random.choice(["work", "aged", "keyed"])
        key: dict[str, Any] = {}
        if job_type == "keyed":
            key["concurrency_key"] = random.choice("ab")
        queue: dict[str, Any] = {}
        if job_type != "keyed":
            queue["queue"] = random.choice(["one", "two"])
        priority = random.choice([50, 100])
        workspace = random.choice([ACME, GLOBEX])
        engine.enqueue(workspace=workspace, job_type=job_type, priority=priority, **key, **queue)
    engine.lease(1)  # opens their partitions

    for _ in range(45):
        # of a tenant's turns that are as old the whole choice looks at two
        request = {
            "queues": random.choice([None, ["one"], ["two"]]),
            "job_types": random.sample(["work", "aged", "keyed"], 2),
        }
        chosen = []
        for prelude in ("select 1", WITHOUT_THE_SHORT_WAY):
            engine.run("begin")
            engine.run(prelude)
            chosen.append(ids_of(engine.lease(1, call=2, **request)))
            engine.run("rollback")
        assert chosen[0] == chosen[1]
        for lease in engine.lease(1, call=2, **request):
            if random.random() < 0.5:
                engine.settle(lease, random.choice(["completed", "released"]))
