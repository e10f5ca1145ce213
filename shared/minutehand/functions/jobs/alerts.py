"""Routes for the thresholds of a workspace; SQL decides what they mean and who may set them.

A threshold that is reached sends a signed webhook and mail, see minutehand.webhooks.alerts.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import Field

from minutehand.functions.jobs.models import Body, Name
from minutehand.functions.jobs.steering import steering
from minutehand.queue.steering import Alert, AlertMetric
from minutehand.web.auth import SignedIn
from minutehand.web.services import Provided

router = APIRouter(prefix="/api/workspaces/{workspace_id:uuid}", tags=["workspaces"])

#: Whole paths, because a name may hold a slash.
AlertName = Annotated[str, Path(min_length=1, max_length=100)]
Address = Annotated[str, Field(min_length=3, max_length=320)]


class AlertBody(Body):
    """A threshold, whose name is in the path; omitted fields take their defaults."""

    metric: AlertMetric
    threshold: Annotated[float, Field(ge=0, le=1e9, description="Fires at this value or above.")]
    minutes: Annotated[int, Field(ge=1, le=1440, description="Window that is counted.")] = 15
    job_type: Name | None = None
    mail: Annotated[
        tuple[Address, ...], Field(max_length=50, description="Members of the workspace.")
    ] = ()
    whole: Annotated[bool, Field(description="Over all workspaces; an operator's.")] = False
    enabled: bool = True


class Alerts(Body):
    """A workspace's alerts, by name."""

    alerts: tuple[Alert, ...]


@router.get("/alerts")
async def list_alerts(workspace_id: UUID, caller: SignedIn, services: Provided) -> Alerts:
    """The thresholds by name, each with its last value and since when it is reached; at most 50."""
    return Alerts(alerts=await steering(services, caller, workspace_id).alerts())


@router.put("/alerts/{name:path}")
async def put_alert(
    workspace_id: UUID, name: AlertName, body: AlertBody, caller: SignedIn, services: Provided
) -> Alert:
    """Make or change the alert of that name; what it raises goes to webhooks and to `mail`."""
    return await steering(services, caller, workspace_id).put_alert(
        {**body.model_dump(mode="json"), "name": name}
    )


@router.delete("/alerts/{name:path}", status_code=204)
async def delete_alert(
    workspace_id: UUID, name: AlertName, caller: SignedIn, services: Provided
) -> None:
    """Remove an alert."""
    await steering(services, caller, workspace_id).delete_alert(name)
