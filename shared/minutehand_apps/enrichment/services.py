"""Dependencies of the app: the sealer, and the Apollo client of a workspace.

Each process has one set, and connects to or unseals a dependency on first use.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.aws import Sealer, make_sealer, row_context
from minutehand.config import Settings, read_flag, read_url
from minutehand.queue import Dependencies
from minutehand_apps.enrichment.apollo import ApolloClient
from minutehand_apps.enrichment.apollo_offline import KEY_PREFIX, OfflineApollo

if TYPE_CHECKING:
    import httpx


class Enrichment(Dependencies):
    """Dependencies of one process.

    Args:
        offline_call_seconds: Duration of a call of the offline client. The guide requires 1.
    """

    def __init__(self, settings: Settings, *, offline_call_seconds: float = 1.0) -> None:
        super().__init__(settings)
        environ = settings.environ
        self._offline_call_seconds = offline_call_seconds
        self._use_mock = read_flag(environ, "USE_MOCK_APOLLO")
        self._base_url = read_url(environ, "APOLLO_BASE_URL") or "https://api.apollo.io/api/v1"

    @cached_property
    def sealer(self) -> Sealer:
        """The sealer of the workspaces' keys."""
        return make_sealer(self.settings)

    def apollo(self, api_key: str, *, response_seconds: float = 20.0) -> ApolloClient:
        """Create a workspace's client."""
        if self._use_mock:
            return OfflineApollo(api_key, call_seconds=self._offline_call_seconds)
        # Imported here, so that workers with the offline client do not load httpx.
        from minutehand_apps.enrichment.apollo_http import HttpApollo

        return HttpApollo(
            api_key, http=self._vendor, base_url=self._base_url, response_seconds=response_seconds
        )

    @cached_property
    def _vendor(self) -> httpx.AsyncClient:
        # One HTTP client for all keys, which keeps connections and reads the root certificates
        # once.
        from minutehand.queue import outbound_http

        return outbound_http.connect()

    async def seal(self, workspace_id: str, api_key: str) -> str:
        """Seal a key for this workspace."""
        return await self.sealer.seal(api_key, context=key_context(workspace_id))

    async def unseal(self, workspace_id: str, sealed: str) -> str:
        """Unseal a workspace's key.

        With the offline client a `test-key-…` that was stored as plain text is returned unchanged,
        because it is not secret.

        Raises:
            SealBroken: The key was sealed for another workspace, changed, or its KMS key was
            deleted.
        """
        if sealed.startswith(KEY_PREFIX) and self._use_mock:
            return sealed
        return await self.sealer.open(sealed, context=key_context(workspace_id))


def key_context(workspace_id: str) -> dict[str, str]:
    """Return the context of a sealed Apollo key, without which the key cannot be unsealed."""
    return row_context(field="apollo_api_key", workspace_id=workspace_id)
