"""The simulation of Lambda: every job is run, caps hold, the same seed gives the same world."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.bench.simulate import Load, Parameters, Simulation, table

BURST = Load("burst", ((1.0, 400),), lambda rng: rng.expovariate(2))


@pytest.mark.parametrize("workers", [1, 3, 50])
def test_every_job_is_run_within_the_cap(workers: int) -> None:
    result = Simulation(BURST, replace(Parameters(), most_workers=workers)).run()

    assert len(result.waits) == 400
    assert 1 <= result.most_running <= workers


def test_dead_ticks_and_lost_wake_ups_lose_nothing() -> None:
    """The minute tick is the net, and expired leases come back."""
    world = Parameters(dead_ticks=0.5, lost_wakeups=0.5, timeout=30)

    result = Simulation(BURST, world, seed=3).run()

    assert len(result.waits) == 400
    assert result.reclaimed > 0


def test_extra_workers_shorten_the_wait_and_cost_about_the_same() -> None:
    """What is billed is the running, whoever does it."""
    alone = Simulation(BURST, replace(Parameters(), most_workers=1)).run()
    many = Simulation(BURST, replace(Parameters(), most_workers=10)).run()

    assert many.wait(0.95) < alone.wait(0.95) / 4
    assert many.usd(Parameters()) < alone.usd(Parameters()) * 1.5


def test_the_products_cap_on_extra_workers_bounds_what_more_workers_bring() -> None:
    """A hundred allowed workers help only as far as one tick may start them."""
    room = replace(Parameters(), most_workers=100)
    few = Simulation(BURST, replace(room, extra_workers=2)).run()
    many = Simulation(BURST, replace(room, extra_workers=20)).run()

    assert few.invocations < many.invocations
    assert many.wait(0.95) < few.wait(0.95)


def test_the_table_is_the_same_for_the_same_seed() -> None:
    assert list(table(4, (2,))) == list(table(4, (2,)))
