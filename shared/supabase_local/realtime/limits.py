"""What the server bounds, and switches for what hosted does now and then."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one server, each by `REALTIME_<NAME>`.

    References:
        https://supabase.com/docs/guides/realtime/limits
    """

    #: Largest broadcast payload in kilobytes of 1,000; 500 bytes of grace.
    payload_kb: int = 3000
    #: Largest inbound websocket message; beyond it the socket closes with 1009.
    frame_bytes: int = 5_000_000
    #: Largest Postgres change whose values are all sent.
    change_record_bytes: int = 1_048_576
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
    #: Each so-manyth message of the database is dropped without a word, as above a plan's rate.
    drop_every: int = 0
    #: Today's partition of `realtime.messages` is dropped instead of kept.
    missing_partition: bool = False

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
