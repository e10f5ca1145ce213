"""Client for any Python code that uses `supabase`, to enqueue, read and control jobs."""

from collections.abc import Mapping
from typing import Self

from minutehand.queue.client import UserQueue
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import (
    DuplicateJob as DuplicateJob,
    InvalidState as InvalidState,
    JobNotFound as JobNotFound,
    QueueError as QueueError,
    QueueUnavailable as QueueUnavailable,
    RateLimited as RateLimited,
    TokenRefused as TokenRefused,
)
from minutehand.queue.models import (
    EnqueueOptions as EnqueueOptions,
    Job as Job,
    JobEvent as JobEvent,
    NewJob as NewJob,
    UniqueOptions as UniqueOptions,
)
from supabase import AsyncClient, Client as SyncClient


class Client(UserQueue):
    """Client for jobs. Its calls have the rights of a `supabase.AsyncClient` or of `token`.

    Raises:
        TypeError: `supabase` is a synchronous client.
    """

    def __init__(
        self, supabase: AsyncClient, *, schema: str = "minutehand", token: str | None = None
    ) -> None:
        if isinstance(supabase, SyncClient):
            raise TypeError(
                f"supabase must be a supabase.AsyncClient of `await acreate_client(url, key)`, "
                f"not {type(supabase).__name__}; synchronous code can call "
                f'`supabase.schema("{schema}").rpc("enqueue_job", …).execute()`'
            )
        self._connections = DataApi(str(supabase.supabase_url), schema=schema)
        self._supabase = supabase
        self._token = token
        super().__init__(
            self._connections, {"apikey": supabase.supabase_key}, signed=self._authorization
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.aclose()

    async def _authorization(self) -> Mapping[str, str]:
        """Return a header with `token`, the session's token (renewed by supabase-py) or the key."""
        token = self._token
        if token is None:
            session = await self._supabase.auth.get_session()
            token = self._supabase.supabase_key if session is None else session.access_token
        return {"Authorization": f"Bearer {token}"}
