"""Concurrency, rates and pauses hold in every committed snapshot, also under racing workers."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.support.engine import (
    ACME,
    ADA,
    BOB,
    EVE,
    GLOBEX,
    Engine,
    broken_invariants,
    handle,
    ids_of,
    refusal,
)
from tests.support.functions import until_waiting

WORKERS, SNAPSHOTS = 8, 4


def race_workers(engine: Engine, *, rounds: int = 8, limit: int = 7) -> int:
    """Let workers lease and settle while a watcher checks every snapshot it can get.

    Each worker gets so many batches, and goes on until a few snapshots were checked, or there is
    nothing left: a call that finds a limit reached, or its row held by another worker, waits for
    nobody and leases nothing.

    Returns:
        How many snapshots were checked; breaches raise.
    """
    stop = threading.Event()
    seen: list[dict[str, Any]] = []

    def work(other: Engine) -> None:
        batches = 0
        while (batches < rounds or len(seen) < SNAPSHOTS) and other.one(
            "select exists (select 1 from queue.ready)"
        ):
            leases = other.lease(limit)
            batches += bool(leases)
            time.sleep(0.005)
            if leases:
                other.settle_all([{**handle(lease), "outcome": "completed"} for lease in leases])

    def watch(other: Engine) -> None:
        while not stop.is_set():
            seen.append(broken_invariants(other.connection))
            stop.wait(0.01)

    with engine.beside() as watching:
        watcher = threading.Thread(target=watch, args=(watching,))
        watcher.start()
        try:
            answers = engine.race(*[work] * WORKERS)
        finally:
            stop.set()
            watcher.join()
    assert answers == [None] * WORKERS
    assert [broken for broken in seen if broken] == []
    return len(seen)


def test_racing_workers_never_exceed_any_limit(engine: Engine) -> None:
    """All four limits at once; the invariants are checked in each snapshot."""
    engine.register("work", max_concurrency=9, workspace_concurrency=6, key_concurrency=2)
    engine.run("insert into queue.tenant_limits (workspace_id, max_running) values (%s, 5)", ACME)
    for workspace in (ACME, GLOBEX):
        for key in ("a", "b", "c", "d"):
            engine.enqueue_many(40, workspace=workspace, concurrency_key=key)

    assert race_workers(engine) >= SNAPSHOTS

    assert engine.one("select count(*) from public.jobs where status = 'completed'") > 50


def test_limits_are_used_up_before_they_refuse(engine: Engine) -> None:
    """Exact in both directions: no free slot stays empty."""
    engine.register("work", max_concurrency=9, workspace_concurrency=6, key_concurrency=2)
    engine.run("insert into queue.tenant_limits (workspace_id, max_running) values (%s, 5)", ACME)
    for key in ("a", "b", "c", "d"):
        engine.enqueue_many(10, concurrency_key=key)
        engine.enqueue_many(10, concurrency_key=key, workspace=GLOBEX)

    leases = engine.lease(100)

    assert len(leases) == 9
    assert engine.lease(100) == []
    engine.settle(leases[0])
    assert len(engine.lease(100)) == 1


def test_a_full_type_takes_no_slot_of_its_tenant(engine: Engine) -> None:
    """Jobs that their type has no room for do not stand in the way of another type's."""
    engine.register("narrow", max_concurrency=1)
    engine.register("wide")
    engine.run("insert into queue.tenant_limits (workspace_id, max_running) values (%s, 3)", ACME)
    for key in ("a", "b", "c", "d"):
        engine.enqueue(job_type="narrow", concurrency_key=key)
    engine.enqueue_many(5, job_type="wide")

    leases = engine.lease(10)

    assert sorted(lease["job"]["job_type"] for lease in leases) == ["narrow", "wide", "wide"]


def test_a_key_limit_spans_priorities_and_queues(engine: Engine) -> None:
    """The key is the customer's account; partitions are our business."""
    engine.register("work", key_concurrency=1)
    for priority in (1, 2, 3):
        engine.enqueue(concurrency_key="k", priority=priority, queue=f"q{priority}")

    assert len(engine.lease(10)) == 1


def test_a_key_is_that_of_a_type_in_a_workspace(engine: Engine) -> None:
    """What one tenant's key holds is no slot of another's, nor of another type's."""
    engine.stop_clock()
    engine.register("work", key_concurrency=1)
    engine.register("bill", key_concurrency=1)
    engine.enqueue(concurrency_key="k")
    engine.lease_one()
    others = [
        engine.enqueue(concurrency_key="k", workspace=GLOBEX),
        engine.enqueue(concurrency_key="k", job_type="bill"),
    ]

    assert set(ids_of(engine.lease(10))) == set(others)


def test_a_blocked_key_does_not_hold_up_the_others(engine: Engine) -> None:
    """A thousand jobs of one busy key in front of a free one."""
    engine.register("work", key_concurrency=1)
    engine.enqueue_many(1000, concurrency_key="busy")
    engine.enqueue(concurrency_key="free")

    assert len(engine.lease(10)) == 2
    assert engine.lease(10) == []


def test_keys_that_a_call_left_over_are_leased_by_the_next(engine: Engine) -> None:
    """They are not at their limit: what is set aside waits for a second."""
    engine.stop_clock()
    engine.register("work", key_concurrency=1)
    for key in ("a", "b", "c"):
        engine.enqueue(concurrency_key=key)

    assert [len(engine.lease(2)) for _ in range(2)] == [2, 1]


def test_many_blocked_keys_do_not_hold_up_a_free_one(engine: Engine) -> None:
    """A call opens twenty lines, sets forty full ones aside and says to ask again at once."""
    engine.register("work", key_concurrency=1)
    items = [{"job_type": "work", "concurrency_key": f"k{n}"} for n in range(600)]
    for _ in range(2):
        engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items, p_return="ids")
    assert len(engine.lease(1000)) == 600
    engine.enqueue(concurrency_key="free", priority=500)

    for call in range(600 // 40 + 801 // 20 + 1):
        answer = engine.lease_call(5, call=call + 2)
        if answer["leases"]:
            break
        assert answer["next_due_in_ms"] == 0
    assert [lease["job"]["priority"] for lease in answer["leases"]] == [500]


def test_a_rate_is_never_exceeded_in_any_window(engine: Engine) -> None:
    """Token bucket: at most the burst plus what has refilled since."""
    engine.register("work", rate_limit={"limit": 20, "per_seconds": 1})
    engine.enqueue_many(60)

    race_workers(engine)

    starts = engine.rows(
        "select extract(epoch from a.leased_at)::float"
        " from public.jobs as j cross join queue.attempt_lines(j, 1000) as a order by 1"
    )
    assert len(starts) >= 20
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            assert last - first + 1 <= 20 + 20 * (starts[last] - starts[first]) + 1e-6


def test_a_rate_refills_with_time(engine: Engine) -> None:
    """Ten a minute: ten now, one six seconds later, ten after a long pause, never more."""
    engine.stop_clock()
    engine.register("work", rate_limit={"limit": 10, "per_seconds": 60})
    engine.enqueue_many(50)
    engine.register("other", rate_limit={"limit": 1, "per_seconds": 86_400})
    engine.enqueue(job_type="other")
    assert len(engine.lease(job_types=["other"])) == 1  # which leaves the rate of work

    assert len(engine.lease(50)) == 10
    engine.advance(6.5)
    assert len(engine.lease(50, lease_seconds=9999)) == 1
    engine.advance(3000)
    assert len(engine.lease(50, job_types=["work"])) == 10


def test_a_lease_that_finds_only_a_used_up_rate_repeats_when_it_refills(engine: Engine) -> None:
    """Otherwise a worker that ends with nothing to do leaves a rate by the second to the minute."""
    engine.stop_clock()
    engine.register("work", rate_limit={"limit": 2, "per_seconds": 10})
    engine.enqueue_many(3)
    assert len(engine.lease()) == 2

    assert engine.lease_call()["next_due_in_ms"] == 5000
    engine.advance(5)
    assert len(engine.lease()) == 1
    assert engine.lease_call()["next_due_in_ms"] is None


def test_a_rate_per_key_gives_each_key_its_own_bucket(engine: Engine) -> None:
    """One customer's API key must not slow another's."""
    engine.stop_clock()
    engine.register("work", rate_limit={"limit": 2, "per_seconds": 60, "per_key": True})
    for workspace in (ACME, GLOBEX):
        engine.enqueue_many(5, concurrency_key="a", workspace=workspace)
        engine.enqueue_many(5, concurrency_key="b", workspace=workspace)

    assert len(engine.lease(50)) == 8
    assert engine.lease(50) == []


def test_what_a_dead_worker_held_is_free_again(engine: Engine) -> None:
    """Counts come from lease rows: nothing leaks that somebody must give back."""
    engine.register("work", max_concurrency=3)
    engine.enqueue_many(10)
    engine.lease(10)
    engine.advance(61)

    assert len(engine.lease(10)) == 3


@pytest.mark.parametrize(
    "pause",
    [
        {"kind": "job_type", "name": "work"},
        {"kind": "queue", "name": "default"},
        {"kind": "workspace", "name": ACME},
        {"kind": "workspace_type", "name": "work", "workspace_id": ACME},
    ],
)
def test_what_is_paused_does_not_start_until_resumed(engine: Engine, pause: dict[str, Any]) -> None:
    """Running jobs go on; the rest waits and loses nothing."""
    engine.enqueue()
    running = engine.lease_one()
    engine.enqueue()
    paused = (
        "select paused_by, reason from queue.pauses union all select paused_by, pause_reason"
        " from queue.job_types where num_nonnulls(paused_at, paused_by, pause_reason) > 0"
    )

    for reason in ("a first", "maintenance"):
        engine.rpc("pause_jobs", p_request={**pause, "reason": reason, "by": "ops"})

    assert engine.rows(paused) == [("ops", "maintenance")]
    assert engine.lease(1, call=2) == []
    answer = engine.lease_call()
    assert (answer["leases"], answer["next_due_in_ms"]) == ([], None)  # nothing to come until then
    assert engine.settle(running)["outcome"] == "applied"
    engine.rpc("pause_jobs", p_request={**pause, "paused": False})
    assert len(engine.lease()) == 1
    assert engine.rows(paused) == []


@pytest.mark.parametrize("limit", ["workspace_concurrency", "key_concurrency"])
def test_a_lease_that_finds_only_what_is_set_aside_repeats_within_a_second(
    engine: Engine, limit: str
) -> None:
    """A settlement passes by what another lease sets aside at that moment; nobody else looks."""
    engine.stop_clock()
    engine.register("work", **{limit: 1})
    engine.enqueue_many(2, concurrency_key="k")
    [running] = engine.lease()

    assert engine.lease_call()["next_due_in_ms"] == 1000
    engine.run(f"update queue.job_types set {limit} = null")  # at that moment
    assert engine.lease(call=2) == []
    engine.advance(1)
    [follower] = engine.lease(call=2)
    engine.register("work", **{limit: 1})
    engine.enqueue_many(2, concurrency_key="k")
    assert engine.lease(call=2) == []
    engine.settle(running)
    engine.settle(follower)
    assert len(engine.lease(call=2)) == 1  # within that second
    engine.register("work")
    assert len(engine.lease(call=2)) == 1


def test_a_run_leases_no_type_that_runs_longer_than_it_has_time(engine: Engine) -> None:
    """Nor does it ask again for one."""
    engine.run("update queue.job_types set run_p95_ms = 2000")
    engine.enqueue()

    assert engine.lease(1, call=2, budget_ms=1999) == []
    answer = engine.lease_call(budget_ms=1999)
    assert (answer["leases"], answer["next_due_in_ms"]) == ([], None)
    assert len(engine.lease(budget_ms=2000)) == 1


@pytest.mark.parametrize("name", ["{}", f"{ACME}/{{}}"])
def test_a_type_of_any_name_is_paused_in_a_workspace(engine: Engine, name: str) -> None:
    """By its own name, and by that of the pause, which begins with the workspace."""
    job_type = "enrichment." + "x" * 80
    engine.register(job_type)
    engine.enqueue(job_type=job_type)
    request = {"kind": "workspace_type", "name": name.format(job_type), "workspace_id": ACME}

    engine.rpc("pause_jobs", p_request=request)
    assert engine.lease() == []

    engine.rpc("pause_jobs", p_request={**request, "paused": False})
    assert engine.lease_one()["job"]["job_type"] == job_type


def test_a_type_that_was_never_published_is_not_paused(engine: Engine) -> None:
    """A typo would say that it stands still."""
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("pause_jobs", p_request={"kind": "job_type", "name": "wrok"})

    assert refusal(refused.value)[0] == "PT404"


def test_a_workspaces_pause_leaves_others_alone(engine: Engine) -> None:
    """And so does a pause of one type in one workspace."""
    engine.register("other")
    engine.rpc(
        "pause_jobs", p_request={"kind": "workspace_type", "name": "work", "workspace_id": ACME}
    )
    engine.enqueue()
    allowed = {engine.enqueue(workspace=GLOBEX), engine.enqueue(job_type="other")}
    pause = {"kind": "workspace_type", "name": "other", "workspace_id": ACME}
    for paused in (True, False):
        engine.rpc("pause_jobs", p_request={**pause, "paused": paused})

    assert {lease["job"]["id"] for lease in engine.lease()} == allowed


@pytest.mark.parametrize(
    ("user", "request_", "answer"),
    [
        (ADA, {"kind": "workspace", "name": ACME}, None),
        (ADA, {"kind": "workspace_type", "name": "work", "workspace_id": ACME}, None),
        (BOB, {"kind": "workspace", "name": ACME}, ("PT403", "forbidden")),
        (EVE, {"kind": "workspace", "name": ACME}, ("PT404", "workspace_not_found")),
        (
            EVE,
            {"kind": "workspace_type", "name": "work", "workspace_id": ACME},
            ("PT404", "workspace_not_found"),
        ),
        (ADA, {"kind": "job_type", "name": "work"}, ("PT403", "forbidden")),
        (ADA, {"kind": "queue", "name": "default"}, ("PT403", "forbidden")),
        (ADA, {"kind": "team", "name": ACME}, ("PT400", "invalid_argument")),
        (ADA, {"kind": "workspace", "workspace_id": ACME}, ("PT400", "invalid_argument")),
    ],
)
def test_people_pause_only_what_they_manage(
    engine: Engine, user: str, request_: dict[str, Any], answer: tuple[str, str] | None
) -> None:
    """A member would stop colleagues; a stranger must not learn that the workspace exists."""
    with engine.member(user) as person:
        if answer is None:
            person.rpc("pause_jobs", p_request={**request_, "by": "another"})
            assert engine.one("select paused_by from queue.pauses") == user
        else:
            with pytest.raises(psycopg.Error) as refused:
                person.rpc("pause_jobs", p_request=request_)
            assert refusal(refused.value)[:2] == answer


def test_a_token_without_a_person_pauses_nothing(engine: Engine) -> None:
    """Some projects sign such tokens for devices; the service is named by its role."""
    for kind, name in (("job_type", "work"), ("queue", "default"), ("workspace", ACME)):
        with (
            engine.database.as_role("authenticated") as connection,
            pytest.raises(psycopg.Error) as refused,
        ):
            Engine(engine.database, connection).rpc(
                "pause_jobs", p_request={"kind": kind, "name": name}
            )
        assert refusal(refused.value)[:2] == ("PT403", "forbidden")


def test_runs_of_workers_stop_at_their_bound(engine: Engine) -> None:
    """A run learns at its end that another was refused; one that was killed counts for its time."""
    engine.stop_clock()
    begin = partial(begin_run, engine)

    def end(run: int) -> dict[str, bool]:
        return dict(engine.rpc("end_worker_run", p_request={"run_id": str(uuid.UUID(int=run))}))

    assert [begin(1), begin(1), begin(2), begin(3)] == [
        {"admitted": True, "free": 1},
        {"admitted": True, "free": 1},  # repeated
        {"admitted": True, "free": 0},
        {"admitted": False, "free": 0},
    ]
    assert end(1) == {"ended": True, "refused": True}
    assert end(1) == {"ended": False, "refused": False}
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("end_worker_run", p_request={"run_id": "x"})
    assert refusal(refused.value) == ("PT400", "invalid_argument", "p_request")
    assert begin(4, seconds=86_400) == {"admitted": True, "free": 0}
    assert end(4) == {"ended": True, "refused": False}
    assert not begin(5, most=1)["admitted"]
    engine.advance(60)
    assert begin(6, most=1, seconds=0)["admitted"]


def test_runs_that_begin_at_once_are_counted_one_after_the_other(engine: Engine) -> None:
    """Each would find the bound not reached."""
    engine.run("set statement_timeout = '60s'")
    with engine.beside() as other, ThreadPoolExecutor(1) as threads:
        other.run("begin")
        begin_run(other, 1, most=1)
        late = threads.submit(begin_run, engine, 2, most=1)
        until_waiting(engine.database)
        other.run("commit")
        assert not late.result(60)["admitted"]


@pytest.mark.parametrize(
    "request_",
    [
        {"run_id": None}, {"run_id": "x"}, {"worker_id": ""}, {"most": None}, {"most": 0},
        {"seconds": None}, {"seconds": -1}, {"seconds": 86_401}, {"seconds": "x"},
    ],
)  # fmt: skip
def test_a_run_without_a_bound_is_refused(engine: Engine, request_: dict[str, Any]) -> None:
    """A run that counts for ever shuts out all that come later."""
    with pytest.raises(psycopg.Error) as refused:
        begin_run(engine, 1, **request_)
    assert refusal(refused.value) == ("PT400", "invalid_argument", "p_request")


def begin_run(engine: Engine, run: int, **request: Any) -> dict[str, Any]:
    """Ask for a run of a worker, by default of two at once, for a minute."""
    known = {"run_id": str(uuid.UUID(int=run)), "worker_id": "w1", "most": 2, "seconds": 60}
    return dict(engine.rpc("begin_worker_run", p_request={**known, **request}))


def test_an_open_transaction_of_a_user_blocks_neither_enqueue_nor_lease(engine: Engine) -> None:
    """Somebody enqueues inside a long transaction; everybody else must not notice."""
    engine.run("set lock_timeout = '500ms'")
    with engine.beside() as slow:
        slow.run("begin")
        slow.enqueue()

        job_id = engine.enqueue()
        lease = engine.lease_one()
        assert lease["job"]["id"] == job_id
        engine.settle(
            lease, "waiting", wait={"kind": "sleep", "name": "s", "until": "2020-01-01T00:00:00Z"}
        )
        engine.settle(engine.lease_one(), "released")
        engine.advance(120)
        engine.lease_call(0)
        engine.settle(engine.lease_one())
        slow.run("commit")
    assert len(engine.lease()) == 1


@pytest.mark.parametrize(
    ("limit", "prepare"),
    [
        ({"max_concurrency": 1}, "select 1"),
        ({"workspace_concurrency": 1}, "select 1"),
        ({"key_concurrency": 1}, "select 1"),
        ({"rate_limit": {"limit": 1, "per_seconds": 60}}, "select 1"),
        ({}, f"insert into queue.tenant_limits (workspace_id, max_running) values ('{ACME}', 1)"),
    ],
)
def test_later_leases_of_one_hold_each_limit(
    engine: Engine, limit: dict[str, Any], prepare: str
) -> None:
    """From a run's second call on one job is found by a statement of its own."""
    engine.register("work", **limit)
    engine.run(prepare)
    for _ in range(3):
        engine.enqueue(concurrency_key="k")

    assert [len(engine.lease(1, call=call)) for call in (2, 3, 4)] == [1, 0, 0]
