"""Limits, rates and fences in the order of the commits, as the write-ahead log tells it."""

from __future__ import annotations

import threading
import time

import pytest

from tests.sql.linear import History, Load, least_tokens, limit_of
from tests.support.databases import Database


def test_no_commit_ever_breaks_a_limit_a_rate_or_a_fence(seeded: Database) -> None:
    """The replay in small: eight workers, cancelled calls, cut sessions, lost workers."""
    load = Load(seeded, seconds=8, workers=8, seed=3)

    history = load.run()

    assert history.breaches == []
    assert sum(history.fences.values()) > 100
    full = [scope for scope, peak in history.peaks.items() if peak == limit_of(scope)]
    assert len(full) > 3  # a limit that nobody met proves nothing
    assert load.faults["cancelled calls"] + load.faults["cut sessions"] > 5


def test_a_limit_that_does_not_hold_is_found(seeded: Database) -> None:
    """Without any in the database the replay must find them broken."""

    def lift() -> None:
        with seeded.connect() as connection:
            # when the load has registered its types: it would put their limits back
            while not connection.execute("select from queue.leases limit 1").fetchall():
                time.sleep(0.02)
            connection.execute(
                "update queue.job_types set max_concurrency = null, workspace_concurrency = null,"
                " key_concurrency = null, rate_limit = null, rate_per_seconds = null"
            )

    lifting = threading.Thread(target=lift)
    lifting.start()
    breaches = " ".join(Load(seeded, seconds=4, workers=8).run().breaches)
    lifting.join()

    assert "by_all" in breaches


LEASE = (
    "table queue.leases: INSERT: job_id[uuid]:'j' fence[integer]:{fence} workspace_id[uuid]:'w'"
    " job_type[text]:'by_key' concurrency_key[text]:'a'"
    " leased_at[timestamp with time zone]:'2026-11-22 06:00:00+00'"
)


@pytest.mark.parametrize(
    ("fences", "breach"),
    [((1, 1), "fence 1 after 1"), ((1, 3), "fence 3 after 1"), ((1, 2), "leased twice at once")],
)
def test_the_replay_finds_what_leases_must_not_do(fences: tuple[int, int], breach: str) -> None:
    """Two holders at once, a fence that repeats or jumps."""
    history = History()
    lines = [line for fence in fences for line in ("BEGIN", LEASE.format(fence=fence), "COMMIT")]

    history.replay(lines)

    assert any(breach in one for one in history.breaches)


def test_the_replay_finds_a_rate_that_was_exceeded() -> None:
    """Seven starts in one instant, of six a second."""
    history = History()
    for number in range(7):
        line = LEASE.format(fence=1).replace("'j'", f"'j{number}'").replace("by_key", "rated")
        history.replay(["BEGIN", line, "COMMIT"])

    assert history.breaches == ["type/rated: 1.00 starts above its rate"]


def test_a_bucket_is_replayed_as_the_engine_fills_it() -> None:
    """Full at first, refilled with time, never above its size."""
    assert least_tokens([0, 0, 0], 3, 1) == 0
    assert least_tokens([0, 0, 0, 0.1], 3, 1) == pytest.approx(-0.7)
    assert least_tokens([0, 0, 0, 1, 1, 1], 3, 1) == 0
