"""Random histories over real Postgres with several connections."""

from __future__ import annotations

import pytest

from tests.contract.machine import machine_on, run_histories
from tests.support.databases import Database

# thousands of statements each: on a machine with much else to do that takes minutes
pytestmark = pytest.mark.timeout(900)


def test_no_random_history_breaks_an_invariant(database: Database) -> None:
    """Interleaved transactions, duplicated and stale calls, expires, cancels, deletes."""
    run_histories(machine_on(database), most=12)
