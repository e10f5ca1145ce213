"""A user pastes the fix that the doctor prints for a random fault, and then all checks pass.

DOCTOR_SEED repeats a run, and DOCTOR_DRAWS is the number of faults.
"""

import os
import random
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from minutehand.cli.doctor.results import CheckResult
from tests.integration.cli.faults import SEED, Fault, World, draw, list_faults
from tests.support.patience import until
from tests.support.stacks import RunningStack, running_stack

DRAWS = int(os.environ.get("DOCTOR_DRAWS") or 200)


@pytest.mark.weekly(only=True)
@pytest.mark.timeout(60 + 20 * DRAWS)
def test_a_random_fault_is_named_and_goes_by_one_paste(tmp_path: Path) -> None:
    """For 19 of 20 faults, the doctor names the object and its fix makes all checks pass."""
    rng, misses = random.Random(SEED), []
    with ExitStack() as ends:
        stack = ends.enter_context(running_stack(tmp_path / "0"))
        faults = list(list_faults(stack))
        for number in range(DRAWS):
            fault, world = plant(stack, faults, rng)
            findings = world.wrong()
            named = any(fault.word in f"{each.detail} {each.fix}" for each in findings)
            # one check reports it, and no consequences
            named = named and len({each.check for each in findings}) == 1
            green = is_mended(world, findings)
            misses += [] if named and green else [(named, green, fault.text, findings)]
            if not green:  # the next fault needs a new stack
                ends.close()
                stack = ends.enter_context(running_stack(tmp_path / str(number)))
                faults = list(list_faults(stack))

    counts = [DRAWS - sum(not miss[at] for miss in misses) for at in (0, 1)]
    print(f"{DRAWS} faults of seed {SEED}: {counts[0]} named, {counts[1]} mended by the first fix")
    assert min(counts) >= 0.95 * DRAWS, misses


def plant(stack: RunningStack, faults: list[Fault], rng: random.Random) -> tuple[Fault, World]:
    """Draw a fault and break the stack with it. Draw again if Postgres rejects the fault."""
    while True:
        fault, world = draw(faults, rng), World(stack)
        try:
            world.plant(fault)
        except psycopg.Error:
            continue
        return fault, world


def is_mended(world: World, findings: list[CheckResult]) -> bool:
    """Apply the printed fixes once, and return whether all checks pass."""
    try:
        world.paste(findings)
        if [finding for finding in world.wrong() if finding.check != "schedule"]:
            return False
    except (psycopg.Error, AssertionError):
        return False
    until(lambda: not world.wrong(), every=1)  # a worker run may be late on a busy machine
    return True
