"""A tenant whose jobs take long holds half of the slots while others wait, not all of them."""

from __future__ import annotations

from collections import Counter

from tests.support.engine import ACME, GLOBEX, Engine


def holders(engine: Engine) -> Counter[str]:
    """How many slots each tenant holds."""
    return Counter(engine.rows("select workspace_id::text from queue.leases"))


def refill(engine: Engine, rounds: int) -> None:
    """Six slots: GLOBEX's jobs end at once, ACME's never."""
    for _ in range(rounds):
        for lease in engine.lease(6 - sum(holders(engine).values()), lease_seconds=3600):
            if lease["job"]["workspace_id"] == GLOBEX:
                engine.settle(lease)


def test_long_jobs_leave_half_of_the_slots_to_others_who_wait(engine: Engine) -> None:
    """By turns alone each refill would give the slow tenant one more slot, until it has all."""
    engine.enqueue_many(50, workspace=ACME)
    engine.enqueue_many(200, workspace=GLOBEX)

    refill(engine, 12)

    assert holders(engine) == {ACME: 3}


def test_a_tenant_alone_gets_every_slot(engine: Engine) -> None:
    """A share is kept for those who wait, and not for those who might come."""
    engine.enqueue_many(50, workspace=ACME)

    refill(engine, 1)

    assert holders(engine) == {ACME: 6}


def test_a_tenant_beyond_its_share_gets_what_no_other_wants(engine: Engine) -> None:
    """An idle slot helps nobody."""
    engine.enqueue_many(50, workspace=ACME)
    engine.enqueue_many(2, workspace=GLOBEX)

    assert holders(engine) == {}
    leases = engine.lease(6)

    assert Counter(lease["job"]["workspace_id"] for lease in leases) == {ACME: 4, GLOBEX: 2}


def test_a_weight_gives_a_larger_share(engine: Engine) -> None:
    """Five sixths of the weight are five sixths of the slots."""
    engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits={"weight": 5})
    engine.enqueue_many(50, workspace=ACME)
    engine.enqueue_many(200, workspace=GLOBEX)

    refill(engine, 12)

    assert holders(engine) == {ACME: 5}
