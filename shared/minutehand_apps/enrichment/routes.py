"""The app's routes for settings and enrichment, which the `jobs` function finds and serves.

Each route calls a SQL function with the caller's token. SQL decides what the caller may do.
"""

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response

from minutehand.queue import CallerFunctions, Job
from minutehand.web import Provided, Services, UserFunctions
from minutehand_apps.enrichment.models import Kind
from minutehand_apps.enrichment.settings_routes import routes


async def enrich(
    kind: Kind, record_id: UUID, functions: CallerFunctions, services: Services, response: Response
) -> Job:
    """Enqueue the enrichment of a record.

    If an enrichment already runs, return its job with status 200.
    """
    record: dict[str, Any] = {f"{kind}_id": record_id}
    answer = await functions.call(f"enrich_{kind}", **record)
    if answer["wake"]:
        await services.waker.wake()
    if not answer["created"]:
        response.status_code = 200
    job = Job.model_validate(answer["job"])
    response.headers["Location"] = f"/api/jobs/{job.id}"
    return job


RUNNING: dict[int | str, dict[str, Any]] = {
    200: {"model": Job, "description": "The job that is already running."}
}


@routes.post("/accounts/{account_id}/enrich", status_code=201, responses=RUNNING)
async def enrich_account(
    account_id: UUID, functions: UserFunctions, services: Provided, response: Response
) -> Job:
    """Enrich an account."""
    return await enrich("account", account_id, functions, services, response)


@routes.post("/contacts/{contact_id}/enrich", status_code=201, responses=RUNNING)
async def enrich_contact(
    contact_id: UUID, functions: UserFunctions, services: Provided, response: Response
) -> Job:
    """Enrich a contact."""
    return await enrich("contact", contact_id, functions, services, response)


def router(_: Services) -> APIRouter:
    """Return the app's routes."""
    return routes
