"""Every limit of the server with its local default, and the counters that enforce rates.

What happens when a limit is passed is decided where it is checked.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one server; each is set by `REALTIME_<NAME>` in the environment."""

    #: Largest broadcast or track payload in kilobytes of 1,000; 500 bytes of grace.
    payload_kb: int = 3000
    #: Largest inbound websocket message; beyond it the socket closes with 1009.
    frame_bytes: int = 5_000_000
    #: Messages sent plus deliveries, mean over `rate_window_seconds`.
    messages_per_second: float = 2500
    joins_per_second: float = 2500
    connections: int = 10_000
    channels_per_connection: int = 100
    presence_messages_per_second: float = 1000
    presence_calls: int = 5
    presence_window_seconds: float = 30
    #: Largest Postgres change whose values are all sent.
    change_record_bytes: int = 1_048_576
    rate_window_seconds: float = 60
    #: A socket that sends nothing for this long is closed with 1000.
    idle_seconds: float = 60
    #: A socket found without a channel at this cadence is cut.
    no_channel_seconds: float = 600
    #: Unsent bytes one socket may hold; a consumer slower than that is dropped.
    outbound_buffer_bytes: int = 16_000_000
    #: Frames of one socket waiting to be handled before reading from it pauses.
    inbound_queue: int = 256
    #: Pauses before a refused handshake and a refused join are answered (hosted: 2 s and 5 s).
    connect_error_delay_seconds: float = 0
    join_error_delay_seconds: float = 0
    #: Longest time between two looks at a channel's token.
    token_check_seconds: float = 300
    #: Token refreshes of one channel within this time are merged, the last one wins.
    token_refresh_window_seconds: float = 0
    replay_default: int = 25
    database_connections: int = 4
    #: Longest time one question to the database may take before a join is refused.
    database_timeout_seconds: float = 8
    private_only: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Limits:
        """Read `REALTIME_<NAME>` for every field.

        Raises:
            ValueError: A variable holds something else than a number; names it.
        """
        values: dict[str, float | int | bool] = {}
        for field in dataclasses.fields(cls):
            name = f"REALTIME_{field.name.upper()}"
            text = environ.get(name)
            if text is None:
                continue
            try:
                values[field.name] = _parse(text, str(field.type))
            except ValueError as error:
                raise ValueError(f"{name}={text!r} is not a valid {field.type}") from error
        return cls(**values)  # type: ignore[arg-type]

    @property
    def payload_bytes(self) -> int:
        """The largest payload in bytes."""
        return self.payload_kb * 1000 + 500


def _parse(text: str, kind: str) -> float | int | bool:
    if kind == "bool":
        return text.strip().lower() in {"1", "true", "yes", "on"}
    return int(text) if kind == "int" else float(text)


class RateCounter:
    """Counts events and compares their mean over a sliding window with a limit."""

    def __init__(
        self, per_second: float, window: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = per_second * window
        self._window = window
        self._clock = clock
        self._buckets: deque[list[float]] = deque()
        self._total = 0.0

    def add(self, count: int = 1) -> None:
        """Count `count` events now."""
        now = self._clock()
        self._total += count
        if self._buckets and now - self._buckets[-1][0] < self._window / 60:
            self._buckets[-1][1] += count
        else:
            self._buckets.append([now, count])
            self._forget(now)

    def exceeded(self) -> bool:
        """Say whether the mean over the window is above the limit."""
        if self._total <= self._limit:
            return False
        self._forget(self._clock())
        return self._total > self._limit

    @property
    def rolling(self) -> float:
        """The mean per second over the window."""
        self._forget(self._clock())
        return self._total / self._window

    def _forget(self, now: float) -> None:
        while self._buckets and now - self._buckets[0][0] >= self._window:
            self._total -= self._buckets.popleft()[1]


class CallWindow:
    """Allows a number of calls in any stretch of `seconds`."""

    def __init__(
        self, calls: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._calls = calls
        self._seconds = seconds
        self._clock = clock
        self._times: deque[float] = deque()

    def allow(self) -> bool:
        """Count a call; false when it is one too many."""
        now = self._clock()
        while self._times and now - self._times[0] >= self._seconds:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self._calls
