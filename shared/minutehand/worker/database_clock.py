"""A worker's copy of the database's clock, which alone decides when jobs are due."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from typing import Final

from minutehand.clock import Clock

logger = logging.getLogger(__name__)

#: Difference in seconds between the two clocks from which it is logged and reported.
SKEW_SECONDS: Final = 5.0

_SET_BACK: Final = timedelta(seconds=SKEW_SECONDS)
#: Smallest difference between two instants.
_RESOLUTION: Final = timedelta(microseconds=1)


class DatabaseClock:
    """Time of the latest response of the database, plus the monotonic time since.

    Each instant is later than the one before, so that log lines keep their order by time, also when
    the latest response took longer than the one before. A database clock that was set back by more
    than `SKEW_SECONDS` is followed.

    The offset is 0 until the first response, and with a database of 0.4.4, which sends no time.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self.monotonic = own.monotonic
        self._received: datetime | None = None
        self._received_at = 0.0
        self._lock = threading.Lock()
        #: The latest instant that `now` has returned.
        self._latest: datetime | None = None
        #: Seconds by which `own` is ahead of the database's clock. None if the clocks agree.
        self.skew_seconds: float | None = None

    def now(self) -> datetime:
        """Return the time of the database, late by the duration of its response."""
        if self._received is None:
            return self._own.now()
        with self._lock:
            now = self._received + timedelta(seconds=self.monotonic() - self._received_at)
            latest = self._latest
            if latest is not None and timedelta() <= latest - now <= _SET_BACK:
                now = latest + _RESOLUTION
            self._latest = now
        return now

    def receive(self, now: datetime | None) -> None:
        """Set the time to that of a response that has just arrived."""
        if now is None:
            return
        if self._received is None:
            self._compare(now)
        self._received, self._received_at = now, self.monotonic()

    def _compare(self, now: datetime) -> None:
        skew = round((self._own.now() - now).total_seconds(), 1)
        if abs(skew) > SKEW_SECONDS:
            self.skew_seconds = skew
            logger.warning(
                "This machine's clock is %.0f s %s the database's, which decides when jobs run",
                abs(skew),
                "ahead of" if skew > 0 else "behind",
                extra={"event": "worker.clock_skew", "skew_seconds": skew},
            )
