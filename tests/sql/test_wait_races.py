"""What ends at the very moment at which another begins to wait for it is not missed."""

from __future__ import annotations

from tests.support.engine import Engine, ids_of


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
