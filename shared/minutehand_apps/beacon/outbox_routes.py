"""The outbox over HTTP: what waits in it, its dead letters, and publishing those again."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, Field

from minutehand.web.auth import SignedIn
from minutehand.web.services import Provided
from minutehand_apps.beacon.job_routes import Cursor, Limit, WorkspaceFilter, page
from minutehand_apps.beacon.models import Exact
from minutehand_apps.beacon.services import Beacon

OutboxStatus = Literal["pending", "published", "dead", "cancelled"]


class OutboxEntry(BaseModel):
    """A message about a job on its way into the queue."""

    id: UUID
    workspace_id: UUID
    job_id: UUID
    message: dict[str, Any]
    status: OutboxStatus
    attempts: int
    next_attempt_at: AwareDatetime
    error: str | None
    queue_job_id: UUID | None
    created_at: AwareDatetime
    published_at: AwareDatetime | None


class OutboxPage(BaseModel):
    """Messages, newest first."""

    messages: list[OutboxEntry]
    next: str | None = Field(description="Pass as `cursor` for more; null at the end.")


class Redrive(Exact):
    """Which dead letters to publish again."""

    workspace_id: UUID | None = Field(
        default=None, description="Needed by members of several workspaces."
    )
    ids: list[UUID] | None = Field(
        default=None, max_length=500, description="Messages or jobs; all when absent."
    )


class Redriven(BaseModel):
    """How many dead letters are pending again; at most 500 at a time."""

    count: int


class OutboxRoutes:
    """The routes below `/api/v1/outbox`."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.add_api_route("/outbox", self.list_messages, methods=["GET"])
        router.add_api_route("/outbox/redrive", self.redrive, methods=["POST"])

    async def list_messages(
        self,
        caller: SignedIn,
        workspace_id: WorkspaceFilter = None,
        status: OutboxStatus | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> OutboxPage:
        """Messages of a workspace, newest first; `status=dead` are dead letters."""
        rows, more = await page(
            self._app.acting_as(caller.token),
            "beacon_outbox",
            OutboxEntry,
            [("status", f"eq.{status}")] if status is not None else [],
            workspace_id=workspace_id,
            cursor=cursor,
            limit=limit,
        )
        return OutboxPage(messages=rows, next=more)

    async def redrive(self, body: Redrive, caller: SignedIn, services: Provided) -> Redriven:
        """Publish dead letters again; their jobs become `created` again."""
        answer = await self._app.acting_as(caller.token).call(
            "beacon_redrive", workspace_id=body.workspace_id, ids=body.ids
        )
        if answer["wake"]:
            await services.waker.wake()
        return Redriven(count=answer["count"])
