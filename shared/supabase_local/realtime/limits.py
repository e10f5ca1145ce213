"""Every limit of the server, by default those of hosted's Pro plan, and the counters behind them.

What happens when a limit is passed is decided where it is checked.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

#: What `REALTIME_PLAN` may be. `uncapped` is Pro without a spend cap; `peak` limits nothing, for
#: benchmarks that say so beside their figures.
PLANS: Final[Mapping[str, Mapping[str, float]]] = {
    "free": {
        "payload_kb": 256,
        "messages_per_second": 100,
        "joins_per_second": 100,
        "connections": 200,
        "presence_messages_per_second": 20,
    },
    "pro": {},
    "uncapped": {
        "messages_per_second": 2500,
        "joins_per_second": 2500,
        "connections": 10_000,
        "presence_messages_per_second": 1000,
    },
    "peak": {
        "messages_per_second": 1e9,
        "joins_per_second": 1e9,
        "connections": 100_000,
        "presence_messages_per_second": 1e9,
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one server: a plan's by `REALTIME_PLAN`, and each by `REALTIME_<NAME>`.

    References:
        https://supabase.com/docs/guides/realtime/limits
    """

    #: Largest broadcast or track payload in kilobytes of 1,000; 500 bytes of grace.
    payload_kb: int = 3000
    #: Largest inbound websocket message; beyond it the socket closes with 1009.
    frame_bytes: int = 5_000_000
    #: Messages sent, with or without listeners, and each delivery.
    messages_per_second: float = 500
    joins_per_second: float = 500
    connections: int = 500
    channels_per_connection: int = 100
    presence_messages_per_second: float = 50
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
    #: Longest time between two checks of a channel's token.
    token_check_seconds: float = 300
    #: Token refreshes of one channel within this time are merged, the last one wins.
    token_refresh_window_seconds: float = 0
    database_connections: int = 4
    #: Longest time one question to the database may take before a join is refused.
    database_timeout_seconds: float = 8
    private_only: bool = False
    #: What hosted does now and then, for tests. Replication begins so long after a cold start;
    #: joins are answered before.
    replication_ready_seconds: float = 0
    #: A channel that asked for `replication_ready` is shut down after so long without it.
    replication_timeout_seconds: float = 60
    #: Replication stops so long after the last socket, and a join starts it cold; 0: never.
    tenant_idle_seconds: float = 0
    #: The first so many handshakes fail, and the first so many private joins find the
    #: authorization pool exhausted; see the two delays above.
    refused_handshakes: int = 0
    exhausted_joins: int = 0
    #: Today's partition of `realtime.messages` is dropped instead of kept.
    missing_partition: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Limits:
        """Read `REALTIME_PLAN`, and `REALTIME_<NAME>` for every field.

        Raises:
            ValueError: No such plan, or a variable holds something else than a number; names it.
        """
        plan = environ.get("REALTIME_PLAN", "pro")
        if plan not in PLANS:
            raise ValueError(f"REALTIME_PLAN must be one of {', '.join(PLANS)}, not {plan!r}")
        values: dict[str, float | int | bool] = dict(PLANS[plan])
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


class MessageRate:
    """Counts messages as hosted does: each `tick`, the mean over up to twelve of them is compared.

    References:
        `Realtime.RateCounter` and `Realtime.Tenants.events_per_second_rate` of supabase/realtime.
    """

    _BUCKETS = 12
    #: After so many empty buckets hosted's counter stops, and begins again with the next message.
    _IDLE = 60

    def __init__(
        self, per_second: float, *, tick: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = per_second
        self._tick = tick
        self._clock = clock
        self._count = 0
        self._start(clock())

    def _start(self, now: float) -> None:
        self._next = now + self._tick
        self._buckets = deque([0], maxlen=self._BUCKETS)
        self._mean = 0.0
        #: Whether the mean was above the limit at the last tick.
        self.triggered = False

    @property
    def rolling(self) -> float:
        """The mean per second at the last tick."""
        self.exceeded()
        return self._mean

    def add(self, count: int = 1) -> None:
        """Count `count` messages now."""
        self.exceeded()
        self._count += count

    def exceeded(self) -> bool:
        """Say whether the mean has reached the limit."""
        now = self._clock()
        if now >= self._next:
            self._advance(now)
        return self.triggered

    def allows(self, count: int) -> bool:
        """Say whether so many more stay below the limit."""
        return self.rolling + count <= self._limit

    def _advance(self, now: float) -> None:
        empty = (now - self._next) / self._tick
        if empty > self._IDLE:
            self._count = 0
            self._start(now)
        while now >= self._next:
            self._buckets.append(self._count)
            self._count = 0
            self._next += self._tick
        self._mean = sum(self._buckets) / len(self._buckets) / self._tick
        self.triggered = self._mean >= self._limit


class CallWindow:
    """Allows a number of calls in any stretch of `seconds`."""

    def __init__(
        self, calls: float, seconds: float, clock: Callable[[], float] = time.monotonic
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
