"""What a Realtime message of the engine carries; the transport is left to the listener.

The browser's counterpart is `eventsOf` in infra/console/lib/jobs/sequence.js.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def events_of_message(payload: object) -> list[dict[str, Any]]:
    """The events of one message: several in order, or the one that it is itself.

    What is neither becomes one event without a number, which makes readers read the log.
    """
    if not isinstance(payload, Mapping):
        return [{}]
    several = payload.get("events")
    if not isinstance(several, list) or not several:
        return [dict(payload)]
    return [event if isinstance(event, dict) else {} for event in several]
