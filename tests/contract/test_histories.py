"""Random histories over real Postgres with several connections."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.contract.machine import machine_on
from tests.support.databases import Database

# thousands of statements each: on a machine with much else to do that takes minutes
pytestmark = pytest.mark.timeout(900)

RUN = settings(
    max_examples=12,
    stateful_step_count=40,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def test_no_random_history_breaks_an_invariant(database: Database) -> None:
    """Interleaved transactions, duplicated and stale calls, expires, cancels, deletes.

    The same twelve histories each time; `make machine` asks for others, and more of them.
    """
    examples = os.environ.get("MACHINE_EXAMPLES")
    if examples is None:
        run_state_machine_as_test(machine_on(database), settings=RUN)
        return
    chosen = int(os.environ.get("MACHINE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"make machine EXAMPLES={examples} SEED={chosen}", flush=True)
    others = settings(RUN, max_examples=int(examples), derandomize=False)
    run_state_machine_as_test(seed(chosen)(machine_on(database)), settings=others)
