"""SQL functions called as a worker: one connection, one key, and once more when it was refused.

What each function takes and gives is its caller's to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.clock import Clock
from shared.config import Settings
from shared.queue.data_api import DataApi
from shared.queue.errors import TokenRefused
from shared.queue.keys import WorkerKey


class WorkerDoors:
    """The doors open to `job_worker`; keep one per process and event loop."""

    def __init__(
        self, settings: Settings, *, api: DataApi | None = None, clock: Clock | None = None
    ) -> None:
        self._api = api or DataApi(settings.supabase_url)
        self._key = WorkerKey(settings, clock=clock)

    async def call(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        repeatable: bool = True,
        attempts: int | None = None,
    ) -> Any:
        """Call a SQL function and return its one JSON value, see `DataApi.rpc`."""
        try:
            return await self._send(function, arguments, repeatable, attempts)
        except TokenRefused:
            # the JWT secret's clock and ours may differ, or a key was rotated: once more, fresh
            self._key.forget()
            return await self._send(function, arguments, repeatable, attempts)

    async def _send(
        self, function: str, arguments: Mapping[str, Any], repeatable: bool, attempts: int | None
    ) -> Any:
        return await self._api.rpc(
            function,
            arguments,
            headers=self._key.headers(),
            repeatable=repeatable,
            attempts=attempts,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()
