"""SQL functions called as a worker, or as a member or guest: whose key goes with which call.

What each function takes and gives is its caller's to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.keys import WorkerKey, caller_headers


class WorkerFunctions:
    """The functions open to `job_worker`; keep one per process and event loop.

    A key that was refused is made again, once.
    """

    def __init__(
        self, settings: Settings, *, api: DataApi | None = None, clock: Clock | None = None
    ) -> None:
        self._api = api or DataApi(settings.supabase_url, schema=settings.schema_name)
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

    async def call_held(self, function: str, job_id: str, fence: int, **more: Any) -> Any:
        """Call a function for a leased job, which says so by its fence; may be repeated.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was changed.
        """
        return await self.call(function, {"p_request": {"job_id": job_id, "fence": fence, **more}})

    async def _send(
        self, function: str, arguments: Mapping[str, Any], repeatable: bool, attempts: int | None
    ) -> Any:
        try:
            return await self._api.rpc(
                function,
                arguments,
                headers=self._key.headers(),
                repeatable=repeatable,
                attempts=attempts,
            )
        except QueueError as error:
            if error.code != "PGRST202":
                raise
            # a Data API that has just started, or reloads its schema, knows no function for a
            # moment: nothing was called, and no job may fail for it
            raise QueueUnavailable(str(error), status=error.status, code=error.code) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()


class CallerFunctions:
    """The functions open to a member, or to a guest where they are; one per request, cheap to make.

    Args:
        token: The caller's own; None for a guest.
        always: Arguments of every call, as the id of a guest session, which is its holder's key.
    """

    def __init__(
        self,
        api: DataApi,
        settings: Settings,
        *,
        token: str | None,
        always: Mapping[str, Any] | None = None,
    ) -> None:
        self._api = api
        self._headers = caller_headers(settings, token)
        self._always = always or {}

    async def call(
        self, function: str, arguments: Mapping[str, Any], *, repeatable: bool
    ) -> dict[str, Any]:
        """Call a SQL function and return the JSON object it answers, see `DataApi.rpc`."""
        answer: dict[str, Any] = await self._api.rpc(
            function, {**arguments, **self._always}, headers=self._headers, repeatable=repeatable
        )
        return answer

    async def select(self, table: str, *params: tuple[str, str]) -> list[dict[str, Any]]:
        """Read rows under row level security."""
        return await self._api.select(table, params, headers=self._headers)
