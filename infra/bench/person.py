"""A member who calls the Data API with a token of their own."""

from __future__ import annotations

from infra.bench.scratch import PUBLISHABLE_KEY, USER, user_token
from minutehand.queue.data_api import DataApi


class Person:
    """A member at the Data API of `url`."""

    def __init__(self, url: str, user_id: str = USER) -> None:
        self._api = DataApi(url, read_seconds=30.0, timeout_seconds=60.0)
        self._headers = {
            "apikey": PUBLISHABLE_KEY, "Authorization": f"Bearer {user_token(user_id)}"
        }  # fmt: skip

    async def call(self, function: str, **arguments: object) -> object:
        """Call a SQL function."""
        return await self._api.rpc(function, arguments, headers=self._headers, repeatable=False)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()
