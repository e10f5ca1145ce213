"""Who is present in a room, and the state and diff messages that say so.

One process serves the project, so a plain dictionary per room replaces hosted's replicated tracker.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import secrets
from typing import Any

from supabase_local.realtime.member import Member
from supabase_local.realtime.serializer import Fanout, dump

Metas = dict[str, dict[str, list[dict[str, Any]]]]

_counter = itertools.count(secrets.randbits(32))


def new_ref() -> str:
    """A reference unique to one track call."""
    raw = next(_counter).to_bytes(8, "big") + secrets.token_bytes(4)
    return base64.urlsafe_b64encode(raw).decode()


@dataclasses.dataclass(slots=True)
class Tracked:
    """What one channel tracks."""

    key: str
    payload: dict[str, Any]
    meta: dict[str, Any]


class PresenceState:
    """The present members of one room, in the order they came."""

    def __init__(self) -> None:
        self._tracked: dict[Member, Tracked] = {}

    def state(self) -> Metas:
        """Every key with its metas; empty when no one is there."""
        metas: Metas = {}
        for tracked in self._tracked.values():
            metas.setdefault(tracked.key, {"metas": []})["metas"].append(tracked.meta)
        return metas

    def track(self, channel: Member, key: str, payload: dict[str, Any]) -> dict[str, Metas] | None:
        """Track or update; None when nothing changed, else the diff."""
        before = self._tracked.get(channel)
        if before is not None and before.payload == payload:
            return None
        meta = {**payload, "phx_ref": new_ref()}
        leaves: Metas = {}
        if before is not None:
            meta["phx_ref_prev"] = before.meta["phx_ref"]
            leaves = _one(before)
        tracked = self._tracked[channel] = Tracked(key, payload, meta)
        return {"joins": _one(tracked), "leaves": leaves}

    def untrack(self, channel: Member) -> dict[str, Metas] | None:
        """Forget a channel; None when it tracked nothing, else the diff."""
        before = self._tracked.pop(channel, None)
        return None if before is None else {"joins": {}, "leaves": _one(before)}


def _one(tracked: Tracked) -> Metas:
    return {tracked.key: {"metas": [tracked.meta]}}


def diff_message(topic: str, diff: dict[str, Metas]) -> Fanout:
    """The `presence_diff` for every member of a room."""
    return Fanout(topic, "presence_diff", dump(diff))
