"""The app's SQL functions that the worker calls, as typed calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minutehand.queue import FunctionStore, decode_object, reading
from minutehand_apps.beacon.models import Ended, Started


class WorkerStore(FunctionStore):
    """What the worker may do, as `job_worker`; every call may be repeated.

    Each for a leased job raises LeaseLost when another attempt has taken over.
    """

    async def publish(self, *, limit: int) -> int:
        """Enqueue messages of the outbox that are due; returns how many jobs were made."""
        # once: a run that cannot publish must not wait for it; the next round is a second away
        answer = await self._functions.call(
            "beacon_publish", {"p_limit": limit}, attempts=1, parse=decode_object
        )
        return int(answer["published"])

    async def reconcile(self) -> int:
        """End jobs that ended in the queue without their processor; returns how many."""
        answer = await self._functions.call("beacon_reconcile", {}, attempts=1, parse=decode_object)
        return int(answer["ended"])

    async def start(self, job_id: str, fence: int, what: str = "beacon_start") -> Started:
        """Start the job of a leased `beacon_job`, or as `beacon_start_execution` an execution."""
        started: Started = await self._functions.call_held(
            what, job_id, fence, parse=reading(Started)
        )
        return started

    async def finish(
        self, job_id: str, fence: int, closing: Mapping[str, Any] | None = None
    ) -> Ended:
        """What the job of a leased `beacon_job` came to; it ends with its closing receipt."""
        more = {} if closing is None else {"closing": dict(closing)}
        ended: Ended = await self._functions.call_held(
            "beacon_finish", job_id, fence, parse=reading(Ended), **more
        )
        return ended

    async def issue(self, job_id: str, fence: int, receipt: Mapping[str, Any]) -> dict[str, Any]:
        """Store a signed receipt, once; returns the first."""
        answer = await self._functions.call_held(
            "beacon_issue", job_id, fence, parse=decode_object, receipt=dict(receipt)
        )
        stored: dict[str, Any] = answer["receipt"]
        return stored

    async def signing_key(self, made: Mapping[str, str] | None = None) -> dict[str, str] | None:
        """The app's key, sealed; `made` is stored where there is none yet."""
        found: dict[str, str] | None = await self._functions.call("beacon_key", {"p_made": made})
        return found

    async def health(self) -> dict[str, Any]:
        """Read the outbox's depth, oldest message and dead letters."""
        found: dict[str, Any] = await self._functions.call(
            "beacon_health", {}, attempts=1, parse=decode_object
        )
        return found
