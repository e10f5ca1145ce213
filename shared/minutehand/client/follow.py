"""How a subject is followed: when to read, what a message brings, how fresh the answer is."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from pydantic import ValidationError

from minutehand.queue.models import JobEvent, TopicFollowed
from minutehand.queue.realtime import READY_SECONDS

#: How current a watch is; see `Follow.freshness`.
Freshness = Literal["live", "catching-up", "polling", "offline"]

#: Between reads while Realtime is unavailable, at first and at most.
_POLL_SECONDS: Final = 3.0
_LONGEST_POLL_SECONDS: Final = 30.0
#: Until a read proves that nothing was missed, at first and at most.
_FIRST_SILENCE_SECONDS: Final = 1.5
_SILENCE_SECONDS: Final = 30.0
#: Wait for a missing event to arrive.
_REORDER_SECONDS: Final = 0.1
#: After which a first join counts as failed.
JOIN_SECONDS: Final = 5.0
#: Events kept back while an earlier one is missing; beyond this they are read again instead.
MOST_WAITING: Final = 1000
#: Events kept for a slow reader; beyond this they are left in the database until there is room.
MOST_QUEUED: Final = 2000
#: Jobs of a feed whose last event is remembered, to recognise late messages.
_MOST_JOBS: Final = 10_000
#: Between two reads of a feed that messages ask for.
_FEED_SECONDS: Final = 0.05
#: Above the plan's rate Realtime drops messages silently. It averages over a minute, so after a
#: loss reads go on that long.
_LOSSY_SECONDS: Final = 60.0
#: So that many followers woken together do not all read together.
_SPREAD_SECONDS: Final = 0.3
#: A read that takes longer may have hung.
_SLOW_SECONDS: Final = 5.0
#: At least so many times as long as a read took: servers under load rest.
_REST: Final = 5.0
#: A check is due after this share of the time since the last news.
_CHECK_SHARE: Final = 20.0


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


class Follow:
    """What is known of one subject, by reads and messages."""

    def __init__(self, sequence: EventSequence | None = None) -> None:
        #: Events to hand out, in order.
        self.delivered: deque[JobEvent] = deque()
        #: Asks the owner to join over another socket: this one brings nothing.
        self.reconnects = 0
        self._sequence = sequence
        self._last: OrderedDict[str, int] = OrderedDict()
        self._began = math.inf
        self._terms: TopicFollowed | None = None
        self.joined = False
        self._was_lost = False
        self._joins = 0
        #: Joined, and messages do not arrive yet.
        self._deaf_until = -math.inf
        #: A read that began after the join became ready has ended.
        self._synced = False
        #: Something is in the database that was announced, or for which there was no room.
        self._behind = False
        #: More happened than may be sent: reads bring it, until one finds nothing new.
        self._held = False
        self._looked_at = -math.inf
        self._lossy_until = -math.inf
        #: What checks found and no message has brought since, and when that is held against them.
        self._missed: set[tuple[str, int]] = set()
        self._silence_at = math.inf
        #: A socket brought nothing: the next is not believed before it brings something.
        self._distrusted = False
        self._received_at = -math.inf
        self._news_at = math.inf
        self._read_at = math.inf
        self._reading: float | None = None
        self._read_join = 0
        self._is_check = False
        self._found = False
        self._last_read = -math.inf
        self._read_seconds = 0.0
        self._reads = 0
        self._failures = 0
        self._unreachable = False

    def start(self, now: float) -> None:
        """Begin, with a read."""
        self._began = self._news_at = self._read_at = now

    def freshness(self, now: float) -> Freshness:
        """How current the events are."""
        if self._unreachable:
            return "offline"
        if self._reading is not None and now - self._reading >= _SLOW_SECONDS:
            return "catching-up"
        if not self.joined or self._distrusted:
            joining = not self._was_lost and now - self._began < JOIN_SECONDS
            return "catching-up" if joining or self._reads == 0 else "polling"
        complete = self._synced and not self._has_gap and not self._reads_anyway(now)
        return "live" if complete else "catching-up"

    @property
    def _has_gap(self) -> bool:
        return self._behind or (self._sequence is not None and self._sequence.has_gap)

    def _reads_anyway(self, now: float) -> bool:
        """Whether messages do not bring everything now, so that reads must."""
        return self._held or now < max(self._deaf_until, self._lossy_until)

    def on_joined(self, now: float, terms: TopicFollowed | None) -> None:
        """The topic is joined; what is sent may still be lost."""
        self.joined = True
        self._terms = terms
        self._received_at = -math.inf
        self._deaf_until = now + READY_SECONDS
        self._begin(now)

    def on_ready(self, now: float) -> None:
        """What is committed from now on arrives: what was before is in a read that begins now."""
        if now < self._deaf_until:
            self._deaf_until = -math.inf
            self._begin(now)
            self.ask(now)

    def _begin(self, now: float) -> None:
        self._joins += 1
        self._synced = False
        self._news_at = now
        self._missed.clear()
        self._silence_at = math.inf

    def on_lost(self, now: float) -> None:
        """The topic is refused, or no more."""
        if self.joined or not self._was_lost:
            self.ask(now)
        self.joined = self._synced = False
        self._was_lost = True

    def on_message(self, now: float, frame: object) -> list[JobEvent]:
        """Take one event of a message, or its word to look again; what it says now."""
        looks_again = isinstance(frame, Mapping) and frame.get("look_again") is True
        event = event_of_frame(frame)
        if event is None and not looks_again:
            self._behind = True
            self.ask(now)
            return []
        self.on_ready(now)
        self._distrusted = False
        self._received_at = self._news_at = now
        if event is None:
            self._held = True
            self._looked_at = now
            self._missed.clear()
            self.ask(now + random.random() * _SPREAD_SECONDS)
            return []
        self._missed.discard((event.job_id, event.seq))
        if self._sequence is None:
            if event.seq > self._last.get(event.job_id, 0):
                self._behind = True
                self.ask(max(now, self._last_read + _FEED_SECONDS))
            return []
        if self.is_full:
            self._behind = True
            self.ask(now)
            return []
        delivered = self._sequence.offer([event])
        self.delivered += delivered
        # a hole is what was held back: many who would all fill it at once are worse than a late one
        if self._sequence.has_gap and not self._held:
            self.ask(now + _REORDER_SECONDS)
        return delivered

    @property
    def is_full(self) -> bool:
        """Whether the reader is to take something before more is read."""
        return len(self.delivered) >= MOST_QUEUED

    def ask(self, at: float) -> None:
        """Read at a time, or before."""
        self._read_at = min(self._read_at, at)

    def next_at(self, now: float) -> float:
        """When `due` is to be asked: for a read, or for what changes by time alone."""
        if self._reading is not None:
            return math.inf
        ends = (self._deaf_until, self._lossy_until, self._began + JOIN_SECONDS)
        changes = min((at for at in ends if at > now), default=math.inf)
        return min(self._silence_at, changes, math.inf if self.is_full else self._due_at(now))

    def due(self, now: float) -> bool:
        """Whether to read now."""
        if self._silence_at <= now:
            self._check_silence(now)
        return self._reading is None and not self.is_full and self._due_at(now) <= now

    def _due_at(self, now: float) -> float:
        if self._failures or not self.joined or self._distrusted:
            calm = min(_POLL_SECONDS * 1.6**self._failures, _LONGEST_POLL_SECONDS)
        elif self._reads_anyway(now):
            calm = max(_FIRST_SILENCE_SECONDS, _REST * self._read_seconds)
        else:
            return min(self._read_at, self._check_at)
        return min(self._read_at, self._last_read + calm)

    @property
    def _check_at(self) -> float:
        """When a read proves again that nothing was missed."""
        proved = self._last_read
        if self._sequence is not None:
            proved = max(proved, self._received_at)  # a job's numbers show what is missing
        advised = 0.0 if self._terms is None else self._terms.check_seconds
        idle = (proved - self._news_at) / _CHECK_SHARE
        pause = min(max(_FIRST_SILENCE_SECONDS, advised, idle), _SILENCE_SECONDS)
        return proved + max(pause, _REST * self._read_seconds)

    def began(self, now: float) -> None:
        """A read begins: what is announced from here on may be too late for it."""
        self._is_check = self._synced and self._read_at > now and not self._reads_anyway(now)
        self._reading = now
        self._read_join = self._joins if self.joined else 0
        self._read_at = math.inf
        self._behind = self._found = False

    def page(self, now: float, events: Sequence[JobEvent], *, is_last: bool) -> list[JobEvent]:
        """Take a page of the database; what it says now."""
        delivered = list(events)
        if self._sequence is not None:
            delivered = self._sequence.offer_page(events, is_last=is_last)
        for event in delivered if self._sequence is None else ():
            self._last[event.job_id] = event.seq
            self._last.move_to_end(event.job_id)
        while len(self._last) > _MOST_JOBS:
            self._last.popitem(last=False)
        self.delivered += delivered
        if delivered:
            self._found = True
            self._news_at = now
        if delivered and self._is_check:
            # what a check found, the socket must bring too
            self._missed |= {(event.job_id, event.seq) for event in delivered}
            self._silence_at = min(self._silence_at, now + _FIRST_SILENCE_SECONDS)
        return delivered

    def ended(self, now: float) -> None:
        """The read is complete."""
        if self._unreachable:
            # what cut the reads off may have left the socket half-open
            self.reconnects += 1
        if self._held and not self._found and self._reading != self._looked_at:
            self._held = False
        self._synced = self._synced or (self.joined and self._read_join == self._joins)
        self._reads += 1
        self._failures = 0
        self._unreachable = False
        self._rest(now)

    def failed(self, now: float, *, unreachable: bool) -> None:
        """The read did not succeed, and is worth another try."""
        self._failures += 1
        self._unreachable = unreachable
        self._rest(now)

    def _rest(self, now: float) -> None:
        assert self._reading is not None
        self._read_seconds = now - self._reading
        self._last_read, self._reading = now, None
        if self._has_gap and not self._held:
            self.ask(now + _REORDER_SECONDS)

    def _check_silence(self, now: float) -> None:
        """If it did not, messages are dropped, or the socket is dead even if it looks alive."""
        self._silence_at = math.inf
        if not self._missed or not self.joined:
            return
        if self._received_at + _LOSSY_SECONDS > now:
            self._lossy_until = now + _LOSSY_SECONDS
        elif not self._distrusted:
            self._distrusted = True
            # a first message may only be late: a new socket would lose it
            self._silence_at = now + _POLL_SECONDS
            return
        else:
            self.reconnects += 1
        self._missed.clear()
