"""What ends at the very moment at which another begins to wait for it is not missed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.engine import ACME, Engine, handle, ids_of
from tests.support.functions import until_waiting


def test_an_end_between_two_looks_of_a_check_is_seen(engine: Engine) -> None:
    """It ended before it could see who waits for it, and after the check looked for ends."""
    engine.run("alter function public.run_maintenance reset lock_timeout")  # it waits as long as us
    early, late = engine.enqueue_many(2)
    first, second = engine.lease(2)
    with (
        engine.beside() as ending,
        engine.beside() as holder,
        engine.beside() as checking,
        ThreadPoolExecutor(1) as threads,
    ):
        ending.run("begin")
        ending.settle_all([{**handle(second), "outcome": "completed"}])
        waiting = engine.enqueue(after=[early, late])
        engine.settle(first)
        # the check has looked which of both have ended when it counts down the first
        holder.run("begin")
        holder.run("select from queue.dependencies where after_id = %s for update", early)
        done = threads.submit(checking.maintain)
        until_waiting(engine.database)
        ending.run("commit")
        holder.run("commit")
        done.result(60)

    assert ids_of(engine.lease()) == [waiting]


def test_an_end_during_the_first_check_of_a_wait_is_seen(engine: Engine) -> None:
    """Of a job that is not its child: that it has ended is no one's news."""
    other = engine.enqueue()
    lease = engine.lease_one()
    engine.enqueue()
    parent = engine.lease_one()
    wait = {"kind": "children", "name": "all", "job_ids": [other] * 2500}
    engine.settle(parent, "waiting", wait=wait)
    with engine.beside() as checking:
        checking.run("begin")
        checking.maintain()
        engine.settle(lease)
        checking.run("commit")
    for _ in range(4):  # results are copied in slices
        engine.maintain()

    assert ids_of(engine.lease(call=2)) == [parent["job"]["id"]]


def test_a_batch_that_a_job_is_joining_is_not_closed(engine: Engine) -> None:
    """Its callback would come before that job."""
    batch = engine.rpc("create_batch", p_workspace_id=ACME)["batch_id"]
    with engine.beside() as joining, engine.beside() as closing:
        joining.run("begin")
        joining.enqueue(batch_id=batch)
        closing.run("set lock_timeout = 1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            closing.rpc("close_batch", p_batch_id=batch)
        joining.run("commit")

    assert engine.rpc("close_batch", p_batch_id=batch)["closed_at"]


def test_a_waiter_that_was_locked_when_its_dependency_ended_is_checked_again(
    engine: Engine,
) -> None:
    """Maintenance waits for no one, and forgets no one."""
    early = engine.enqueue()
    waiting = engine.enqueue(after=[early])
    engine.maintain()  # its own check is done
    with engine.beside() as holder:
        holder.run("begin")
        holder.run("select from queue.waits where job_id = %s for update", waiting)
        engine.settle(engine.lease_one(call=2))
        engine.maintain()
        holder.run("commit")
    for _ in range(3):
        engine.maintain()

    assert ids_of(engine.lease(call=2)) == [waiting]
