"""A plan's events are its job's, one for one, so that their numbers have no gaps either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from minutehand.queue import CallerFunctions, QueueError
from minutehand.web import sse

_OTHERWISE: Final = {"cancel_requested": "plan_cancelling"}


class PlanFeed:
    """One plan's events by `seq`; it ends with the plan, or when that is deleted."""

    def __init__(self, plan_id: UUID, functions: CallerFunctions, *, after: int) -> None:
        self.subject = f"plan:{plan_id}"
        self._id = plan_id
        self._functions = functions
        self._after = after
        self._end: str | None = None
        self._is_known = False

    async def read(self) -> sse.Batch:
        """Events after the last one read; the end when nothing is left.

        Raises:
            QueueError: The first time with 404: there is no such plan, or it is not the reader's.
        """
        try:
            found = await self._functions.call(
                "plan_events", plan_id=self._id, after=self._after, limit=sse.READ_LIMIT
            )
        except QueueError as error:
            if error.status != 404 or not self._is_known:
                raise
            said = {"seq": self._after + 1, "type": "plan_deleted", "data": {}, "at": None}
            return sse.Batch([self._line(said)], end="deleted")
        self._is_known, self.subject = True, f"job:{found['job_id']}"
        lines = [self._line(event) for event in map(_in_words, found["events"])]
        if found["events"]:
            self._after = found["events"][-1]["seq"]
            self._end = found["events"][-1]["type"].removeprefix("job.")
        end = (self._end or "ended") if found["ended"] else None
        return sse.Batch(lines, end=end, more=len(lines) == sse.READ_LIMIT)

    def _line(self, said: Mapping[str, Any]) -> sse.SseEvent:
        event = {"plan_id": str(self._id), **said}
        return sse.SseEvent(str(said["seq"]), None, event)


def _in_words(event: Mapping[str, Any]) -> dict[str, Any]:
    """A job's event as a plan's: a line of its log may be a stage's beginning or end."""
    kind, data = str(event["type"]).removeprefix("job."), event["data"] or {}
    if kind == "log":
        line = data["log"]
        said = line.get("metadata") or {}
        kind = said.get("event") or "log"
        data = {"level": line["level"], "message": line["message"]}
        data |= {name: said[name] for name in ("stage", "title") if name in said}
    elif kind == "progress":
        kind, data = "stage_progress", data.get("progress") or {}
    else:
        kind = _OTHERWISE.get(kind, f"plan_{kind}")
        names = ("error_message", "attempts")
        data = {name: data[name] for name in names if data.get(name) is not None}
    return {"seq": event["seq"], "type": kind, "data": data, "at": event["at"]}
