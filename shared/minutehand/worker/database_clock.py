"""A worker's copy of the database's clock. The database alone decides when jobs are due."""

import logging
import threading
from datetime import datetime, timedelta

from minutehand.clock import Clock

logger = logging.getLogger(__name__)

#: Difference between this machine's clock and the database's clock, in seconds, that is logged.
SKEW_SECONDS = 5.0

_SET_BACK = timedelta(seconds=SKEW_SECONDS)
#: Smallest difference between two returned times.
_RESOLUTION = timedelta(microseconds=1)


class DatabaseClock:
    """Adds the monotonic time since the database's latest response to the response's time.

    Each returned time is later than the time returned before, so that log lines keep their order
    even if a response took longer than the previous response. If the database's clock is set back
    by more than `SKEW_SECONDS`, this clock is set back too.

    Until the first response, `now` returns the time of this machine.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self.monotonic = own.monotonic
        self._received: datetime | None = None
        self._received_at = 0.0
        self._lock = threading.Lock()
        #: The latest time that `now` has returned.
        self._latest: datetime | None = None
        #: Seconds by which this machine's clock is ahead of the database's. `skew_seconds` is None
        #: if the clocks agree.
        self.skew_seconds: float | None = None

    def now(self) -> datetime:
        """Return the database's time.

        The returned time is late by the transmission time of the latest response.
        """
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
        """Set the clock to the database's time in a response that has just arrived."""
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
