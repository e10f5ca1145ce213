"""How a request to someone else's address went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Sent:
    """How one try went; `status` is None when there was no answer."""

    ok: bool
    message: str
    status: int | None = None
    retry_after: timedelta | None = None
    timed_out: bool = False
