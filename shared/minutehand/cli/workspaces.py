"""`minutehand workspaces`, `members` and `invitations`: the tenants, and who belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from minutehand.cli.invitations import send_invitation
from minutehand.project import Project
from minutehand.terminal.connection import FIXES, CommandFailed, Connection
from minutehand.terminal.options import by_itself, verb
from minutehand.terminal.output import Output, ago, headed

FIXES.update(
    {
        "last_manager": "minutehand members role MAIL manager, for another person, first",
        "workspace_exists": "`minutehand workspaces list` shows it; `minutehand members add` adds "
        "people to it",
        "PGRST202": "a migration is missing: `minutehand doctor --only migrations` shows which",
    }
)

TENANTS = {"existing": "own organizations and their members", "personal": "users"}
workspaces = typer.Typer(help="Create and list workspaces.", rich_markup_mode=None)
members = typer.Typer(
    help="List, add, promote and remove the people of a workspace.", rich_markup_mode=None
)
invitations = typer.Typer(
    help="List, accept and decline what you are invited to.", rich_markup_mode=None
)
Operator = Annotated[
    bool, typer.Option("--operator", help="Use SUPABASE_SECRET_KEY, even if you can sign in.")
]
Which = Annotated[str | None, typer.Option("--workspace", "-w", help="The workspace's name or id.")]
Mail = Annotated[str, typer.Argument(help="The person's mail address.")]
Mailed = Annotated[
    bool,
    typer.Option(
        "--mail",
        help="Have Supabase Auth mail a link to sign in with; needs SUPABASE_SECRET_KEY. "
        "It leads to CONSOLE_URL or API_URL, where the person accepts or declines.",
    ),
]
Role = Annotated[Literal["manager", "member"], typer.Option(help="manager or member.")]


@dataclass
class Session:
    """A connection, as a person or as the operator."""

    connection: Connection
    as_operator: bool

    @classmethod
    def of(cls, connection: Connection, *, operator: bool = False) -> Session:
        """A session of a project that keeps its own workspaces; the operator's without a person."""
        values = connection.values
        if (tenancy := Project.find(environ=values).tenancy) != "workspaces":
            raise CommandFailed(
                f"this project's tenants are its {TENANTS[tenancy]}: there is nothing to keep here",
                code="own_tenants",
                fix="add and remove them as your app does; minutehand.toml names the tenancy",
            )
        names = ("MINUTEHAND_TOKEN", "MINUTEHAND_EMAIL", "DEMO_EMAIL")
        is_person = connection.given_token or any(values.get(name) for name in names)
        alone = not is_person and bool(values.get("SUPABASE_SECRET_KEY"))
        return cls(connection, operator or alone)

    def ask(self, function: str, **arguments: Any) -> Any:
        """Call a SQL function."""
        return self.connection.rpc(function, arguments, as_operator=self.as_operator)

    def workspace(self, wanted: str | None) -> dict[str, Any]:
        """The workspace of that name or id; the only one where none is named."""
        found = self.ask("list_workspaces")["workspaces"]
        named = [row for row in found if wanted in (None, row["id"], row["name"])]
        if len(named) == 1:
            only: dict[str, Any] = named[0]
            return only
        listed = ", ".join(f"{row['name']} ({row['id']})" for row in found) or "none"
        raise CommandFailed(
            f"which workspace? there are: {listed}"
            if wanted is None
            else f"{wanted!r} must name exactly one workspace; there are: {listed}",
            code="workspace_needed",
            fix="pass --workspace with a name or id"
            if found
            else "minutehand workspaces create NAME --manager MAIL",
        )


@workspaces.command("create")
@verb
def create(
    output: Output,
    connection: Connection,
    name: Annotated[str, typer.Argument(help="The name people see.")],
    *,
    manager: Annotated[str, typer.Option(help="The first manager's mail address.")],
    mail: Mailed = False,
) -> None:
    """Make a workspace and its first manager; needs SUPABASE_SECRET_KEY."""
    session = Session.of(connection, operator=True)
    made = session.ask("create_workspace", p_name=name, p_manager=manager)
    mailed = send_invitation(connection, made["manager"]) if mail else None
    output.value(
        {**made, "mailed": mailed},
        text=f"{made['name']} is made, {made['id']}\n{_what(made['manager'], mailed)}",
    )


@by_itself(workspaces)
@workspaces.command("list")
@verb
def list_workspaces(output: Output, connection: Connection, *, operator: Operator = False) -> None:
    """List your workspaces; with the secret key, all."""
    rows = Session.of(connection, operator=operator).ask("list_workspaces")["workspaces"]
    columns = headed("name id members managers invitations:INVITED")
    output.table(rows, columns, empty="no workspaces", spare=("invitations", "managers"))


@by_itself(members)
@members.command("list")
@verb
def list_members(
    output: Output, connection: Connection, *, workspace: Which = None, operator: Operator = False
) -> None:
    """List who belongs to a workspace and who is invited."""
    session = Session.of(connection, operator=operator)
    found = session.ask("list_members", p_workspace_id=session.workspace(workspace)["id"])
    if output.answered(found):
        return
    rows = [
        {"who": row["email"] or row["user_id"], "role": row["role"], "state": "member"}
        for row in found["members"]
    ]
    rows += [
        {**row, "who": row["email"], "state": f"invited, ends {ago(row['expires_at'])}"}
        for row in found["invitations"]
    ]
    output.table(rows, headed("who:PERSON role state"), empty="no one")


@members.command("add")
@verb
def add(
    output: Output,
    connection: Connection,
    email: Mail,
    *,
    role: Role = "member",
    mail: Mailed = False,
    workspace: Which = None,
    operator: Operator = False,
) -> None:
    """Invite a person, who joins by accepting."""
    if mail:
        connection.need("SUPABASE_SECRET_KEY")
    made = _set(connection, email, role, workspace, operator)
    mailed = send_invitation(connection, made) if mail else None
    output.value({**made, "mailed": mailed}, text=_what(made, mailed))


@members.command("role")
@verb
def change_role(
    output: Output,
    connection: Connection,
    email: Mail,
    role: Annotated[Literal["manager", "member"], typer.Argument(help="manager or member.")],
    *,
    workspace: Which = None,
    operator: Operator = False,
) -> None:
    """Make a person a manager, or a plain member."""
    made = _set(connection, email, role, workspace, operator)
    output.value({**made, "mailed": None}, text=_what(made, None))


def _set(
    connection: Connection, email: str, role: str, workspace: str | None, operator: bool
) -> dict[str, Any]:
    session = Session.of(connection, operator=operator)
    chosen = session.workspace(workspace)["id"]
    made: dict[str, Any] = session.ask(
        "set_member", p_workspace_id=chosen, p_email=email, p_role=role
    )
    return made


@members.command("remove")
@verb
def remove(
    output: Output,
    connection: Connection,
    email: Annotated[str, typer.Argument(help="The person's mail address, or user id.")],
    *,
    workspace: Which = None,
    operator: Operator = False,
) -> None:
    """Remove a person, or withdraw an invitation; the last manager stays."""
    session = Session.of(connection, operator=operator)
    chosen = session.workspace(workspace)
    gone = session.ask("remove_member", p_workspace_id=chosen["id"], p_member=email)
    output.value(gone, text=f"{email} is removed from {chosen['name']}")


@by_itself(invitations)
@invitations.command("list")
@verb
def list_invitations(output: Output, connection: Connection) -> None:
    """List the workspaces that want to add you."""
    rows = Session.of(connection).ask("list_invitations")["invitations"]
    columns = headed("name:WORKSPACE workspace_id:ID role invited_by:BY")
    output.table(rows, columns, empty="no invitations", spare=("invited_by",))


def _answer(word: str, told: str) -> None:
    @invitations.command(word, help=told)
    @verb
    def _(
        output: Output,
        connection: Connection,
        workspace: Annotated[str, typer.Argument(help="The workspace's name or id.")],
    ) -> None:
        session = Session.of(connection)
        found = session.ask("list_invitations")["invitations"]
        named = [row for row in found if workspace in (row["workspace_id"], row["name"])]
        if len(named) != 1:
            listed = ", ".join(f"{row['name']} ({row['workspace_id']})" for row in found)
            raise CommandFailed(
                f"{workspace!r} must name one of your invitations: {listed or 'there are none'}",
                code="invitation_not_found",
                fix="minutehand invitations list",
            )
        [row] = named
        done = session.ask(f"{word}_invitation", p_workspace_id=row["workspace_id"])
        said = f"you are a {row['role']} of" if done["accepted"] else "you do not join"
        output.value(done, text=f"{said} {row['name']}")


_answer("accept", "Join a workspace that wants to add you.")
_answer("decline", "Refuse to join a workspace.")


def _what(made: dict[str, Any], mailed: bool | None) -> str:
    if made["state"] == "member":
        return f"{made['email']} is a {made['role']}"
    ends = "Supabase Auth mails a link" if mailed else "no mail is sent without --mail"
    return (
        f"{made['email']} is invited as {made['role']} and joins by accepting, in the console or "
        f"by `minutehand invitations accept`; {ends}"
    )
