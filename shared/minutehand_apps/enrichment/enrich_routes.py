"""The buttons: enrich one account, one contact, or a selection of accounts.

Which records exist for the caller, and what is already under way, is decided in SQL.
"""

from __future__ import annotations

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, Field, model_validator

from minutehand.queue.models import Job
from minutehand.web.auth import SignedIn
from minutehand.web.services import Provided
from minutehand.web.uploads import Body
from minutehand_apps.enrichment.models import Kind
from minutehand_apps.enrichment.services import Enrichment

MAX_SELECTION = 1000


class AccountFilter(Body):
    """Which accounts; conditions are joined by and. Accounts without a domain never match."""

    enriched: bool | None = Field(default=None, description="Enriched before, or never.")
    industry: Annotated[str, Field(max_length=500)] | None = None
    country: Annotated[str, Field(max_length=200)] | None = None
    created_after: AwareDatetime | None = None


class EnrichSelection(Body):
    """Accounts to enrich: chosen ones, or all that match a filter."""

    workspace_id: UUID
    account_ids: (
        Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_SELECTION)] | None
    ) = None
    filter: AccountFilter | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_SELECTION)] = MAX_SELECTION
    after: UUID | None = Field(default=None, description="`next` of the call before.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.account_ids is None) == (self.filter is None):
            raise ValueError("give account_ids or filter")
        return self


class SelectedJob(BaseModel):
    """The job of one account; `created` is false when one was under way already."""

    job: Job
    created: bool


class SelectionResult(BaseModel):
    """One job per account of the selection."""

    count: int
    created: int
    deduplicated: int
    jobs: list[SelectedJob]
    next: UUID | None = Field(default=None, description="Pass as `after` for the rest, if any.")


class EnrichRoutes:
    """The routes that enqueue enrichment."""

    def __init__(self, app: Enrichment) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        found: dict[int | str, dict[str, Any]] = {
            200: {"model": Job, "description": "Already running: its job."}
        }
        for kind, route in (("account", self.enrich_account), ("contact", self.enrich_contact)):
            router.add_api_route(
                f"/{kind}s/{{{kind}_id}}/enrich",
                route,
                methods=["POST"],
                status_code=201,
                response_model=Job,
                responses=found,
            )
        router.add_api_route(
            "/accounts/enrich", self.enrich_accounts, methods=["POST"], status_code=201
        )

    async def enrich_account(
        self, account_id: UUID, caller: SignedIn, services: Provided, response: Response
    ) -> Job:
        """Enrich one account."""
        return await self._enrich("account", account_id, caller, services, response)

    async def enrich_contact(
        self, contact_id: UUID, caller: SignedIn, services: Provided, response: Response
    ) -> Job:
        """Enrich one contact."""
        return await self._enrich("contact", contact_id, caller, services, response)

    async def enrich_accounts(
        self, body: EnrichSelection, caller: SignedIn, services: Provided
    ) -> SelectionResult:
        """Enrich a selection: one job per account, none where one is under way."""
        selection: dict[str, Any] = body.model_dump(
            mode="json", exclude_none=True, exclude={"workspace_id"}
        )
        answer = await self._app.acting_as(caller.token).call(
            "enrich_accounts", workspace_id=body.workspace_id, selection=selection
        )
        if answer["wake"]:
            await services.waker.wake()
        created = sum(made["created"] for made in answer["jobs"])
        return SelectionResult(
            count=answer["count"],
            created=created,
            deduplicated=answer["count"] - created,
            jobs=answer["jobs"],
            next=answer["next"],
        )

    async def _enrich(
        self, kind: Kind, record_id: UUID, caller: SignedIn, services: Provided, response: Response
    ) -> Job:
        named: dict[str, Any] = {f"{kind}_id": record_id}
        answer = await self._app.acting_as(caller.token).call(f"enrich_{kind}", **named)
        if answer["wake"]:
            await services.waker.wake()
        if not answer["created"]:
            response.status_code = 200
        job = Job.model_validate(answer["job"])
        response.headers["Location"] = f"/api/jobs/{job.id}"
        return job
