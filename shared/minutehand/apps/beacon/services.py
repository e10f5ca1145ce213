"""What beacon works with: its store, the sealer of its signing key, where it measures from.

Made once per process; nothing is connected or unwrapped before it is needed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from minutehand.apps.beacon.models import SealedKey
from minutehand.apps.beacon.store import MemberStore, WorkerStore
from minutehand.aws.sealing import Sealer, make_sealer, row_context
from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.collaborators import Collaborators

if TYPE_CHECKING:
    from minutehand.apps.beacon.jws import SigningKey


class Beacon(Collaborators):
    """Collaborators of one process."""

    def __init__(
        self, settings: Settings, *, sealer: Sealer | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(settings, clock=clock)
        self._given_sealer = sealer

    @cached_property
    def store(self) -> WorkerStore:
        """The worker's doors."""
        return WorkerStore(self.settings)

    @cached_property
    def sealer(self) -> Sealer:
        """Seals and opens the signing key."""
        return self._given_sealer or make_sealer(self.settings)

    @property
    def software(self) -> str:
        """What receipts say signed them."""
        return f"minutehand/{self.settings.version}"

    @property
    def measured_from(self) -> str:
        """Where this process really runs."""
        if self.settings.worker_location:
            return self.settings.worker_location
        return "local" if self.settings.stage == "local" else f"aws/{self.settings.aws_region}"

    async def signing_key(self, sealed: SealedKey | None) -> SigningKey:
        """Open the key that signs; where there is none, make it.

        Raises:
            SealBroken: It was sealed elsewhere, or altered.
        """
        # here and not at the top: only who signs loads cryptography
        from minutehand.apps.beacon.jws import SigningKey

        if sealed is None:
            key = SigningKey.generate()
            text = await self.sealer.seal(key.to_text(), context=row_context(signing_key=key.kid))
            sealed = await self.store.add_key(key.kid, key.x, text)  # another's, had it been first
        text = await self.sealer.open(sealed.sealed, context=row_context(signing_key=sealed.kid))
        return SigningKey.from_text(text)

    async def keys(self) -> dict[str, Any]:
        """Every public key, as a JWK set; anybody may ask."""
        return await self._doors_of(None).call("beacon_keys", {}, repeatable=True)

    def acting_as(self, token: str) -> MemberStore:
        """The app's doors as the bearer of `token` may use them."""
        return MemberStore(self._doors_of(token))
