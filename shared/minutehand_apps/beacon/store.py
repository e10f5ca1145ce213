"""Typed calls of the app's SQL functions for the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minutehand.queue import FunctionStore, decode_object, reading
from minutehand_apps.beacon.models import Ended, Started


class WorkerStore(FunctionStore):
    """SQL functions of the worker, called as `job_worker`. Every call may be repeated.

    Calls for a leased job raise LeaseLost if another attempt has taken over.
    """

    async def publish(self, *, limit: int) -> int:
        """Enqueue due messages of the outbox, and return the number of enqueued jobs."""
        # Not retried, so that the run is not delayed. The next round is a second away.
        response = await self._functions.call(
            "beacon_publish", {"p_limit": limit}, attempts=1, parse=decode_object
        )
        return int(response["published"])

    async def reconcile(self) -> int:
        """End jobs that ended in the queue without their processor, and return their number."""
        response = await self._functions.call(
            "beacon_reconcile", {}, attempts=1, parse=decode_object
        )
        return int(response["ended"])

    async def start(self, job_id: str, fence: int, function: str = "beacon_start") -> Started:
        """Start the job of a leased `beacon_job`, or with `beacon_start_execution` an execution."""
        started: Started = await self._functions.call_held(
            function, job_id, fence, parse=reading(Started)
        )
        return started

    async def finish(
        self, job_id: str, fence: int, closing: Mapping[str, Any] | None = None
    ) -> Ended:
        """Return the outcome of a leased `beacon_job`. With `closing`, end the job."""
        arguments = {} if closing is None else {"closing": dict(closing)}
        ended: Ended = await self._functions.call_held(
            "beacon_finish", job_id, fence, parse=reading(Ended), **arguments
        )
        return ended

    async def issue(self, job_id: str, fence: int, receipt: Mapping[str, Any]) -> dict[str, Any]:
        """Store a signed receipt once, and return the stored receipt."""
        response = await self._functions.call_held(
            "beacon_issue", job_id, fence, parse=decode_object, receipt=dict(receipt)
        )
        stored: dict[str, Any] = response["receipt"]
        return stored

    async def signing_key(self, made: Mapping[str, str] | None = None) -> dict[str, str] | None:
        """Return the app's sealed key. If there is none, `made` is stored."""
        key: dict[str, str] | None = await self._functions.call("beacon_key", {"p_made": made})
        return key

    async def health(self) -> dict[str, Any]:
        """Read the outbox's depth, oldest message and dead letters."""
        health: dict[str, Any] = await self._functions.call(
            "beacon_health", {}, attempts=1, parse=decode_object
        )
        return health
