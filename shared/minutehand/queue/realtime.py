"""What a Realtime message of the engine carries; the transport is left to minutehand.client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: What Realtime says to a join with `replication_ready` once the database's messages arrive: it
#: answers the join before that, and what is committed in between is lost.
READY: Final = "Replication connection established"
#: It gives up after 60 s; one that has said neither by then is from before 2026 and never will.
READY_SECONDS: Final = 65.0


def events_of_message(payload: object) -> list[dict[str, Any]]:
    """The events of one message: several, in groups those alike but for their job, or itself."""
    match payload:
        case {"groups": [_, *_] as groups}:
            return [event for group in groups for event in _events_of_group(group)]
        case {"events": [_, *_] as several}:
            return [event if isinstance(event, dict) else {} for event in several]
        case Mapping():
            return [dict(payload)]
        case _:
            return [{}]


def _events_of_group(group: object) -> list[dict[str, Any]]:
    match group:
        case {"job_ids": [_, *_] as jobs, "seqs": [_, *_] as seqs, **rest}:
            alike = {str(name): value for name, value in rest.items()}
            numbers = seqs * len(jobs) if len(seqs) == 1 else seqs
            if len(numbers) == len(jobs):
                pairs = zip(jobs, numbers, strict=True)
                return [{"job_id": job, "seq": seq, **alike} for job, seq in pairs]
    return [{}]
