"""The events of a plan, made from the events of its job.

An event of the plan has the `seq` of the job's event, so the numbers have no gaps.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from minutehand.queue import CallerFunctions, QueueError
from minutehand.web import sse

_RENAMED = {"cancel_requested": "plan_cancelling"}


class PlanFeed:
    """Events of one plan, ordered by `seq`. The feed ends when the plan ends or is deleted."""

    def __init__(self, plan_id: UUID, functions: CallerFunctions, *, after: int) -> None:
        self.subject = f"plan:{plan_id}"
        self._id = plan_id
        self._functions = functions
        self._after = after
        self._end: str | None = None
        self._is_known = False

    async def read(self) -> sse.Batch:
        """Read the events after the last event that was read. If no event can follow, set `end`.

        Raises:
            QueueError: Only in the first read. The status is 404 if the plan does not exist or
                belongs to someone else.
        """
        try:
            response = await self._functions.call(
                "plan_events", plan_id=self._id, after=self._after, limit=sse.READ_LIMIT
            )
        except QueueError as error:
            if error.word != "plan_not_found" or not self._is_known:
                raise
            event = {"seq": self._after + 1, "type": "plan_deleted", "data": {}, "at": None}
            return sse.Batch([self._line(event)], end="deleted")
        self._is_known, self.subject = True, f"job:{response['job_id']}"
        lines = [self._line(event) for event in map(_convert, response["events"])]
        if response["events"]:
            self._after = response["events"][-1]["seq"]
            self._end = response["events"][-1]["type"].removeprefix("job.")
        end = (self._end or "ended") if response["ended"] else None
        return sse.Batch(lines, end=end, more=len(lines) == sse.READ_LIMIT)

    def _line(self, values: Mapping[str, Any]) -> sse.SseEvent:
        event = {"plan_id": str(self._id), **values}
        return sse.SseEvent(str(values["seq"]), None, event)


def _convert(event: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an event of the job to an event of the plan. A log line may start or end a stage."""
    kind, data = str(event["type"]).removeprefix("job."), event["data"] or {}
    if kind == "log":
        line = data["log"]
        metadata = line.get("metadata") or {}
        kind = metadata.get("event") or "log"
        data = {"level": line["level"], "message": line["message"]}
        data |= {name: metadata[name] for name in ("stage", "title") if name in metadata}
    elif kind == "progress":
        kind, data = "stage_progress", data.get("progress") or {}
    else:
        kind = _RENAMED.get(kind, f"plan_{kind}")
        names = ("error_message", "attempts")
        data = {name: data[name] for name in names if data.get(name) is not None}
    return {"seq": event["seq"], "type": kind, "data": data, "at": event["at"]}
