"""The routes for a workspace's settings. The Apollo key can be written but never read.

SQL decides, with the caller's token, who may read and change settings.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, SecretStr

from minutehand.aws import SealBroken
from minutehand.web import ApiError, Body, SignedIn, unavailable_if_missing
from minutehand_apps.enrichment.apollo import ApolloError
from minutehand_apps.enrichment.services import Enrichment

TEST_SECONDS = 8.0
"""Time limit of a connection test."""


def _checked_key(key: SecretStr) -> SecretStr:
    text = key.get_secret_value().strip()
    if not 8 <= len(text) <= 200 or not all("!" <= sign <= "~" for sign in text):
        raise ValueError("must be 8 to 200 visible ASCII characters without spaces")
    return SecretStr(text)


ApiKey = Annotated[SecretStr, AfterValidator(_checked_key)]


class KeyState(BaseModel):
    """True if there is a key, and its last four characters."""

    configured: bool
    last4: str | None = None


class WorkspaceSettings(BaseModel):
    """A workspace's settings for its members."""

    workspace_id: UUID
    apollo_api_key: KeyState
    apollo_client: Literal["apollo", "offline"] | None = Field(
        default=None, description="null for the deployment's setting."
    )
    apollo_auto_enrich: bool
    apollo_paused_until: AwareDatetime | None = Field(
        default=None, description="End of the wait that Apollo requested for this key."
    )
    enrichment_credits_used: int
    enrichment_calls_unanswered: int = Field(
        description="Calls without a response, which may or may not have cost a credit."
    )
    can_manage: bool
    updated_at: AwareDatetime | None = None


class ChangeSettings(Body):
    """Changes of settings. Omitted fields keep their values."""

    apollo_api_key: ApiKey = Field(default=SecretStr(""), description="A new key.")
    apollo_client: Literal["apollo", "offline"] | None = None
    apollo_auto_enrich: bool = False


class TestConnection(Body):
    """The key to test."""

    apollo_api_key: ApiKey | None = Field(
        default=None, description="A key to test. Default: the stored key."
    )


class ConnectionTest(BaseModel):
    """Result of a connection test."""

    ok: bool
    source: Literal["apollo", "offline"] | None = None
    credits_remaining: int | None = Field(
        default=None, description="null if the key may not read its balance."
    )
    reason: str | None = Field(
        default=None,
        description="not_configured, wrong_key, rate_limited, out_of_credits, unreachable, …",
    )
    message: str | None = None


class SettingsRoutes:
    """The routes below `/api/workspaces/{workspace_id}/settings`."""

    def __init__(self, app: Enrichment) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        path = "/workspaces/{workspace_id}/settings"
        add(path, self.get_settings, methods=["GET"])
        add(path, self.put_settings, methods=["PUT"])
        add(path, self.delete_key, methods=["DELETE"])
        add(f"{path}/test-connection", self.test_connection, methods=["POST"])

    async def get_settings(self, workspace_id: UUID, caller: SignedIn) -> WorkspaceSettings:
        """Return a workspace's settings."""
        return WorkspaceSettings.model_validate(
            await self._app.acting_as(caller.token).call(
                "get_workspace_settings", workspace_id=workspace_id
            )
        )

    async def put_settings(
        self, workspace_id: UUID, body: ChangeSettings, caller: SignedIn
    ) -> WorkspaceSettings:
        """Change settings. For managers. A new Apollo key replaces the old key immediately."""
        await self._require_manager(workspace_id, caller)
        names = body.model_fields_set
        changes = body.model_dump(include=names - {"apollo_api_key"})
        if "apollo_api_key" in names:
            key = body.apollo_api_key.get_secret_value()
            with unavailable_if_missing("the key service"):
                sealed = await self._app.seal(str(workspace_id), key)
            changes |= {"sealed_key": sealed, "last4": key[-4:]}
        return await self._put(workspace_id, changes, caller)

    async def delete_key(self, workspace_id: UUID, caller: SignedIn) -> WorkspaceSettings:
        """Remove the Apollo key. For managers."""
        return await self._put(workspace_id, {"sealed_key": None, "last4": None}, caller)

    async def test_connection(
        self, workspace_id: UUID, caller: SignedIn, body: TestConnection | None = None
    ) -> ConnectionTest:
        """Test the stored key, or a key that is not stored yet, without spending a credit."""
        settings = await self._require_manager(workspace_id, caller)
        mode = settings.apollo_client
        if body is not None and body.apollo_api_key is not None:
            return await self._try_key(body.apollo_api_key.get_secret_value(), mode)
        stored = await self._app.acting_as(caller.token).call(
            "get_sealed_apollo_key", workspace_id=workspace_id
        )
        sealed: str | None = stored["sealed_key"]
        if sealed is None:
            return ConnectionTest(
                ok=False,
                reason="not_configured",
                message="Apollo API key not configured for this workspace",
            )
        try:
            with unavailable_if_missing("the key service"):
                key = await self._app.unseal(str(workspace_id), sealed, mode=mode)
        except SealBroken:
            return ConnectionTest(
                ok=False, reason="unreadable_key", message="Enter the Apollo API key again"
            )
        return await self._try_key(key, mode)

    async def _put(
        self, workspace_id: UUID, changes: dict[str, Any], caller: SignedIn
    ) -> WorkspaceSettings:
        return WorkspaceSettings.model_validate(
            await self._app.acting_as(caller.token).call(
                "put_workspace_settings",
                workspace_id=workspace_id,
                changes=changes,
                repeatable=False,
            )
        )

    async def _require_manager(self, workspace_id: UUID, caller: SignedIn) -> WorkspaceSettings:
        settings = await self.get_settings(workspace_id, caller)
        if not settings.can_manage:
            raise ApiError(403, "forbidden", "Only a manager of the workspace may do this")
        return settings

    async def _try_key(self, key: str, mode: str | None) -> ConnectionTest:
        client = self._app.apollo(key, mode=mode, response_seconds=TEST_SECONDS)
        try:
            usage = await client.usage()
        except ApolloError as error:
            return ConnectionTest(
                ok=False, source=client.source, reason=error.code, message=error.said
            )
        return ConnectionTest(
            ok=True, source=usage.source, credits_remaining=usage.credits_remaining
        )
