"""Routes for the thresholds of a workspace; SQL decides what they mean and who may set them.

A threshold that is reached sends a signed webhook, mail and a post to Slack: webhooks/alerts.py.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import Field

from minutehand.functions.jobs.models import Body, Name
from minutehand.functions.jobs.steering import Url, steering, webhook_secrets
from minutehand.queue.steering import Alert, Alerts
from minutehand.web.auth import SignedIn
from minutehand.web.errors import FieldProblem, validation_failed
from minutehand.web.foreign import standing_on
from minutehand.web.services import Provided, Services

router = APIRouter(prefix="/api/workspaces/{workspace_id:uuid}", tags=["workspaces"])

#: Whole paths, because a name may hold a slash.
AlertName = Annotated[str, Path(min_length=1, max_length=100)]
Address = Annotated[str, Field(min_length=3, max_length=320)]


class AlertPost(Body):
    """Where else it is posted: with the address anyone may post, so no answer shows it again."""

    format: Annotated[
        Literal["slack", "json"], Field(description="Slack's incoming webhooks, or plain JSON.")
    ]
    url: Url


class AlertBody(Body):
    """A threshold, whose name is in the path; omitted fields take their defaults."""

    metric: Name
    threshold: Annotated[float, Field(ge=0, le=1e9, description="Fires at this value or above.")]
    minutes: Annotated[int, Field(ge=1, le=1440, description="Window that is counted.")] = 15
    job_type: Name | None = None
    mail: Annotated[
        tuple[Address, ...], Field(max_length=50, description="Members of the workspace.")
    ] = ()
    post: Annotated[
        AlertPost | None, Field(description="Omitted, the address stays; null removes it.")
    ] = None
    whole: Annotated[bool, Field(description="Over all workspaces; an operator's.")] = False
    enabled: bool = True


@router.get("/alerts")
async def list_alerts(workspace_id: UUID, caller: SignedIn, services: Provided) -> Alerts:
    """The thresholds by name, with last values and since when they are reached; the metrics."""
    return await steering(services, caller, workspace_id).alerts()


@router.put("/alerts/{name:path}")
async def put_alert(
    workspace_id: UUID, name: AlertName, body: AlertBody, caller: SignedIn, services: Provided
) -> Alert:
    """Make or change the alert of that name; what it raises goes to webhooks and to `mail`."""
    alert = {**body.model_dump(mode="json", exclude={"post"}), "name": name}
    if "post" in body.model_fields_set:
        alert["post"] = body.post and await _sealed(services, workspace_id, body.post)
    return await steering(services, caller, workspace_id).put_alert(alert)


async def _sealed(services: Services, workspace_id: UUID, post: AlertPost) -> dict[str, str]:
    parts = urlsplit(post.url)
    is_local = services.settings.stage == "local"
    if parts.scheme not in {"https"} | ({"http"} if is_local else set()) or not parts.hostname:
        problem = FieldProblem(field="post.url", problem="must be an https address")
        raise validation_failed([problem])
    with standing_on("the key service"):
        sealed = await webhook_secrets(services).seal_address(str(workspace_id), post.url)
    return {"format": post.format, "host": parts.hostname, "sealed_url": sealed}


@router.delete("/alerts/{name:path}", status_code=204)
async def delete_alert(
    workspace_id: UUID, name: AlertName, caller: SignedIn, services: Provided
) -> None:
    """Remove an alert."""
    await steering(services, caller, workspace_id).delete_alert(name)
