"""What beacon works with: its store, its providers, what signs its receipts.

Made once per process; nothing is connected or unwrapped before it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from minutehand.aws.sealing import Sealer
from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.dependencies import Dependencies
from minutehand.queue.lean_httpx import httpx
from minutehand.signing.canonical import digest_of
from minutehand.signing.signer import Signer
from minutehand_apps.beacon.models import Closed
from minutehand_apps.beacon.provider_client import connections
from minutehand_apps.beacon.settings import BeaconSettings
from minutehand_apps.beacon.store import WorkerStore


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
    def providers(self) -> httpx.AsyncClient:
        """The connections to every provider."""
        return connections()

    @cached_property
    def signer(self) -> Signer:
        """Signs receipts, and says which software did."""
        return Signer(self.settings, "beacon", sealer=self._given_sealer, clock=self.clock)

    async def close_job(
        self, unsigned: Closed, send: Callable[[dict[str, Any]], Awaitable[Closed]]
    ) -> Closed:
        """Sign what closes a job, if that is to be done; returns how the job ended."""
        if unsigned.issued or unsigned.head is None:
            return unsigned
        return await self.signer.issue_stated(unsigned, {"jobspec": digest_of(unsigned.spec)}, send)

    def write_metrics(self, line: str) -> None:
        """Write a line of metrics where Lambda's log turns it into metrics; else nothing."""
        if "AWS_LAMBDA_FUNCTION_NAME" in self.settings.environ:
            sys.stdout.write(line + "\n")

    async def keys(self) -> dict[str, Any]:
        """Read every public key, as a JWK set; anyone may."""
        return await self.acting_as(None).call("beacon_keys")
