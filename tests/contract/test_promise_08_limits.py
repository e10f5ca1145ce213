"""Concurrency and rate limits are exact even for racing workers.

Pauses apply, and no backlog of one tenant delays another tenant's job.
"""

from collections import Counter

import pytest

from tests.contract.observed import refused, started
from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, Json, ids_of


def test_leases_of_two_tenants_hold_the_limit_of_a_type(engine: Engine) -> None:
    """While one tenant's job is being leased, no other tenant's job of the type is leased."""
    engine.register(max_concurrency=1)
    for workspace in (ACME, GLOBEX):
        engine.enqueue_many(3, workspace=workspace)
    engine.lease_call(0)
    with engine.open_transaction() as other:
        assert len(other.lease(1, call=2)) == 1
        assert engine.lease(1, call=2) == []


@pytest.mark.parametrize(
    "policy",
    [
        {"max_concurrency": 1},
        {"workspace_concurrency": 1},
        {"key_concurrency": 1},
        {"rate_limit": {"limit": 1, "per_seconds": 60}},
        {},
    ],
)
@pytest.mark.parametrize("call", [1, 2])
def test_leases_of_one_hold_each_limit(engine: Engine, policy: Json, call: int) -> None:
    """While one job uses up a concurrency or rate limit, no other session can lease a job.

    After the job settles, one more job is leased.
    """
    engine.stop_clock()
    engine.register("narrow", lease_seconds=60, **policy)
    engine.limit(max_running=2 if policy else 1)
    engine.enqueue_many(4, job_type="narrow", concurrency_key="k")
    engine.lease_call(0)
    with engine.open_transaction() as other:
        [held] = other.lease(1, call=call)
        assert engine.lease_call(1, call=2)["leases"] == []

    assert [len(engine.lease(1, call=each)) for each in (2, 3)] == [0, 0]
    engine.settle(held)
    engine.advance(61 if "rate_limit" in policy else 1)
    assert sum(len(engine.lease(1, call=2)) for _ in range(2)) == 1


def test_a_lease_under_an_older_snapshot_does_not_break_a_limit(engine: Engine) -> None:
    """A lease in an older REPEATABLE READ snapshot does not exceed a concurrency limit.

    A newer lease, which the snapshot does not contain, has used up the limit.
    """
    engine.register(max_concurrency=1)
    for workspace in (ACME, GLOBEX):
        engine.declare(f"q{workspace[0]}")
        engine.enqueue(workspace=workspace, queue=f"q{workspace[0]}")
    engine.lease_call(0)
    with engine.another_session() as other:
        other.run("begin isolation level repeatable read")
        other.count("jobs")
        assert len(engine.lease(1, call=2)) == 1
        [late] = engine.race(lambda _: other.lease(1, call=2))
        other.run("commit" if isinstance(late, list) else "rollback")

    assert engine.count("jobs where status = 'processing'") == 1


def test_a_key_is_that_of_a_type_in_a_workspace(engine: Engine) -> None:
    engine.register(key_concurrency=1)
    engine.register("bill", key_concurrency=1)
    for priority in (1, 2, 3):
        engine.declare(f"q{priority}")
        engine.enqueue(concurrency_key="k", priority=priority, queue=f"q{priority}")
    assert len(engine.lease(10)) == 1
    others = [
        engine.enqueue(concurrency_key="k", workspace=GLOBEX),
        engine.enqueue(concurrency_key="k", job_type="bill"),
    ]

    assert set(ids_of(engine.lease(10))) == set(others)


def test_a_rate_refills_with_time_and_never_beyond_itself(engine: Engine) -> None:
    """With a rate limit of ten per minute, ten jobs start at once and one more after six seconds.

    After a long pause, ten jobs start and not more.
    """
    engine.stop_clock()
    engine.register(lease_seconds=60, rate_limit={"limit": 10, "per_seconds": 60})
    engine.enqueue_many(50)

    assert len(engine.lease(50, lease_seconds=9999)) == 10
    assert engine.lease_call(call=2)["next_due_in_ms"] == 6000
    engine.advance(6)
    assert len(engine.lease(50, lease_seconds=9999)) == 1
    engine.advance(3000)
    assert len(engine.lease(50, lease_seconds=9999)) == 10


def test_a_rate_per_key_gives_each_key_its_own_bucket(engine: Engine) -> None:
    engine.stop_clock()
    engine.register(rate_limit={"limit": 2, "per_seconds": 60, "per_key": True})
    for workspace in (ACME, GLOBEX):
        for key in ("a", "b"):
            engine.enqueue_many(5, concurrency_key=key, workspace=workspace)

    assert sum(len(engine.lease(50)) for _ in range(3)) == 8


PAUSES = [
    {"kind": "job_type", "name": "work"},
    {"kind": "queue", "name": "default"},
    {"kind": "workspace", "name": ACME},
    {"kind": "workspace_type", "name": "work", "workspace_id": ACME},
]


@pytest.mark.parametrize("pause", PAUSES)
def test_what_is_paused_does_not_start_until_resumed(engine: Engine, pause: Json) -> None:
    """Paused jobs do not start until they are resumed.

    Jobs that were already running may complete, and other jobs start.
    """
    engine.register("other", queue="slow")
    running = started(engine)
    job_id = engine.enqueue()
    free = engine.enqueue(workspace=GLOBEX, job_type="other")
    engine.pause(**pause, reason="maintenance", by="ops")

    assert ids_of(engine.lease(1, call=2)) == [free]
    answer = engine.lease_call()
    assert (answer["leases"], answer["next_due_in_ms"]) == ([], None)
    assert engine.settle(running)["outcome"] == "applied"
    assert "maintenance" in str(engine.explain(job_id))
    engine.resume(**pause)
    assert ids_of(engine.lease()) == [job_id]


def test_a_worker_serves_a_type_while_it_has_no_slot_for_it(engine: Engine) -> None:
    """A worker whose slots for a job type are full omits the type from its next lease request.

    The worker still counts as a worker for that job type.
    """
    engine.register("other")
    engine.advance(120)
    for job_types in (["work", "other"], ["other"]):
        engine.lease_call(0, worker="w1", job_types=job_types, version="v1")
    engine.advance(70)
    engine.lease_call(0, worker="w1", job_types=["other"], version="v1")

    assert engine.explain(engine.enqueue())["reason"] == "next_in_line"


def test_people_pause_only_what_they_manage(engine: Engine, ada: Engine) -> None:
    """A member who is no manager cannot pause a workspace.

    A user of another workspace gets "workspace_not_found".
    """
    by_type, by_queue, whole, type_of_it = PAUSES
    for user, pause, hint in (
        (BOB, whole, "forbidden"),
        (EVE, whole, "workspace_not_found"),
        (EVE, type_of_it, "workspace_not_found"),
        (ADA, by_type, "forbidden"),
        (ADA, by_queue, "forbidden"),
        (ADA, {"kind": "team", "name": ACME}, "invalid_argument"),
    ):
        with engine.member(user) as person:
            assert refused(person.pause, **pause)[1] == hint
    assert ada.pause(**whole)


def test_limits_of_a_workspace_are_its_managers_below_the_operators(
    engine: Engine, ada: Engine
) -> None:
    engine.limit(max_running=5)
    engine.enqueue_many(9)
    ada.limit(own_max_running=3)
    assert refused(ada.limit, max_running=100)[:2] == ("PT403", "forbidden")
    assert len(engine.lease(9)) == 3
    engine.limit(own_max_running=9)
    assert sum(len(engine.lease(9)) for _ in range(2)) == 2
    for weight in (0.5, 0, 101, "1.5"):  # a weight is a whole number
        answer = refused(engine.limit, weight=weight)
        assert answer == ("PT400", "invalid_argument", "weight")


@pytest.mark.parametrize("others", [1, 14, 40])
@pytest.mark.parametrize("size", [1, 10, 33])
def test_a_round_gives_a_large_weight_all_of_it(engine: Engine, others: int, size: int) -> None:
    """A tenant of weight 20 gets 20 jobs for each job of every other tenant.

    The size of a lease call does not matter.
    """
    engine.limit(weight=20)
    engine.enqueue_many(50)
    for workspace in engine.add_workspaces(others):
        engine.enqueue_many(4, workspace=workspace)

    served: Counter[str] = Counter()
    left = a_round = 20 + others
    while left:
        leases = engine.lease(min(size, left))
        served.update(lease["job"]["workspace_id"] for lease in leases)
        left = a_round - served.total()
    assert served.pop(ACME) == 20
    assert set(served.values()) == {1}
