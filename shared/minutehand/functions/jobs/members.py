"""Routes by which managers of a workspace add, invite and remove people."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path

from minutehand.functions.jobs.models import Body
from minutehand.queue.members import Members, Role, SetMember, WorkspaceMembers
from minutehand.web.auth import SignedIn
from minutehand.web.caller import Caller
from minutehand.web.services import Provided, Services

router = APIRouter(prefix="/api/workspaces/{workspace_id:uuid}/members", tags=["workspaces"])

Email = Annotated[str, Path(min_length=3, max_length=254, description="A mail address.")]
Person = Annotated[
    str, Path(min_length=3, max_length=254, description="A mail address, or a user's id.")
]


class MemberBody(Body):
    """What the person may do."""

    role: Role = "member"


def people(services: Services, caller: Caller, workspace_id: UUID) -> WorkspaceMembers:
    """The workspace's people as the caller may see and change them."""
    return WorkspaceMembers(services.queue_of(caller), str(workspace_id))


@router.get("")
async def list_members(workspace_id: UUID, caller: SignedIn, services: Provided) -> Members:
    """The members; for managers also open invitations and the last 50 changes."""
    return await people(services, caller, workspace_id).list()


@router.put("/{email}")
async def set_member(
    workspace_id: UUID, email: Email, body: MemberBody, caller: SignedIn, services: Provided
) -> SetMember:
    """Add a person or change their role; without an account they join at their first sign-in."""
    return await people(services, caller, workspace_id).set(email, role=body.role)


@router.delete("/{member}", status_code=204)
async def remove_member(
    workspace_id: UUID, member: Person, caller: SignedIn, services: Provided
) -> None:
    """Remove a person or withdraw an invitation; the last manager stays."""
    await people(services, caller, workspace_id).remove(member)
