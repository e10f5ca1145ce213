"""Who belongs to a workspace: members, invitations and the record of changes.

Who may do what is decided by the SQL functions, under the caller's own token.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.models import Model, WorkspaceId

Role = Literal["manager", "member"]


class Member(Model):
    """A person of the workspace; `email` is null where the account was deleted."""

    user_id: str
    email: str | None = None
    role: Role
    created_at: datetime


class Invitation(Model):
    """A person who may join until `expires_at`, by accepting."""

    email: str
    role: Role
    created_at: datetime
    expires_at: datetime
    invited_by: str | None = None


class MemberChange(Model):
    """What was changed and by whom; `actor` is null for the operator."""

    action: str
    email: str | None = None
    user_id: str | None = None
    role: Role | None = None
    actor: str | None = None
    actor_role: str
    created_at: datetime


class Members(Model):
    """All members of a workspace; invitations and changes only for managers."""

    workspace_id: WorkspaceId
    members: tuple[Member, ...]
    invitations: tuple[Invitation, ...] = ()
    changes: tuple[MemberChange, ...] = ()


class SetMember(Model):
    """A member whose role was set, or a person who is invited, with an account or without."""

    workspace_id: WorkspaceId
    email: str
    role: Role
    state: Literal["member", "invited"]


class OwnInvitation(Model):
    """A workspace that wants to add the caller."""

    workspace_id: WorkspaceId
    name: str
    role: Role
    invited_by: str | None = None
    created_at: datetime
    expires_at: datetime


class OwnInvitations(Model):
    """Workspaces that want to add the caller, the oldest first."""

    invitations: tuple[OwnInvitation, ...]


class AnsweredInvitation(Model):
    """What the caller said to an invitation."""

    workspace_id: WorkspaceId
    role: Role
    accepted: bool


class WorkspaceMembers:
    """The people of one workspace, under one user's token.

    Raises:
        QueueError: Each method, with word `workspace_not_found` for non-members,
            `forbidden` for members where a manager is needed, and `members_elsewhere` where the
            tenants are not tables of Minutehand.
    """

    def __init__(self, queue: UserQueue, workspace_id: WorkspaceId | str) -> None:
        self._queue = queue
        self._workspace_id = workspace_id

    async def list(self) -> Members:
        """Members, managers first; for managers also invitations and the last 50 changes."""
        return Members.model_validate(await self._ask("list_members"))

    async def set(self, email: str, *, role: Role) -> SetMember:
        """Invite a person, or change a member's role.

        Raises:
            QueueError: With word `invalid_argument`, or `last_manager`.
        """
        return SetMember.model_validate(await self._ask("set_member", p_email=email, p_role=role))

    async def remove(self, member: str) -> None:
        """Remove a person, or withdraw an invitation, by mail address or user id.

        Raises:
            QueueError: With word `member_not_found`, or `last_manager`.
        """
        await self._ask("remove_member", p_member=member, repeatable=False)

    async def _ask(self, function: str, *, repeatable: bool = True, **arguments: str) -> object:
        given = {"p_workspace_id": self._workspace_id, **arguments}
        return await _ask(self._queue, function, given, repeatable=repeatable)


class Invitations:
    """What one user is invited to, under that user's token.

    Raises:
        QueueError: Each method, with word `members_elsewhere` where the tenants are not tables of
            Minutehand.
    """

    def __init__(self, queue: UserQueue) -> None:
        self._queue = queue

    async def list(self) -> OwnInvitations:
        """Invitations to an address that is provably the user's, at most 100."""
        return OwnInvitations.model_validate(await _ask(self._queue, "list_invitations", {}))

    async def answer(self, workspace_id: WorkspaceId | str, *, accept: bool) -> AnsweredInvitation:
        """Join the workspace, or refuse to.

        Raises:
            QueueError: With word `invitation_not_found`.
        """
        function = "accept_invitation" if accept else "decline_invitation"
        given = {"p_workspace_id": str(workspace_id)}
        said = await _ask(self._queue, function, given, repeatable=False)
        return AnsweredInvitation.model_validate(said)


async def _ask(
    queue: UserQueue, function: str, given: dict[str, str], *, repeatable: bool = True
) -> object:
    try:
        return await queue._call(function, given, repeatable=repeatable)
    except QueueError as error:
        if error.code != "PGRST202":
            raise
        raise QueueError(
            "this project keeps its members in tables of its own",
            code="PT404",
            hint="members_elsewhere",
            status=404,
        ) from error
