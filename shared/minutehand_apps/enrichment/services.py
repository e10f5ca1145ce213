"""What enrichment works with: its store, the sealer, and the Apollo client a workspace uses.

Made once per process; nothing is connected or unwrapped before it is needed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.aws import Sealer, make_sealer, row_context
from minutehand.config import Settings
from minutehand.queue import Dependencies
from minutehand_apps.enrichment.apollo import ApolloClient
from minutehand_apps.enrichment.apollo_offline import KEY_PREFIX, OfflineApollo
from minutehand_apps.enrichment.settings import ApolloSettings
from minutehand_apps.enrichment.store import WorkerStore

if TYPE_CHECKING:
    import httpx


class Enrichment(Dependencies):
    """Dependencies of one process.

    Args:
        offline_call_seconds: How long the offline Apollo takes to answer; the contract says 1.
    """

    def __init__(self, settings: Settings, *, offline_call_seconds: float = 1.0) -> None:
        super().__init__(settings)
        self._offline_call_seconds = offline_call_seconds

    @cached_property
    def store(self) -> WorkerStore:
        """The worker's functions."""
        return WorkerStore(self.settings)

    @cached_property
    def sealer(self) -> Sealer:
        """Seals and opens workspaces' keys."""
        return make_sealer(self.settings)

    @cached_property
    def vendor(self) -> ApolloSettings:
        """What the environment says about Apollo."""
        return ApolloSettings.from_env(self.settings.environ)

    def is_offline(self, mode: str | None) -> bool:
        """Whether a workspace with this setting talks to the offline Apollo."""
        return mode == "offline" or (mode is None and self.vendor.use_mock)

    def apollo(
        self, api_key: str, *, mode: str | None, answer_seconds: float = 20.0
    ) -> ApolloClient:
        """Make the client a workspace's settings ask for; `None` takes the deployment's."""
        if self.is_offline(mode):
            return OfflineApollo(api_key, call_seconds=self._offline_call_seconds)
        # here and not at the top: a worker on the offline client need not load it
        from minutehand_apps.enrichment.apollo_http import HttpApollo

        return HttpApollo(
            api_key, http=self._vendor, base_url=self.vendor.base_url, answer_seconds=answer_seconds
        )

    @cached_property
    def _vendor(self) -> httpx.AsyncClient:
        # one for all keys: making one reads every root certificate, and connections are kept
        from minutehand.queue import outbound_http

        return outbound_http.connect()

    async def seal(self, workspace_id: str, api_key: str) -> str:
        """Seal a key for this workspace alone."""
        return await self.sealer.seal(api_key, context=key_context(workspace_id))

    async def unseal(self, workspace_id: str, sealed: str, *, mode: str | None) -> str:
        """Open a workspace's key.

        A `test-key-…` that was stored by plain SQL is used unchanged where the offline
        client answers: it is not secret, and no vendor would accept it.

        Raises:
            SealBroken: It was sealed for another workspace, or altered, or its key was deleted.
        """
        if sealed.startswith(KEY_PREFIX) and self.is_offline(mode):
            return sealed
        return await self.sealer.open(sealed, context=key_context(workspace_id))


def key_context(workspace_id: str) -> dict[str, str]:
    """What a sealed Apollo key is bound to, so that it opens in no other row."""
    return row_context(field="apollo_api_key", workspace_id=workspace_id)
