"""Random histories over real Postgres with several connections; each planted defect is found."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.sql import test_event_feed, test_lease_races, test_limits, test_waits
from tests.sql.machine import QueueMachine, machine_on
from tests.support.databases import Database
from tests.support.engine import Engine
from tests.support.weekly import weekly

# thousands of statements each: on a machine with much else to do that takes minutes
pytestmark = pytest.mark.timeout(900)

DEFECTS = Path(__file__).parent / "defects"
RUN = settings(
    max_examples=12,
    stateful_step_count=40,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
# ends at the first find; a defect found in one history of eight must not be missed by bad luck
SEARCH = settings(RUN, max_examples=300)


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


#: The second of two leases at once, below a limit of one.
_at_once = partial(
    test_lease_races.test_a_limit_of_one_is_held_by_single_leases_at_once,
    limit={"max_concurrency": 1},
    options={},
)
#: What three hundred random histories may not meet, and the test that does.
DIRECTED: dict[str, Callable[[Engine], None]] = {
    "caps_are_not_held": _at_once,
    "event_is_told_twice": (
        test_event_feed.test_a_page_is_cut_between_a_jobs_events_of_one_transaction
    ),
    "feed_turns_a_job_round": test_event_feed.test_an_older_transaction_that_writes_later,
    "limit_is_counted_without_its_lock": _at_once,
    "parents_are_not_told": test_waits.test_the_end_of_a_child_leaves_a_signal,
    "the_first_job_passes_by_the_limits": partial(
        test_limits.test_later_leases_of_one_hold_each_limit,
        limit={"max_concurrency": 1},
        prepare="select 1",
    ),
}


@pytest.mark.parametrize("defect", sorted(DIRECTED))
def test_a_rare_defect_is_found_by_a_test_of_its_own(seeded: Database, defect: str) -> None:
    """Each needs an order of steps that chance does not make often enough."""
    with seeded.connect() as connection:
        engine = Engine(seeded, connection)
        engine.register("work", lease_seconds=60)
        connection.execute((DEFECTS / f"{defect}.sql").read_bytes())

        with pytest.raises(AssertionError):
            DIRECTED[defect](engine)


#: Found by random histories.
UNDIRECTED = sorted({path.stem for path in DEFECTS.glob("*.sql")} - set(DIRECTED))


@pytest.mark.weekly
@pytest.mark.parametrize("defect", weekly(UNDIRECTED, otherwise=UNDIRECTED[::11]))
def test_a_planted_defect_is_found(database: Database, defect: str) -> None:
    """A machine that cannot find a known bug proves nothing about unknown ones."""
    with database.connect() as connection:
        connection.execute((DEFECTS / f"{defect}.sql").read_bytes())

    with pytest.raises((AssertionError, QueueMachine.Refused)):
        run_state_machine_as_test(machine_on(database), settings=SEARCH)
