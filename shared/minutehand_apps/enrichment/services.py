"""Dependencies of the app: the encryption of API keys, and the Apollo client of a workspace.

A process has one instance, which creates each dependency at its first use.
"""

from functools import cached_property

import httpx

from minutehand.aws import Sealer, make_sealer, row_context
from minutehand.config import Settings, read_flag, read_url
from minutehand.queue import Dependencies, outbound_http
from minutehand_apps.enrichment.apollo_http import HttpApollo
from minutehand_apps.enrichment.apollo_offline import KEY_PREFIX, OfflineApollo

#: Client of one workspace. Each method may raise an `ApolloError`.
ApolloClient = HttpApollo | OfflineApollo


class Enrichment(Dependencies):
    """The app's dependencies in one process.

    Args:
        offline_call_seconds: Seconds of a call of the offline client. The specification requires 1.
    """

    def __init__(self, settings: Settings, *, offline_call_seconds: float = 1.0) -> None:
        super().__init__(settings)
        environ = settings.environ
        self._offline_call_seconds = offline_call_seconds
        self._use_mock = read_flag(environ, "USE_MOCK_APOLLO")
        self._base_url = read_url(environ, "APOLLO_BASE_URL") or "https://api.apollo.io/api/v1"

    @cached_property
    def sealer(self) -> Sealer:
        """The sealer, which encrypts the API keys of workspaces."""
        return make_sealer(self.settings)

    def apollo(self, api_key: str, *, response_seconds: float = 20.0) -> ApolloClient:
        """Return an Apollo client with a workspace's API key."""
        if self._use_mock:
            return OfflineApollo(api_key, call_seconds=self._offline_call_seconds)
        return HttpApollo(
            api_key, http=self._vendor, base_url=self._base_url, response_seconds=response_seconds
        )

    @cached_property
    def _vendor(self) -> httpx.AsyncClient:
        # use one HTTP client for all keys, which shares connections and reads root certificates
        # once
        return outbound_http.connect()

    async def seal(self, workspace_id: str, api_key: str) -> str:
        """Encrypt an API key for this workspace."""
        return await self.sealer.seal(api_key, context=key_context(workspace_id))

    async def unseal(self, workspace_id: str, sealed: str) -> str:
        """Decrypt the API key of a workspace.

        With the offline client, a key `test-key-…` that is stored as plain text is returned
        unchanged, because such a key is not secret.

        Raises:
            SealBroken: The key was encrypted for another workspace or changed, or its KMS key was
                deleted.
        """
        if sealed.startswith(KEY_PREFIX) and self._use_mock:
            return sealed
        return await self.sealer.open(sealed, context=key_context(workspace_id))


def key_context(workspace_id: str) -> dict[str, str]:
    """Return the encryption context of an Apollo key, which a decryption of the key requires."""
    return row_context(field="apollo_api_key", workspace_id=workspace_id)
