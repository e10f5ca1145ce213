"""What one caller may do in this process: requests a second, streams open at once.

What a caller may enqueue, and how fast streams are opened where each holds an invocation, is
counted in SQL for every process together; see DECISIONS.md beside this file.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from minutehand.clock import Clock
from minutehand.web.errors import ApiError

#: Callers whose rate is known; one that was forgotten begins with a full bucket.
MOST_CALLERS: Final = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class CallerLimits:
    """Counts what callers do, each by a key: a user's id, or a guest session's.

    Args:
        requests_per_second: Refills a caller's bucket; 0 for no limit.
        requests_burst: Requests a caller may make at once.
        streams: Streams a caller may have open at once; 0 for no limit.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        requests_per_second: float,
        requests_burst: int,
        streams: int,
    ) -> None:
        self._clock = clock
        self._rate = requests_per_second
        self._burst = requests_burst
        self._most_streams = streams
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._open: Counter[str] = Counter()
        #: Streams that are open or about to be, of all callers.
        self.streams = 0

    def count_request(self, caller: str) -> None:
        """Take one request from the caller's bucket."""
        if not self._rate:
            return
        now = self._clock.monotonic()
        bucket = self._buckets.setdefault(caller, _Bucket(self._burst, now))
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.tokens < 1:
            wait = math.ceil((1 - bucket.tokens) / self._rate)
            raise rate_limited("requests", wait, per_second=self._rate, burst=self._burst)
        bucket.tokens -= 1

    def hold_stream(self, caller: str) -> None:
        """Count an open stream of the caller's, until `release_stream`."""
        if self._most_streams and self._open[caller] >= self._most_streams:
            raise rate_limited("streams", 5, most=self._most_streams)
        self._open[caller] += 1
        self.streams += 1

    def release_stream(self, caller: str) -> None:
        """Forget a stream that was held."""
        self.streams -= 1
        self._open[caller] -= 1
        if self._open[caller] <= 0:
            del self._open[caller]


def rate_limited(limit: str, retry_after: int, **numbers: float) -> ApiError:
    """429: the caller is over a limit; the detail names it."""
    return ApiError(
        429,
        "rate_limited",
        f"Too many {limit.replace('_', ' ')}; try again in {retry_after} s",
        detail={"limit": limit, "retry_after_seconds": retry_after, **numbers},
        headers={"Retry-After": str(retry_after)},
    )
