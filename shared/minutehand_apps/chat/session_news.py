"""News of many sessions by one read a reader: a hub's source for streams, however many are open.

A socket of Realtime follows a hundred topics, and each stream beyond would poll for itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from minutehand.queue.errors import QueueError
from minutehand.queue.functions import CallerFunctions
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

    def __init__(
        self, functions_of: Callable[[str | None], CallerFunctions], hub: EventHub
    ) -> None:
        self._functions_of = functions_of
        self._hub = hub
        self._marks: dict[str, int | None] = {}
        #: By whose right each session is read: its reader's token, or None for guests.
        self._tokens: dict[str, str | None] = {}
        self._task: asyncio.Task[None] | None = None

    def follow(self, topic: str, *, token: str | None, until: datetime) -> None:
        """Begin to follow a session by a reader's right; one that it does not open polls."""
        name = topic.removeprefix(_PREFIX)
        self._marks.setdefault(name, None)
        self._tokens[name] = token
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    def leave(self, topic: str) -> None:
        """Stop following."""
        name = topic.removeprefix(_PREFIX)
        self._marks.pop(name, None)
        self._tokens.pop(name, None)

    def is_live(self, topic: str) -> bool:
        """Whether updates arrive without polling now."""
        # not before its own first mark: a stream that begins would read a second time for nothing
        return self._marks.get(topic.removeprefix(_PREFIX)) is not None

    async def aclose(self) -> None:
        """Stop reading."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        while self._marks:
            readers: dict[str | None, list[str]] = {}
            for name, token in self._tokens.items():
                readers.setdefault(token, []).append(name)
            for token, names in readers.items():
                for start in range(0, len(names), MOST):
                    await self._look(token, names[start : start + MOST])
            pause = len(self._marks) / SESSIONS_PER_SECOND
            await asyncio.sleep(min(LONGEST, max(SHORTEST, pause)))

    async def _look(self, token: str | None, names: list[str]) -> None:
        try:
            answer = await self._functions_of(token).call("chat_news", guest_session_ids=names)
        except QueueError as error:
            self._marks |= dict.fromkeys(self._marks.keys() & set(names))  # they poll until then
            logger.warning(
                "session updates could not be read",
                extra={"event": "chat.news_failed", "reason": type(error).__name__},
            )
            return
        for name in names:
            if name not in self._marks:
                continue
            mark, known = answer["news"].get(name), self._marks[name] or 0
            self._marks[name] = mark
            if mark is not None and mark != known:
                self._hub.notify(f"{_PREFIX}{name}")
