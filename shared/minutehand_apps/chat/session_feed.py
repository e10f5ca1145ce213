"""Events of a chat session, which are made from the events of the session's jobs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from minutehand.queue import CallerFunctions, FeedPage, JobEvent, reading
from minutehand.web import sse

_TYPES = {
    "job.work_started": "work_started",
    "job.progress": "work_progress",
    "job.waiting": "work_question",
    "job.cancel_requested": "work_cancelling",
    "job.completed": "work_completed",
    "job.failed": "work_failed",
    "job.cancelled": "work_cancelled",
}


class SessionFeed:
    """Events of a session's work. Unknown and other people's sessions have no events.

    The cursors are cursors of the engine's feed. If a cursor is older than the feed, the stream
    sends the event `reset` and begins again.
    """

    def __init__(
        self, session_id: str, functions: CallerFunctions, *, after: str | None, now: datetime
    ) -> None:
        self.subject = f"session:{session_id}"
        self._session_id = session_id
        self._functions = functions
        self._history = sse.HistoryFeed(self.subject, self._page, after=after or None)
        self._opened_at = now
        self._greeting = [self._line(after or "", "connected", None, now, {})]

    async def read(self) -> sse.Batch:
        """Read the events after the last event that was read.

        The first batch begins with `connected`.
        """
        page = await self._history.page()
        lines, self._greeting = self._greeting, []
        if page.reset:
            self._history = sse.HistoryFeed(self.subject, self._page, after=sse.START_CURSOR)
            lines.append(self._line(sse.START_CURSOR, "reset", None, self._opened_at, {}))
            return sse.Batch(lines, more=True)
        # the last event gets the cursor of the page, so that a reconnect skips omitted events
        cursors = [*page.places[:-1], page.cursor] if page.events else []
        found = (self._read(*each) for each in zip(page.events, cursors, strict=True))
        lines += [line for line in found if line is not None]
        return sse.Batch(lines, more=page.more, cursor=page.cursor)

    async def _page(self, cursor: str | None) -> FeedPage:
        return await self._functions.call(
            "chat_events", parse=reading(FeedPage), session_id=self._session_id, cursor=cursor
        )

    def _read(self, event: JobEvent, cursor: str) -> sse.SseEvent | None:
        data: Mapping[str, Any] = event.data or {}
        kind, brought = _TYPES.get(event.type), data["brought"]
        if kind is None:
            return None
        progress: dict[str, Any] = data.get("progress") or {}
        work_id: str | None = f"work_{event.job_id}"
        # an event belongs to the reply until the model has decided whether the message becomes work
        is_reply = data["work_type"] is None or progress.get("percentage") == 0
        content = {"type": data["work_type"], "title": data["work_title"]}
        if is_reply:
            kind, work_id = kind.replace("work_", "reply_"), None
            content = {"messageId": data["message_id"]}
        if event.type == "job.waiting":
            if brought is None:
                return None
            content |= {name: brought.get(name) for name in ("options", "default", "expiresAt")}
            content |= {"messageId": brought["id"], "question": brought["content"]}
        elif event.type == "job.completed" and not is_reply:
            content["result"] = brought
        elif event.type == "job.failed":
            content["error"] = data.get("error_message")
        return self._line(cursor, kind, work_id, event.created_at, content | progress)

    def _line(
        self, cursor: str, kind: str, work_id: str | None, at: datetime, data: dict[str, Any]
    ) -> sse.SseEvent:
        event = {
            "type": kind,
            "workId": work_id,
            "sessionId": self._session_id,
            "timestamp": int(at.timestamp() * 1000),
            "data": data,
        }
        return sse.SseEvent(cursor, None, event)
