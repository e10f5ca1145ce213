"""A session's events in the words of the chat, out of the events of its jobs.

Each job's `seq` has no gaps, so a cursor that holds the last one of each job misses nothing and
repeats nothing: `11;12:5,14:2` has had messages to 11 whole, and so much of two later ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from minutehand.queue.functions import CallerFunctions
from minutehand.web.errors import invalid_argument
from minutehand.web.sse import Batch, Line

_TYPES: Final = {
    "job.leased": "work_started",
    "job.progress": "work_progress",
    "job.waiting": "work_question",
    "job.completed": "work_completed",
    "job.failed": "work_failed",
    "job.cancelled": "work_cancelled",
}
_ENDS: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})
_CURSOR: Final = re.compile(r"(\d{1,18})(?:;((?:\d{1,18}:\d{1,9},?)*))?")


class Cursor:
    """How far a reader has come."""

    def __init__(self, text: str | None) -> None:
        found = _CURSOR.fullmatch(text or "0")
        if found is None:
            raise invalid_argument("Last-Event-ID", "unknown cursor", location="header")
        self.done = int(found[1])
        pairs = (pair.split(":") for pair in (found[2] or "").split(",") if pair)
        self.seen = {int(message): int(seq) for message, seq in pairs}
        self._ended: set[int] = set()

    def pass_by(self, event: Mapping[str, Any]) -> None:
        """Take note of an event that was read."""
        message = event["message"]
        self.seen[message] = event["seq"]
        if event["type"] in _ENDS:
            self._ended.add(message)
        while self.seen and min(self.seen) in self._ended:
            self.done = min(self.seen)
            del self.seen[self.done]

    def __str__(self) -> str:
        pairs = ",".join(f"{message}:{seq}" for message, seq in sorted(self.seen.items()))
        return f"{self.done};{pairs}" if pairs else str(self.done)


class SessionFeed:
    """The events of a session's work; none before there is such a session, or for another's."""

    def __init__(
        self, session_id: str, functions: CallerFunctions, *, after: str | None, now: datetime
    ) -> None:
        self.subject = f"session:{session_id}"
        self._session_id = session_id
        self._functions = functions
        self._cursor = Cursor(after)
        self._greeting = [self._line("connected", None, now, {})]

    async def read(self) -> Batch:
        """Events after the last ones read; the first time with `connected` before all else."""
        cursor = self._cursor
        found = await self._functions.call(
            "chat_events", session_id=self._session_id, done=cursor.done, seen=cursor.seen
        )
        lines = [line for event in found["events"] if (line := self._read(event)) is not None]
        greeting, self._greeting = self._greeting, []
        return Batch([*greeting, *lines], more=len(found["events"]) == 200)

    def _read(self, event: Mapping[str, Any]) -> Line | None:
        self._cursor.pass_by(event)
        kind, at = _TYPES[event["type"]], datetime.fromisoformat(event["at"])
        data, more = event["data"] or {}, event["more"]
        if event["work_type"] is None:  # a message that was answered at once
            told = {"messageId": event["message_id"], "error": data.get("error_message")}
            return self._line(kind.replace("work_", "reply_"), None, at, told)
        told = {"type": event["work_type"], "title": event["work_title"]}
        if kind == "work_started" and (data.get("attempts") or 1) > 1:
            return None  # it continues where it was: its next progress says so
        if kind == "work_progress":
            told |= data.get("progress") or {}
        elif kind == "work_question":
            if more is None or (data.get("wait") or {}).get("kind") != "ask":
                return None
            told |= {name: more.get(name) for name in ("options", "default", "expiresAt")}
            told |= {"messageId": more["id"], "question": more["content"]}
        elif kind == "work_completed":
            told["result"] = more
        elif kind == "work_failed":
            told["error"] = data.get("error_message")
        return self._line(kind, f"work_{event['job_id']}", at, told)

    def _line(self, kind: str, work_id: str | None, at: datetime, data: dict[str, Any]) -> Line:
        told = {
            "type": kind,
            "workId": work_id,
            "sessionId": self._session_id,
            "timestamp": int(at.timestamp() * 1000),
            "data": data,
        }
        return Line(str(self._cursor), None, told)
