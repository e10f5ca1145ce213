"""Dependencies of the app: its providers, and the signer of receipts.

A process has one instance, which creates each dependency at its first use.
"""

from functools import cached_property

import httpx

from minutehand.queue import Dependencies, outbound_http
from minutehand_apps.beacon.provider_client import CALL_SECONDS
from minutehand_apps.beacon.receipts import Signer
from minutehand_apps.beacon.settings import Provider, read_providers


class Beacon(Dependencies):
    """The app's dependencies in one process."""

    @cached_property
    def providers(self) -> tuple[Provider, ...]:
        """The configured providers. Raises ConfigurationError if BEACON_PROVIDERS is malformed."""
        return read_providers(self.settings.environ)

    @cached_property
    def http(self) -> httpx.AsyncClient:
        """The HTTP client for calls of all providers."""
        return outbound_http.connect(timeout=httpx.Timeout(CALL_SECONDS))

    @cached_property
    def signer(self) -> Signer:
        """The signer, which signs receipts."""
        return Signer(self.settings, self.worker)
