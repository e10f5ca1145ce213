"""The database's clock as a worker knows it."""

from __future__ import annotations

from datetime import timedelta

from minutehand.clock import FrozenClock
from minutehand.worker.database_clock import DatabaseClock


def test_time_is_the_latest_responses_and_passes_by_the_steady_clock() -> None:
    """Also after the database's clock was set back."""
    own = FrozenClock()
    clock = DatabaseClock(own)
    for behind in (timedelta(hours=1), timedelta(days=2)):
        now = own.now() - behind

        clock.receive(now)
        own.advance(seconds=3)

        assert clock.now() == now + timedelta(seconds=3)
    assert clock.monotonic() == own.monotonic()


def test_it_is_the_workers_own_while_no_database_has_sent_its_time() -> None:
    """One of 0.4.4 never does."""
    own = FrozenClock()
    clock = DatabaseClock(own)

    clock.receive(None)

    assert clock.now() == own.now()
