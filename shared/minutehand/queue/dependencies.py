"""What an app works with, made once per process: its settings, clock and way to the Data API."""

from __future__ import annotations

from functools import cached_property

from minutehand.clock import Clock, SystemClock
from minutehand.config import Settings
from minutehand.queue.data_api import STREAM_CONNECTIONS, DataApi
from minutehand.queue.functions import CallerFunctions
from minutehand.queue.guests import AddressSigner


class Dependencies:
    """To be extended by an app with a `cached_property` for each dependency."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()

    @cached_property
    def _api(self) -> DataApi:
        return DataApi(self.settings.supabase_url, schema=self.settings.schema_name)

    @cached_property
    def _stream_api(self) -> DataApi:
        return DataApi(
            self.settings.supabase_url,
            schema=self.settings.schema_name,
            connections=STREAM_CONNECTIONS,
        )

    @cached_property
    def _signer(self) -> AddressSigner:
        return AddressSigner(self.settings, self._api, self.clock)

    def acting_as(self, token: str | None) -> CallerFunctions:
        """The SQL functions as the bearer of `token`, or a guest, may call them."""
        signed = self._signer.headers
        return CallerFunctions(self._api, self.settings, token=token, signed=signed)

    def streaming_to(self, token: str | None) -> CallerFunctions:
        """The same for event streams: however many are open, a route gets a connection."""
        return CallerFunctions(self._stream_api, self.settings, token=token)

    async def aclose(self) -> None:
        """Close what was made here; dependencies that were passed in stay open."""
        made = [
            value
            for name, value in vars(self).items()
            if isinstance(getattr(type(self), name, None), cached_property)
        ]
        for each in made:
            if hasattr(each, "aclose"):
                await each.aclose()
