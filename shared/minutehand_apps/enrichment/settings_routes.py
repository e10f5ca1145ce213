"""The routes for the settings of a workspace. The Apollo key can be stored but never read.

SQL decides by the caller's token who may read and change settings.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, SecretStr

from minutehand.aws import SealBroken
from minutehand.queue import CallerFunctions, reading
from minutehand.web import Body, Provided, UserFunctions, unavailable_if_missing
from minutehand_apps.enrichment.apollo import ApolloError, Source
from minutehand_apps.enrichment.services import Enrichment

TEST_SECONDS = 8.0
"""Maximum seconds of a test of an API key."""


def _checked_key(key: SecretStr) -> SecretStr:
    text = key.get_secret_value().strip()
    if not 8 <= len(text) <= 200 or not all("!" <= sign <= "~" for sign in text):
        raise ValueError("must be 8 to 200 visible ASCII characters without spaces")
    return SecretStr(text)


ApiKey = Annotated[SecretStr, AfterValidator(_checked_key)]


class KeyState(BaseModel):
    """Presence of a stored API key, and the last four characters of the key."""

    configured: bool
    last4: str | None = None


class WorkspaceSettings(BaseModel):
    """The settings of a workspace in the form that its members see."""

    workspace_id: UUID
    apollo_api_key: KeyState
    apollo_auto_enrich: bool
    enrichment_credits_used: int
    enrichment_calls_unanswered: int = Field(
        description="Calls without a response, which may or may not have cost a credit."
    )
    can_manage: bool
    updated_at: AwareDatetime | None = None


class ChangeSettings(Body):
    """Changes to the settings of a workspace. An omitted field keeps its value."""

    apollo_api_key: ApiKey = Field(default=SecretStr(""), description="A new key.")
    apollo_auto_enrich: bool = False


class TestConnection(Body):
    """The API key to test."""

    apollo_api_key: ApiKey | None = Field(
        default=None, description="A key to test. Default: the stored key."
    )


class ConnectionTest(BaseModel):
    """Result of the test of an API key."""

    ok: bool
    source: Source | None = None
    credits_remaining: int | None = Field(
        default=None, description="null if the key may not read its balance."
    )
    reason: str | None = Field(
        default=None,
        description="not_configured, wrong_key, rate_limited, out_of_credits, unreachable, …",
    )
    message: str | None = None


async def _provided(services: Provided) -> Enrichment:
    return services.provide(Enrichment, lambda: Enrichment(services.settings))


App = Annotated[Enrichment, Depends(_provided)]
routes = APIRouter(prefix="/api", tags=["enrichment"])
PATH = "/workspaces/{workspace_id}/settings"


@routes.get(PATH)
async def get_settings(workspace_id: UUID, functions: UserFunctions) -> WorkspaceSettings:
    """Return the settings of a workspace."""
    return await functions.call(
        "get_workspace_settings", parse=reading(WorkspaceSettings), workspace_id=workspace_id
    )


@routes.put(PATH)
async def put_settings(
    workspace_id: UUID, body: ChangeSettings, functions: UserFunctions, app: App
) -> WorkspaceSettings:
    """Change settings, as a manager. A new Apollo key replaces the previous key immediately."""
    names = body.model_fields_set
    changes = body.model_dump(include=names - {"apollo_api_key"})
    if "apollo_api_key" in names:
        key = body.apollo_api_key.get_secret_value()
        with unavailable_if_missing("the key service"):
            sealed = await app.seal(str(workspace_id), key)
        changes |= {"sealed_key": sealed, "last4": key[-4:]}
    return await _put(workspace_id, changes, functions)


@routes.delete(PATH)
async def delete_key(workspace_id: UUID, functions: UserFunctions) -> WorkspaceSettings:
    """Remove the Apollo key, as a manager."""
    return await _put(workspace_id, {"sealed_key": None, "last4": None}, functions)


@routes.post(f"{PATH}/test-connection")
async def check_connection(
    workspace_id: UUID, functions: UserFunctions, app: App, body: TestConnection | None = None
) -> ConnectionTest:
    """Test the stored API key, or a key that is not stored yet. The test uses no credit."""
    # this call also refuses a test by someone who is not a manager
    stored = await functions.call("get_sealed_apollo_key", workspace_id=workspace_id)
    if body is not None and body.apollo_api_key is not None:
        key = body.apollo_api_key.get_secret_value()
    elif stored["sealed_key"] is None:
        message = "Apollo API key not configured for this workspace"
        return ConnectionTest(ok=False, reason="not_configured", message=message)
    else:
        try:
            with unavailable_if_missing("the key service"):
                key = await app.unseal(str(workspace_id), stored["sealed_key"])
        except SealBroken:
            message = "Enter the Apollo API key again"
            return ConnectionTest(ok=False, reason="unreadable_key", message=message)
    client = app.apollo(key, response_seconds=TEST_SECONDS)
    try:
        usage = await client.usage()
    except ApolloError as error:
        return ConnectionTest(ok=False, source=client.source, reason=error.code, message=error.said)
    return ConnectionTest(ok=True, source=usage.source, credits_remaining=usage.credits_remaining)


async def _put(
    workspace_id: UUID, changes: dict[str, Any], functions: CallerFunctions
) -> WorkspaceSettings:
    return await functions.call(
        "put_workspace_settings",
        parse=reading(WorkspaceSettings),
        workspace_id=workspace_id,
        changes=changes,
        repeatable=False,
    )
