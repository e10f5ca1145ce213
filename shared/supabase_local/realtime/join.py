"""Reads the payload of a join: what a client asks for, with the server's defaults.

Bad values are logged and replaced by defaults, as hosted does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from typing import Any

from supabase_local.realtime.serializer import dump

logger = logging.getLogger(__name__)


class JoinRefused(Exception):
    """The join is answered with an error; `reason` is its text."""

    def __init__(self, reason: str, *, close_code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close_code = close_code


@dataclasses.dataclass(frozen=True, slots=True)
class JoinRequest:
    """A join as the server understood it."""

    token: str | None
    private: bool
    ack: bool
    self_broadcast: bool
    replication_ready: bool
    changes: tuple[dict[str, Any], ...]
    wait_for_changes: bool
    wait_timeout_seconds: float

    def changes_reply(self) -> list[dict[str, Any]]:
        """The requested entries with their ids, as the join's reply echoes them."""
        return [{**entry, "id": change_id(entry)} for entry in self.changes]


def change_id(entry: dict[str, Any]) -> int:
    """A non-zero 27-bit number that depends on the entry's content alone."""
    digest = hashlib.sha256(dump(sorted(entry.items())).encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**27 - 1) + 1


def parse_join(payload: Any) -> JoinRequest:
    """Read a join's payload."""
    payload = _section(payload, "payload")
    config = _section(payload.get("config"), "config")
    broadcast = _section(config.get("broadcast"), "broadcast")
    options = _section(config.get("postgres_changes_options"), "postgres_changes_options")
    token = payload.get("user_token") or payload.get("access_token")
    timeout = options.get("timeout")
    return JoinRequest(
        token=token if isinstance(token, str) else None,
        private=_flag(config.get("private"), "private"),
        ack=_flag(broadcast.get("ack"), "broadcast.ack"),
        self_broadcast=_flag(broadcast.get("self"), "broadcast.self"),
        replication_ready=_flag(broadcast.get("replication_ready"), "replication_ready"),
        changes=_changes(config.get("postgres_changes")),
        wait_for_changes=_flag(options.get("wait"), "postgres_changes_options.wait"),
        wait_timeout_seconds=min(timeout, 20_000) / 1000
        if isinstance(timeout, int) and not isinstance(timeout, bool) and timeout > 0
        else 15,
    )


def _section(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if value is not None:
        _invalid(name, value)
    return {}


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is not None:
        _invalid(name, value)
    return False


def _changes(value: Any) -> tuple[dict[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        _invalid("postgres_changes", value)
        return ()
    entries = [entry for entry in value if entry is not None]
    if not all(isinstance(entry, dict) for entry in entries):
        _invalid("postgres_changes", value)
        return ()
    return tuple(entries)


def _invalid(name: str, value: Any) -> None:
    logger.warning(
        "a join carries a bad value; the default is used",
        extra={
            "event": "realtime.invalid_join_payload",
            "code": "InvalidJoinPayload",
            "field": name,
            "value": repr(value)[:200],
        },
    )
