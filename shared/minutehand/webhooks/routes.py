"""The routes of `/api/workspaces/{workspace_id}/webhooks`.

Each route calls one SQL function with the caller's token. SQL decides which calls only a manager
may make.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from minutehand.web.auth import SignedIn, WorkspaceQueue
from minutehand.web.errors import unavailable_if_missing
from minutehand.web.request_bodies import Body
from minutehand.web.services import Provided, Services
from minutehand.webhooks.secrets import NewSecret, WebhookSecrets

_routes = APIRouter(prefix="/api/workspaces/{workspace_id:uuid}/webhooks", tags=["workspaces"])


def router(_: Services) -> APIRouter:
    """Return the routes of webhooks."""
    return _routes


class WebhookChanges(Body):
    """Changes to a webhook.

    A list of types that is null selects all types. An omitted field keeps its value.
    """

    url: str | None = None
    description: str | None = None
    event_types: tuple[str, ...] | None = None
    job_types: tuple[str, ...] | None = None
    enabled: bool | None = None


class WebhookBody(WebhookChanges):
    """A new webhook. Without lists of types, the webhook gets each state change of each job."""

    url: str
    enabled: bool = True


async def _new_secret(workspace_id: UUID, _: SignedIn, services: Provided) -> NewSecret:
    """Create a signing secret, and encrypt it for the workspace."""
    secrets = services.provide(WebhookSecrets, lambda: WebhookSecrets(services.settings))
    with unavailable_if_missing("the key service"):
        return await secrets.create(str(workspace_id))


Secret = Annotated[NewSecret, Depends(_new_secret)]


@_routes.get("")
async def list_webhooks(queue: WorkspaceQueue) -> dict[str, Any]:
    """List webhooks with their failures, and why a webhook is disabled. Secrets are omitted."""
    return await queue("list_webhooks")


@_routes.post("", status_code=201)
async def create_webhook(
    body: WebhookBody, queue: WorkspaceQueue, secret: Secret, request: Request, response: Response
) -> dict[str, Any]:
    """Create a webhook. Only the response to the creation contains the webhook's signing secret."""
    webhook = {**body.model_dump(mode="json"), "sealed_secret": secret.sealed}
    created = await queue("put_webhook", repeatable=False, webhook=webhook)
    response.headers["Location"] = f"{request.scope['path']}/{created['id']}"
    return {**created, "secret": secret.plain}


@_routes.patch("/{webhook_id:uuid}")
async def change_webhook(
    webhook_id: UUID, body: WebhookChanges, queue: WorkspaceQueue
) -> dict[str, Any]:
    """Change the fields of a webhook that the body contains.

    A change with `enabled` set to true also resets the webhook's failures.
    """
    webhook = {**body.model_dump(mode="json", exclude_unset=True), "id": str(webhook_id)}
    return await queue("put_webhook", webhook=webhook)


@_routes.post("/{webhook_id:uuid}/rotate-secret")
async def rotate_secret(webhook_id: UUID, queue: WorkspaceQueue, secret: Secret) -> dict[str, Any]:
    """Create a new signing secret. For one day, messages are also signed with the old secret."""
    webhook = {"id": str(webhook_id), "sealed_secret": secret.sealed}
    changed = await queue("put_webhook", repeatable=False, webhook=webhook)
    return {**changed, "secret": secret.plain}


@_routes.post("/{webhook_id:uuid}/test", status_code=202)
async def test_webhook(
    webhook_id: UUID, queue: WorkspaceQueue, services: Provided
) -> dict[str, Any]:
    """Send the workspace's latest event to the webhook.

    `job_id` in the response is the id of the delivery's job.
    """
    delivery = await queue("test_webhook", repeatable=False, webhook_id=str(webhook_id))
    await services.waker.wake()
    return delivery


@_routes.delete("/{webhook_id:uuid}", status_code=204)
async def delete_webhook(webhook_id: UUID, queue: WorkspaceQueue) -> None:
    """Delete a webhook and its pending deliveries."""
    await queue("delete_webhook", repeatable=False, webhook_id=str(webhook_id))
