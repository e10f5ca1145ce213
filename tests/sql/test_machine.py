"""Random histories as in the contract, with the engine's own tables looked at after each step."""

from __future__ import annotations

import pytest
from hypothesis.stateful import invariant

from tests.contract.machine import QueueMachine, machine_on, run_histories
from tests.contract.observed import breaches
from tests.sql.conftest import INVARIANTS
from tests.support.databases import Database

# thousands of statements each: on a machine with much else to do that takes minutes
pytestmark = pytest.mark.timeout(900)


class Within:
    """What the machine checks beside what anyone may see."""

    @invariant()
    def the_tables_agree(self: QueueMachine) -> None:  # type: ignore[misc]
        """Each place, gate, turn and lease is as the records say; no maintenance fails."""
        if hasattr(self, "sessions"):
            assert breaches(self.watcher.connection, **INVARIANTS) == {}
            failing = "select name, failure from queue.tasks where failed_at is not null"
            assert self.watcher.rows(failing) == []


def test_no_random_history_leaves_the_tables_at_odds(database: Database) -> None:
    """What the contract sees of them is seen too."""
    run_histories(type("WithinMachine", (Within, machine_on(database)), {}), most=8)
