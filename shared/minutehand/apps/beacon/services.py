"""What beacon works with: its store, its providers, the sealer of its signing key.

Made once per process; nothing is connected or unwrapped before it is needed.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from minutehand.apps.beacon.models import SealedKey
from minutehand.apps.beacon.provider_client import ProviderClient
from minutehand.apps.beacon.settings import BeaconSettings
from minutehand.apps.beacon.store import MemberStore, WorkerStore
from minutehand.aws.sealing import Sealer, make_sealer, row_context
from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.dependencies import Dependencies

if TYPE_CHECKING:
    from minutehand.apps.beacon.signing import SigningKey


class Beacon(Dependencies):
    """Dependencies of one process."""

    def __init__(
        self,
        settings: Settings,
        *,
        sealer: Sealer | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(settings, clock=clock)
        self._given_sealer = sealer
        self._opened: tuple[str, SigningKey] | None = None

    @cached_property
    def store(self) -> WorkerStore:
        """The worker's functions."""
        return WorkerStore(self.settings)

    @cached_property
    def own_settings(self) -> BeaconSettings:
        """Where providers are.

        Raises:
            ConfigurationError: BEACON_PROVIDERS is malformed.
        """
        return BeaconSettings.from_env(self.settings.environ)

    @cached_property
    def providers(self) -> ProviderClient:
        """The client of every provider."""
        return ProviderClient()

    @cached_property
    def sealer(self) -> Sealer:
        """Seals and opens the signing key."""
        return self._given_sealer or make_sealer(self.settings)

    @property
    def software(self) -> str:
        """What receipts say signed them."""
        return f"minutehand/{self.settings.version}"

    async def signing_key(self, sealed: SealedKey | None) -> SigningKey:
        """Open the key that signs; where there is none, make it.

        Raises:
            SealBroken: It was sealed elsewhere, or altered.
        """
        # here and not at the top: only what signs loads cryptography
        from minutehand.apps.beacon.signing import SigningKey

        if sealed is None:
            key = SigningKey.generate()
            text = await self.sealer.seal(key.to_text(), context=row_context(signing_key=key.kid))
            sealed = await self.store.add_key(key.kid, key.x, text)  # another's, had it been first
        if self._opened is None or self._opened[0] != sealed.sealed:
            context = row_context(signing_key=sealed.kid)
            opened = SigningKey.from_text(await self.sealer.open(sealed.sealed, context=context))
            self._opened = (sealed.sealed, opened)
        return self._opened[1]

    def write_metrics(self, line: str) -> None:
        """Write a line of metrics where Lambda's log turns it into metrics; else nothing."""
        if "AWS_LAMBDA_FUNCTION_NAME" in self.settings.environ:
            sys.stdout.write(line + "\n")

    async def keys(self) -> dict[str, Any]:
        """Read every public key, as a JWK set; anyone may."""
        return await self._functions_of(None).call("beacon_keys", {}, repeatable=True)

    def acting_as(self, token: str) -> MemberStore:
        """The app's functions as the bearer of `token` may use them."""
        return MemberStore(self._functions_of(token))
