"""Routes by which managers invite and remove people, and people answer invitations."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path

from minutehand.functions.jobs.models import Body
from minutehand.queue.members import (
    AnsweredInvitation,
    Invitations,
    Members,
    OwnInvitations,
    Role,
    SetMember,
    WorkspaceMembers,
)
from minutehand.web.auth import SignedIn
from minutehand.web.caller import Caller
from minutehand.web.services import Provided, Services

_MEMBERS = "/api/workspaces/{workspace_id:uuid}/members"
_INVITATION = "/api/invitations/{workspace_id:uuid}"
router = APIRouter(tags=["workspaces"])

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


@router.get(_MEMBERS)
async def list_members(workspace_id: UUID, caller: SignedIn, services: Provided) -> Members:
    """The members; for managers also open invitations and the last 50 changes."""
    return await people(services, caller, workspace_id).list()


@router.put(_MEMBERS + "/{email}")
async def set_member(
    workspace_id: UUID, email: Email, body: MemberBody, caller: SignedIn, services: Provided
) -> SetMember:
    """Invite a person, who joins by accepting, or change a member's role."""
    return await people(services, caller, workspace_id).set(email, role=body.role)


@router.delete(_MEMBERS + "/{member}", status_code=204)
async def remove_member(
    workspace_id: UUID, member: Person, caller: SignedIn, services: Provided
) -> None:
    """Remove a person or withdraw an invitation; the last manager stays."""
    await people(services, caller, workspace_id).remove(member)


@router.get("/api/invitations")
async def list_invitations(caller: SignedIn, services: Provided) -> OwnInvitations:
    """Workspaces that want to add the caller."""
    return await Invitations(services.queue_of(caller)).list()


@router.post(_INVITATION + "/accept")
async def accept_invitation(
    workspace_id: UUID, caller: SignedIn, services: Provided
) -> AnsweredInvitation:
    """Join a workspace."""
    return await Invitations(services.queue_of(caller)).answer(str(workspace_id), accept=True)


@router.post(_INVITATION + "/decline")
async def decline_invitation(
    workspace_id: UUID, caller: SignedIn, services: Provided
) -> AnsweredInvitation:
    """Refuse to join a workspace."""
    return await Invitations(services.queue_of(caller)).answer(str(workspace_id), accept=False)
