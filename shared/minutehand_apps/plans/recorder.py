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
    """News of one attempt, sent by one task."""

    def __init__(self, store: WorkerStore, job_id: str, fence: int) -> None:
        self._store = store
        self._job_id, self._fence = job_id, fence
        self._sent = 0
        self._events: list[dict[str, Any]] = []
        self._stages: dict[str, dict[str, Any]] = {}
        self._more: dict[str, Any] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()

    def append(self, type_: str, **data: Any) -> None:
        """Add an event."""
        if isinstance(data.get("message"), str):
            data["message"] = data["message"][:MOST_MESSAGE]
        self._events.append({"type": type_, "data": data})
        self._wake.set()

    def put_stage(self, **stage: Any) -> None:
        """Record a stage's state; in a call the latest counts, and starts are added up."""
        before = self._stages.get(stage["name"], {})
        stage["attempts"] = before.get("attempts", 0) + stage.get("attempts", 0)
        self._stages[stage["name"]] = {**before, **stage}

    def put(self, **fields: Any) -> None:
        """Set the plan's own stage, percentage or end."""
        self._more |= fields

    async def flush(self) -> None:
        """Return once everything added so far is stored.

        Raises:
            PlanGone: It was not, since the plan was deleted.
            LeaseLost: It was not, since another attempt has taken over.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(stored)
        self._wake.set()
        await stored

    async def run(self) -> None:
        """Send until cancelled; an error ends it and every waiter."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._send()
        except BaseException as error:
            for future in self._waiting:
                if not future.done():
                    future.set_exception(
                        error if isinstance(error, Exception) else asyncio.CancelledError()
                    )
                    future.exception()  # no one may be left to ask
            raise

    async def _send(self) -> None:
        news = {
            "events": self._events,
            "stages": list(self._stages.values()),
            **self._more,
        }
        waiting = list(self._waiting)
        self._events, self._stages, self._more = [], {}, {}
        self._sent += 1
        mark = f"{self._job_id}:{self._fence}:{self._sent}"
        if not await self._store.report(self._job_id, self._fence, mark, news):
            raise PlanGone
        self._waiting = self._waiting[len(waiting) :]
        for future in waiting:
            if not future.done():
                future.set_result(None)
