"""Random histories as in the contract, with the engine's own tables looked at after each step."""

from __future__ import annotations

import pytest
from hypothesis.stateful import invariant

from tests.contract.observed import breaches
from tests.contract.test_histories import QueueMachine, machine_on, run_histories
from tests.sql.conftest import INVARIANTS
from tests.support.databases import Database
from tests.support.engine import Engine, ids_of

# thousands of statements each: on a machine with much else to do that takes minutes
pytestmark = pytest.mark.timeout(900)


class Within:
    """What the machine checks beside what anyone may see."""

    @invariant()
    def the_tables_agree(self: QueueMachine) -> None:  # type: ignore[misc]
        """Each place, gate, turn and lease is as the records say; no maintenance fails."""
        if hasattr(self, "sessions"):
            assert breaches(self.watcher.connection, **INVARIANTS) == {}
            failing = "select name, failure from queue.tasks where failures > 0"
            assert self.watcher.rows(failing) == []


def test_no_random_history_leaves_the_tables_at_odds(database: Database) -> None:
    run_histories(type("WithinMachine", (Within, machine_on(database)), {}), most=8)


def test_a_job_cancelled_while_its_gate_opens_keeps_no_place(engine: Engine) -> None:
    """Its retry would find that place taken, and every lease would fail."""
    engine.register("work", key_concurrency=2)
    first, second = engine.enqueue_many(2, concurrency_key="k")
    with engine.open_transaction() as other:
        assert ids_of(other.lease(1)) == [first]
        cancelled = other.blocked(engine.rpc, "cancel_job", p_job_id=second)
        other.run("commit")
        cancelled.result()
    assert breaches(engine.connection, **INVARIANTS) == {}
    engine.rpc("retry_job", p_job_id=second)
    assert ids_of(engine.lease()) == [second]
