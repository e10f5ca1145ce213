"""Random histories as in the contract, with the engine's own tables looked at after each step."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from tests.contract.machine import QueueMachine, machine_on
from tests.support.databases import Database
from tests.support.engine import broken_invariants

# thousands of statements each: on a machine with much else to do that takes minutes
pytestmark = pytest.mark.timeout(900)

RUN = settings(
    max_examples=8,
    stateful_step_count=40,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


class Within:
    """What the machine checks beside what anyone may see."""

    @invariant()
    def the_tables_agree(self: QueueMachine) -> None:  # type: ignore[misc]
        """Each place, gate, turn and lease is as the records say; no maintenance fails."""
        if hasattr(self, "sessions"):
            assert broken_invariants(self.watcher.connection) == {}
            failing = "select name, failure from queue.tasks where failed_at is not null"
            assert self.watcher.rows(failing) == []


def test_no_random_history_leaves_the_tables_at_odds(database: Database) -> None:
    """`MACHINE_EXAMPLES` asks for others, and more of them."""
    machine = type("WithinMachine", (Within, machine_on(database)), {})
    if (examples := os.environ.get("MACHINE_EXAMPLES")) is None:
        run_state_machine_as_test(machine, settings=RUN)
        return
    chosen = int(os.environ.get("MACHINE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"MACHINE_EXAMPLES={examples} MACHINE_SEED={chosen}", flush=True)
    others = settings(RUN, max_examples=int(examples), derandomize=False)
    run_state_machine_as_test(seed(chosen)(machine), settings=others)
