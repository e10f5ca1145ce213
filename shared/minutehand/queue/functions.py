"""Two clients of the SQL functions, one for workers, and one for members and guests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, overload
from uuid import UUID

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.credentials import WorkerKey
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.responses import Parse, T, decode_any, decode_object, decode_rows

if TYPE_CHECKING:
    from minutehand.queue.direct import DirectApi


class WorkerFunctions:
    """Client of the SQL functions granted to `job_worker`. One client serves a whole event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        schema: str | None = None,
        api: DataApi | DirectApi | None = None,
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
        **options: Any,
    ) -> Any:
        """Call a SQL function, and return its JSON value. `options` are passed to `DataApi.rpc`."""

        async def send() -> Any:
            headers = self._key.headers()
            return await self._api.rpc(
                function, arguments, headers=headers, repeatable=repeatable, **options
            )

        try:
            try:
                return await send()
            except TokenRefused as refused:
                # retry once with a new token, because the clocks may differ or a key may have been
                # rotated
                self._key.invalidate(refused)
                return await send()
        except QueueError as error:
            if error.code != "PGRST202":
                raise
            # a Data API that has just started, or is reloading its schema, finds no function for a
            # moment. A function that the Data API does not find yet must not fail a job.
            raise QueueUnavailable(str(error), status=error.status, code=error.code) from error

    async def call_held(
        self,
        function: str,
        job_id: str,
        fence: int,
        *,
        parse: Parse[Any] = decode_any,
        **arguments: Any,
    ) -> Any:
        """Call a function for a leased job, with the fence of its lease.

        The call may be repeated.
        """
        request = {"job_id": job_id, "fence": fence, **arguments}
        return await self.call(function, {"p_request": request}, parse=parse)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()


class CallerFunctions:
    """Client of the functions granted to members and guests. Creating a client sends no request.

    Args:
        signed: Function that returns additional headers for each call, which contain a valid token
            or a guest's signed address.
    """

    def __init__(
        self,
        api: DataApi,
        headers: Mapping[str, str],
        *,
        signed: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._api = api
        self._headers = headers
        self._signed = signed

    @overload
    async def call(
        self, function: str, /, *, parse: Parse[T], repeatable: bool = True, **arguments: Any
    ) -> T: ...

    @overload
    async def call(
        self, function: str, /, *, repeatable: bool = True, **arguments: Any
    ) -> dict[str, Any]: ...

    async def call(
        self,
        function: str,
        /,
        *,
        parse: Parse[Any] = decode_object,
        repeatable: bool = True,
        **arguments: Any,
    ) -> Any:
        """Call a SQL function, and return its JSON object.

        The argument names omit the prefix `p_`.
        """
        return await self._api.rpc(
            function,
            {f"p_{name}": value for name, value in arguments.items()},
            headers=await self._all_headers(),
            repeatable=repeatable,
            parse=parse,
        )

    async def workspace(self, named: UUID | None) -> UUID:
        """Return the caller's workspace `named`.

        If `named` is None, return the caller's only workspace.
        """
        body = await self.call("own_workspace", workspace_id=named and str(named))
        return UUID(body["workspace_id"])

    async def select(
        self, table: str, *params: tuple[str, str], parse: Parse[list[Any]] = decode_rows
    ) -> list[Any]:
        """Read the rows of a table or view that the caller may see.

        `params` are PostgREST's filters.
        """
        headers = await self._all_headers()
        return await self._api.select(table, params, headers=headers, parse=parse)

    async def _all_headers(self) -> Mapping[str, str]:
        return self._headers if self._signed is None else {**self._headers, **await self._signed()}
