"""SQL functions called as a worker, or as a member or guest: whose key goes with which call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.keys import WorkerKey, caller_headers


class WorkerFunctions:
    """The functions open to `job_worker`; keep one per process and event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        schema: str | None = None,
        api: DataApi | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._api = api or DataApi(settings.supabase_url, schema=schema or settings.schema_name)
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

        async def send() -> Any:
            return await self._api.rpc(
                function,
                arguments,
                headers=self._key.headers(),
                repeatable=repeatable,
                attempts=attempts,
            )

        try:
            try:
                return await send()
            except TokenRefused:
                # the secret's clock and ours may differ, or a key was rotated: once more, fresh
                self._key.forget()
                return await send()
        except QueueError as error:
            if error.code != "PGRST202":
                raise
            # a Data API that has just started, or reloads its schema, knows no function for a
            # moment: nothing was called, and no job may fail for it
            raise QueueUnavailable(str(error), status=error.status, code=error.code) from error

    async def call_held(self, function: str, job_id: str, fence: int, **more: Any) -> Any:
        """Call a function for a leased job, which says so by its fence; may be repeated."""
        return await self.call(function, {"p_request": {"job_id": job_id, "fence": fence, **more}})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()


class FunctionStore:
    """The base of an app's own functions as typed calls, over connections of their own."""

    def __init__(self, settings: Settings) -> None:
        self._functions = WorkerFunctions(settings)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._functions.aclose()


class CallerFunctions:
    """The functions open to a member or a guest; one per request, cheap to make."""

    def __init__(
        self,
        api: DataApi,
        settings: Settings,
        *,
        token: str | None,
        signed: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._api = api
        self._headers = caller_headers(settings, token)
        self._signed = signed if token is None else None

    async def call(
        self, function: str, /, *, repeatable: bool = True, **arguments: Any
    ) -> dict[str, Any]:
        """Call a SQL function and return the JSON object it answers, see `DataApi.rpc`."""
        headers = self._headers
        if self._signed is not None:
            headers = {**headers, **await self._signed()}
        named = {f"p_{name}": value for name, value in arguments.items()}
        answer: dict[str, Any] = await self._api.rpc(
            function, named, headers=headers, repeatable=repeatable
        )
        return answer

    async def workspace(self, named: UUID | None) -> UUID:
        """The workspace that is named, if it is the caller's; else the only one they have."""
        arguments = {"p_workspace_id": None if named is None else str(named)}
        found = await self._api.rpc(
            "own_workspace", arguments, headers=self._headers, repeatable=True
        )
        return UUID(found["workspace_id"])

    async def select(self, table: str, *params: tuple[str, str]) -> list[dict[str, Any]]:
        """Read rows under row level security."""
        return await self._api.select(table, params, headers=self._headers)
