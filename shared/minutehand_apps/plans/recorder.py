"""Everything a run finds on its way to the database: in order, and in as few calls as it takes.

Stages that end together share a call; each call is one transaction with its events.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from minutehand_apps.plans.store import WorkerStore

#: Longest message of an event.
MOST_MESSAGE: Final = 1_000


class PlanGone(Exception):
    """The plan was deleted, cancelled or handed to another job: there is nothing left to do."""


class Recorder:
    """News of one attempt."""

    def __init__(self, store: WorkerStore, job_id: str, fence: int) -> None:
        self._store = store
        self._job_id, self._fence = job_id, fence
        self._sent = 0
        self._events: list[dict[str, Any]] = []
        self._stages: dict[str, dict[str, Any]] = {}
        self._more: dict[str, Any] = {}
        self._sending = asyncio.Lock()
        self._failure: BaseException | None = None
        self._added = asyncio.Event()

    def append(self, type_: str, **data: Any) -> None:
        """Add an event."""
        if isinstance(data.get("message"), str):
            data["message"] = data["message"][:MOST_MESSAGE]
        self._events.append({"type": type_, "data": data})
        self._added.set()

    def put_stage(self, **stage: Any) -> None:
        """Record a stage's state; in a call the latest counts, and starts are added up."""
        before = self._stages.get(stage["name"], {})
        stage["attempts"] = before.get("attempts", 0) + stage.get("attempts", 0)
        self._stages[stage["name"]] = {**before, **stage}

    def put(self, **fields: Any) -> None:
        """Set the plan's own stage, percentage or end."""
        self._more |= fields

    async def flush(self) -> None:
        """Return once everything added so far is stored: by this call, or by one before it.

        Raises:
            PlanGone: It was not, since the plan was deleted.
            LeaseLost: It was not, since another attempt has taken over.
        """
        async with self._sending:
            if self._failure is not None:
                raise self._failure
            if not (self._events or self._stages or self._more):
                return
            news = {"events": self._events, "stages": list(self._stages.values()), **self._more}
            self._events, self._stages, self._more = [], {}, {}
            self._sent += 1
            mark = f"{self._job_id}:{self._fence}:{self._sent}"
            try:
                if not await self._store.report(self._job_id, self._fence, mark, news):
                    raise PlanGone
            except BaseException as error:
                self._failure = error  # what was in this call is lost to the others, too
                raise

    async def run(self) -> None:
        """Send what is added, until cancelled or until it cannot be stored."""
        while True:
            await self._added.wait()
            self._added.clear()
            await self.flush()
