"""The app's SQL functions as typed calls: the worker's doors, and a member's.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from minutehand.apps.beacon.models import Issued, Loaded, SealedKey
from minutehand.config import Settings
from minutehand.queue.doors import CallerDoors, WorkerDoors


class WorkerStore:
    """What the processors may do, as `job_worker`; every call may be repeated."""

    def __init__(self, settings: Settings) -> None:
        self._doors = WorkerDoors(settings)

    async def start_for_job(self, job_id: str, fence: int) -> dict[str, Any]:
        """Start the run a leased `beacon_measure` asks for, once per job.

        Raises:
            QueueError: `spec_not_found`, or the workspace has too many runs under way.
        """
        started: dict[str, Any] = await self._doors.call_held("beacon_start_for_job", job_id, fence)
        return started

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load what a leased job works on.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        return Loaded.model_validate(await self._doors.call_held("beacon_load", job_id, fence))

    async def issue(
        self, job_id: str, fence: int, jws: str, samples: Mapping[str, Any] | None
    ) -> Issued:
        """Store a signed receipt, or learn after which one it must be signed again.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was stored.
        """
        return Issued.model_validate(
            await self._doors.call_held("beacon_issue", job_id, fence, jws=jws, samples=samples)
        )

    async def add_key(self, kid: str, x: str, sealed: str) -> SealedKey:
        """Add a signing key; answers the current one, which is another where one was there."""
        key = {"kid": kid, "x": x, "sealed": sealed}
        return SealedKey.model_validate(await self._doors.call("beacon_add_key", {"p_key": key}))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._doors.aclose()


class MemberStore:
    """What a member may do, under the member's own token; one per request, cheap to make."""

    def __init__(self, doors: CallerDoors) -> None:
        self._doors = doors

    async def create_spec(
        self, workspace_id: UUID, name: str, spec: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a spec, or find it as the name's last version."""
        return await self._doors.call(
            "beacon_create_spec",
            {"p_workspace_id": str(workspace_id), "p_name": name, "p_spec": dict(spec)},
            repeatable=True,
        )

    async def start_run(self, spec_id: UUID, *, key: str | None) -> dict[str, Any]:
        """Start a run, or find the one the key started."""
        return await self._doors.call(
            "beacon_start_run",
            {"p_spec_id": str(spec_id), "p_idempotency_key": key},
            repeatable=key is not None,
        )

    async def deliveries(self, run_id: UUID) -> dict[str, Any]:
        """What of a run was told to the workspace's webhooks."""
        return await self._doors.call(
            "beacon_deliveries", {"p_run_id": str(run_id)}, repeatable=True
        )

    async def select(self, table: str, *params: tuple[str, str]) -> list[dict[str, Any]]:
        """Read rows under row level security."""
        return await self._doors.select(table, *params)
