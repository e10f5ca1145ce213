"""A session's events in this app's words, unnamed, so that EventSource.onmessage gets them.

How a feed becomes a stream is minutehand.web's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from minutehand.queue.errors import QueueError
from minutehand.queue.functions import CallerFunctions
from minutehand.queue.models import FeedPage, JobEvent
from minutehand.web.feeds import BEGINNING, HistoryFeed, cursors_between
from minutehand.web.shared_reads import SharedReads
from minutehand.web.sse import Batch, Line, UnnamedLine

_GUEST_SESSION: Final = re.compile(r"guest_[0-9a-f]{64}")
STAGES: Final = frozenset({"ANALYZING", "RESEARCHING", "BUILDING", "REVIEWING", "DONE"})
#: The events of a piece of work; a lease after the first is one more step of it.
_TYPES: Final = {
    "job.leased": "work_started",
    "job.progress": "work_progress",
    "job.waiting": "work_question",
    "job.completed": "work_completed",
    "job.failed": "work_failed",
    "job.cancelled": "work_cancelled",
}


def guest_session_of(session_id: str) -> str:
    """The guest session that an id names, as chat.guest_session_of says it in SQL."""
    if _GUEST_SESSION.fullmatch(session_id):
        return session_id
    return "guest_" + hashlib.sha256(f"chat:{session_id}".encode()).hexdigest()


def progress_of(progress: Mapping[str, Any] | None) -> dict[str, Any]:
    """A job's progress in this app's words, as chat.progress says it in SQL."""
    progress = progress or {}
    stage, message = progress.get("stage"), progress.get("message") or ""
    if stage is not None and stage.startswith("text:"):
        stage, message = "BUILDING", "Writing the result"
    return {
        "stage": stage if stage in STAGES else "ANALYZING",
        "percentage": progress.get("percentage") or 0,
        "message": message,
    }


class SessionFeed(HistoryFeed):
    """The events of a session's work; none before there is such a session, or for another's."""

    def __init__(
        self,
        session_id: str,
        functions: CallerFunctions,
        *,
        after: str | None,
        reads: SharedReads,
        circle: str,
    ) -> None:
        self._session_id = session_id
        self._functions = functions
        self._works: dict[str, dict[str, Any] | None] = {}
        super().__init__(
            f"session:{guest_session_of(session_id)}",
            self._read_session,
            after=after,
            reads=reads,
            circle=circle,
        )

    async def open(self, now: datetime, *, skip: bool) -> Batch:
        """The first read, with `connected` before all else.

        Args:
            skip: Leave out what has happened so far.
        """
        before = self._cursor or BEGINNING
        batch = await self.read()
        while skip and batch.more:
            batch = await self.read()
        lines = [] if skip else list(batch.lines)
        cursor = before if lines else (self._cursor or before)
        connected = self._told("connected", None, now, {}, cursor)
        return Batch([connected, *lines], more=batch.more, cursor=batch.cursor)

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        """Events after the last ones read, of work alone."""
        before, page = self._cursor, await self.page(since=since)
        cursors = cursors_between(before, page)
        self._cursor = before  # a read that fails before its lines are known is made again
        await self._learn(page)
        self._cursor = page.cursor
        lines = [
            line
            for event, cursor in zip(page.events, cursors, strict=True)
            if (line := self._line(event, cursor)) is not None
        ]
        return Batch(lines, more=page.more, cursor=page.cursor)

    async def check(self) -> Batch:
        """Nothing: a session that has ended has no more events, and those of others come alone."""
        return Batch()

    async def _learn(self, page: FeedPage) -> None:
        # a question is recorded while its work runs, and a result just before its end
        news = {e.job_id for e in page.events if e.type in {"job.waiting", "job.completed"}}
        wanted = {e.job_id for e in page.events if e.job_id not in self._works} | news
        if wanted:
            known = await self._functions.call(
                "chat_works", session_id=self._session_id, job_ids=sorted(wanted)
            )
            self._works |= {job_id: known["works"].get(job_id) for job_id in wanted}

    def _line(self, event: JobEvent, cursor: str) -> Line | None:
        work = self._works.get(event.job_id)
        kind = _TYPES.get(event.type)
        if work is None or kind is None:
            return None
        if work["type"] == "reply":
            return self._reply_line(work, kind, event, cursor)
        data: dict[str, Any] = {"type": work["type"], "title": work["title"]}
        asked_at = work.get("asked_at")
        has_asked = asked_at is not None and datetime.fromisoformat(asked_at) < event.created_at
        if kind == "work_started" and (has_asked or (event.data.get("attempts") or 1) > 1):
            return None  # it goes on where it was: its next progress says so
        if kind == "work_progress":
            data |= progress_of(event.data.get("progress"))
        elif kind == "work_completed":
            data["result"] = work.get("result")
        elif kind == "work_question":
            wait = event.data.get("wait") or {}
            if wait.get("kind") != "ask":
                return None
            data |= {
                "messageId": work.get("question_id"),
                "question": wait.get("question"),
                "options": wait.get("options") or [],
                "default": work.get("default"),
                "expiresAt": _ms(wait.get("until")),
            }
        elif kind == "work_failed":
            data["error"] = event.data.get("error_message")
        return self._told(kind, f"work_{event.job_id}", event.created_at, data, cursor)

    def _reply_line(
        self, work: dict[str, Any], kind: str, event: JobEvent, cursor: str
    ) -> Line | None:
        """The end of a reply; a message that became work has none."""
        data: dict[str, Any] = {"messageId": work["message_id"]}
        if kind == "work_completed" and work.get("result"):
            data["result"] = work["result"]
        elif kind == "work_failed":
            data["error"] = event.data.get("error_message")
        else:
            return None
        return self._told(kind.replace("work_", "reply_"), None, event.created_at, data, cursor)

    def _told(
        self, kind: str, work_id: str | None, at: datetime, data: dict[str, Any], cursor: str
    ) -> Line:
        told = {
            "type": kind,
            "workId": work_id,
            "sessionId": self._session_id,
            "timestamp": int(at.timestamp() * 1000),
            "data": data,
        }
        return UnnamedLine(cursor=cursor, type=kind, data=told)

    async def _read_session(self, after: str | None) -> FeedPage:
        guest_session = self.topic.removeprefix("session:")
        try:
            page = await self._functions.call(
                "guest_session_feed", session_id=guest_session, cursor=after
            )
        except QueueError as error:
            if error.word != "session_not_found":
                raise
            # many streams wait for sessions that are still to begin: that is not an error
            return FeedPage(events=(), cursor=after or BEGINNING)
        return FeedPage.model_validate(page)


def _ms(instant: str | None) -> int | None:
    return int(datetime.fromisoformat(instant).timestamp() * 1000) if instant else None
