"""A plan's events as a stream: unnamed, numbered, and ended by the event that ends the plan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final
from uuid import UUID

from pydantic_core import to_json

from minutehand.apps.plans.models import EventPage, StoredPlan, topic_of
from minutehand.apps.plans.store import CallerStore
from minutehand.web.ring import Frame
from minutehand.web.shared_reads import SharedReads
from minutehand.web.sse import Batch, Line, Stream

#: Events of one read; a stream far behind catches up in several.
READ_LIMIT: Final = 500


class UnnamedLine(Line):
    """An event that EventSource hands to `onmessage`; its type is in the data."""

    @cached_property
    def encoded(self) -> bytes:
        """The event as it travels."""
        return b"id: " + self.cursor.encode() + b"\ndata: " + to_json(self.data) + b"\n\n"


class PlanStream(Stream):
    """A plan read aloud; its last event is the plan's own."""

    def closing_event(self, reason: str) -> bytes:
        """Nothing: the plan's last event has said it."""
        return b""

    def freshness(self, word: str) -> bytes:
        """Nothing: a plan's stream holds its events alone."""
        return b""


class PlanFeed:
    """One plan's events by `seq`, forward from the reader's cursor.

    Args:
        circle: Readers with an equal one see the same, and may share what is read.
    """

    def __init__(
        self, store: CallerStore, plan: StoredPlan, *, after: int, reads: SharedReads, circle: str
    ) -> None:
        self._store = store
        self._plan_id: UUID = plan.id
        self._topic = topic_of(plan.session_id)
        self._seq = after
        self._reads = reads
        self._circle = circle

    @property
    def topic(self) -> str:
        """The subject's name in the hub."""
        return self._topic

    @property
    def position(self) -> int | None:
        """None: a guest's topic carries several plans, so that its frames are hints alone."""
        return None

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        """Events after the last one read; the end when the plan has one and nothing is left.

        Raises:
            QueueError: 404, the plan was deleted a while ago, or is no longer the reader's.
        """
        after = self._seq
        if since is None:
            page = await self._page(after)
        else:
            question = ("plan", str(self._plan_id), self._circle, after)
            page = await self._reads.get(question, lambda: self._page(after), since=since)
        if page.events:
            self._seq = page.events[-1].seq
        lines = [
            UnnamedLine(str(event.seq), event.type, event.model_dump(mode="json"))
            for event in page.events
        ]
        return Batch(lines, end=None if page.more else page.ended, more=page.more)

    async def _page(self, after: int) -> EventPage:
        return await self._store.events(self._plan_id, after, limit=READ_LIMIT, is_open=True)

    async def check(self) -> Batch:
        """Whether there is more, and whether the plan can still be reached.

        Raises:
            QueueError: 404, the plan was deleted a while ago, or is no longer the reader's.
        """
        page = await self._store.events(self._plan_id, self._seq, limit=1, is_open=True)
        return Batch(more=bool(page.events) or page.ended is not None)

    def absorb(self, frames: Sequence[Frame]) -> Batch | None:
        """Nothing: the log is read instead."""
        return None
