"""One job's events in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pydantic import ValidationError

from minutehand.queue.models import JobEvent

#: Events kept back while an earlier one is missing; beyond this they are read again instead.
MOST_WAITING: Final = 1000


class EventSequence:
    """Hands out one job's events by their gapless `seq`: in order, none twice, none missing."""

    def __init__(self, after: int = 0) -> None:
        self.last = after  #: The last `seq` delivered.
        self._waiting: dict[int, JobEvent] = {}
        self._dropped = False

    @property
    def has_gap(self) -> bool:
        """Whether a later event is here while an earlier one is not."""
        return bool(self._waiting) or self._dropped

    def offer(self, events: Iterable[JobEvent]) -> list[JobEvent]:
        """Take events as they come, in any order and number; return those whose turn it is."""
        ready: list[JobEvent] = []
        for event in events:
            if event.seq <= self.last:
                continue
            if event.seq == self.last + 1:
                ready += self._advance(event)
            elif len(self._waiting) < MOST_WAITING:
                self._waiting[event.seq] = event
            else:
                self._dropped = True
        return ready

    def offer_page(self, page: Sequence[JobEvent], *, is_last: bool) -> list[JobEvent]:
        """Take a page of the database: every event after one of ours, in order."""
        ready: list[JobEvent] = []
        for event in page:
            if event.seq > self.last:
                ready += self._advance(event)
        if is_last:
            self._dropped = False
        return ready

    def _advance(self, event: JobEvent) -> list[JobEvent]:
        ready = [event]
        while (following := self._waiting.pop(ready[-1].seq + 1, None)) is not None:
            ready.append(following)
        self.last = ready[-1].seq
        for known in [seq for seq in self._waiting if seq <= self.last]:
            del self._waiting[known]
        return ready


def event_of_frame(frame: object) -> JobEvent | None:
    """The event a Realtime frame carries; None for any other frame."""
    if not isinstance(frame, Mapping):
        return None
    try:
        return JobEvent.model_validate({**frame, "created_at": frame.get("at")})
    except ValidationError:
        return None
