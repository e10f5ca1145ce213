"""News of many sessions by one read: a hub's source for streams, however many are open.

A socket of Realtime follows a hundred topics, and each stream beyond would poll for itself.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Final

from minutehand.apps.chat.store import SessionStore
from minutehand.queue.errors import QueueError
from minutehand.tasks import end_tasks
from minutehand.web.hub import EventHub

logger = logging.getLogger(__name__)

#: Between two reads with few sessions; more of them are read less often, up to `LONGEST`.
SHORTEST: Final = 0.25
LONGEST: Final = 2.0
SESSIONS_PER_SECOND: Final = 500.0
#: Sessions of one read.
MOST: Final = 2_000
_PREFIX: Final = "session:"


class SessionNews:
    """Tells a hub which sessions have something new; reads only while someone follows one."""

    def __init__(self, store: SessionStore, hub: EventHub) -> None:
        self._store = store
        self._hub = hub
        self._marks: dict[str, int | None] = {}
        self._live = False
        self._task: asyncio.Task[None] | None = None

    def follow(self, topic: str, *, token: str | None, until: datetime) -> None:
        """Begin to follow a session; what its readers may read is decided by their own reads."""
        self._marks.setdefault(topic.removeprefix(_PREFIX), None)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    def leave(self, topic: str) -> None:
        """Stop following."""
        self._marks.pop(topic.removeprefix(_PREFIX), None)

    def is_live(self, topic: str) -> bool:
        """Whether updates arrive without polling now."""
        # not before its own first mark: a stream that begins would read a second time for nothing
        return self._live and self._marks.get(topic.removeprefix(_PREFIX)) is not None

    async def aclose(self) -> None:
        """Stop reading."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        while self._marks:
            names = list(self._marks)
            for start in range(0, len(names), MOST):
                await self._look(names[start : start + MOST])
            await asyncio.sleep(min(LONGEST, max(SHORTEST, len(names) / SESSIONS_PER_SECOND)))
        self._live = False

    async def _look(self, names: list[str]) -> None:
        try:
            found = await self._store.news(names)
        except QueueError as error:
            self._live = False  # streams poll until it is back
            logger.warning(
                "session updates could not be read",
                extra={"event": "chat.news_failed", "reason": type(error).__name__},
            )
            return
        self._live = True
        for name in names:
            if name not in self._marks:
                continue
            mark, known = found.get(name, 0), self._marks[name] or 0
            self._marks[name] = mark
            if mark != known:
                self._hub.notify(f"{_PREFIX}{name}")
