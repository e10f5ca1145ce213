"""The end of a wait, given as a length or an instant."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.engine import Engine

WRONG = "2001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "wait",
    [
        {"kind": "sleep", "delay_seconds": 7.5, "until": WRONG},
        {"kind": "ask", "timeout_seconds": 7.5, "timeout_at": WRONG},
        {"kind": "event", "event": "e", "timeout_seconds": 7.5},
    ],
)
def test_a_length_counts_from_the_databases_now(engine: Engine, wait: dict[str, Any]) -> None:
    """The instant from the worker's clock is for databases of 0.4.4."""
    engine.stop_clock()
    engine.enqueue()

    engine.settle(engine.lease_one(), "waiting", wait=wait)

    length = "select extract(epoch from timeout_at - queue.clock())::float from queue.waits"
    assert engine.one(length) == 7.5


@pytest.mark.parametrize("length", ["soon", "NaN", 1e30, {}])
def test_a_length_that_is_none_fails_its_job(engine: Engine, length: Any) -> None:
    job_id = engine.enqueue()

    engine.settle(engine.lease_one(), "waiting", wait={"kind": "sleep", "delay_seconds": length})

    job = engine.job(job_id)
    assert (job["status"], job["error_data"]["type"]) == ("failed", "InvalidWait")
