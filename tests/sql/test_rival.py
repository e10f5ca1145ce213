"""A rival with every feature at its limit, in random mixes: counted in turns and blocks, not time.

`python -m infra.bench.rival` measures the same mixes over HTTP, as ratios to a quiet run.
"""

from __future__ import annotations

import json
from random import Random

import psycopg
import pytest

from infra.bench.rival_attacks import ATTACKS, Attack, mix
from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine, refusal

SLOTS = 5
#: A reader's page touches at most so many times the blocks of the quiet run, and this many more.
RATIO, BASE = 3, 200


def play(rival: Engine, attack: Attack, seed: int) -> int:
    """Play an attack to its end; a quota or a limit may stop it, and nothing else.

    Returns:
        How many requests were answered.
    """
    requests = attack(Random(seed), GLOBEX, "work", 1000)
    answer, answered = None, 0
    while True:
        try:
            asked = requests.send(answer)
        except StopIteration:
            return answered
        try:
            for function, arguments in asked if isinstance(asked, list) else [asked]:
                answer = rival.rpc(function, **arguments)
        except psycopg.Error as error:
            if refusal(error)[0] != "PT429":
                raise
            return answered
        answered += 1


def turn(engine: Engine) -> None:
    """What one worker does in a round: maintenance, then a lease; every other job fails."""
    done = engine.rpc("run_maintenance", p_request={"budget_ms": 2000})
    assert done["failed"] == []
    for number, lease in enumerate(engine.lease(SLOTS, call=2)):
        if number % 2:
            engine.settle(lease)
        else:
            engine.settle(lease, "retry", error={"type": "E", "message": "poison"})


def turns_until_started(engine: Engine, victim: Engine) -> int:
    """Rounds of a worker from the victim's enqueue to its job's start."""
    job_id = victim.enqueue(job_type="victims")
    for number in range(1, 40):
        turn(engine)
        if engine.job(job_id)["started_at"] is not None:
            return number
    raise AssertionError("the victim's job never started")


def blocks_of_a_page(victim: Engine) -> int:
    """What a page of the victim's jobs touches: the least of three reads.

    Whatever vacuums or analyzes in between makes a session read the catalogue and plan again.
    """
    page = "select public.list_jobs(%s::jsonb)"
    return min(victim.blocks(page, json.dumps({"workspace_id": ACME})) for _ in range(3))


@pytest.mark.parametrize("seed", range(6))
def test_a_rivals_mix_delays_no_one_else(engine: Engine, seed: int) -> None:
    """Accepted → started within three turns, pages as cheap as before, nothing parked or paused."""
    engine.register("work")
    engine.register("victims")
    with engine.member(ADA) as victim, engine.member(EVE) as rival:
        assert turns_until_started(engine, victim) == 1
        quiet = blocks_of_a_page(victim)
        for number, attack in enumerate(mix(seed)):
            assert play(rival, attack, seed * 100 + number) >= 2
            engine.advance(2)
            assert turns_until_started(engine, victim) <= 3, attack.__name__
        engine.advance(61)
        assert turns_until_started(engine, victim) <= 3

        assert blocks_of_a_page(victim) <= RATIO * quiet + BASE
        assert victim.one("select count(*) from public.jobs where workspace_id = %s", GLOBEX) == 0
    assert engine.one("select count(*) from queue.breakers") == 0
    assert engine.rpc("queue_health")["paused_types"] == []


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_each_attack_leaves_the_next_job_next(engine: Engine, name: str) -> None:
    """Alone, so that a failure names its cause."""
    engine.register("work")
    engine.register("victims")
    with engine.member(ADA) as victim, engine.member(EVE) as rival:
        assert play(rival, ATTACKS[name], 7) >= 2
        engine.advance(2)

        assert turns_until_started(engine, victim) <= 3


def test_a_rivals_running_jobs_leave_slots(engine: Engine) -> None:
    """Long jobs of one tenant and short ones of another: the short ones keep half of the slots."""
    engine.register("work")
    engine.register("victims")
    engine.enqueue_many(100, workspace=GLOBEX)
    engine.enqueue_many(60, workspace=ACME, job_type="victims")
    started = 0
    for _ in range(12):
        free = 6 - engine.one("select count(*) from queue.leases")
        for lease in engine.lease(free, lease_seconds=3600):
            if lease["job"]["workspace_id"] == ACME:
                started += 1
                engine.settle(lease)

    assert started >= 12 * 3 - 3
