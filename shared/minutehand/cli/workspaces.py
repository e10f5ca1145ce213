"""`minutehand workspaces` and `minutehand members`: the tenants, and who belongs to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from minutehand.cli.invitations import send_invitation
from minutehand.terminal.connection import FIXES, CommandFailed, Connection
from minutehand.terminal.options import EnvFile, Json, Token, connected
from minutehand.terminal.output import Output, ago

FIXES.update(
    {
        "last_manager": "minutehand members role MAIL manager, for another person, first",
        "workspace_exists": "`minutehand workspaces list` shows it; `minutehand members add` adds "
        "people to it",
        "PGRST202": "this project keeps its tenants in tables of its own, or lacks a migration: "
        "`minutehand doctor --only migrations` shows which",
    }
)

workspaces = typer.Typer(help="Create and list workspaces.", rich_markup_mode=None)
members = typer.Typer(
    help="List, add, promote and remove the people of a workspace.", rich_markup_mode=None
)
Operator = Annotated[
    bool,
    typer.Option("--operator", help="Use SUPABASE_SECRET_KEY, even if you can sign in."),
]
Which = Annotated[str | None, typer.Option("--workspace", "-w", help="The workspace's name or id.")]
Mail = Annotated[str, typer.Argument(help="The person's mail address.")]
Mailed = Annotated[
    bool,
    typer.Option(
        "--mail",
        help="Have Supabase Auth mail a link to a person without an account; needs "
        "SUPABASE_SECRET_KEY. "
        "It leads to CONSOLE_URL or API_URL, where the person chooses a password.",
    ),
]
Role = Annotated[Literal["manager", "member"], typer.Option(help="manager or member.")]


@dataclass
class Session:
    """One command's output and connection, as a person or as the operator."""

    output: Output
    connection: Connection
    as_operator: bool

    def ask(self, function: str, **arguments: Any) -> Any:
        """Call a SQL function."""
        return self.connection.rpc(function, arguments, as_operator=self.as_operator)

    def workspace(self, wanted: str | None) -> dict[str, Any]:
        """The workspace of that name or id; the only one where none is named.

        Raises:
            CommandFailed: There is none, or which one is not clear.
        """
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


@contextmanager
def _session(
    as_json: bool, env_file: Path | None, token: str | None, operator: bool
) -> Iterator[Session]:
    with connected(as_json, env_file, token) as (output, connection):
        values = connection.values
        names = ("MINUTEHAND_TOKEN", "MINUTEHAND_EMAIL", "DEMO_EMAIL")
        is_person = token is not None or any(values.get(name) for name in names)
        alone = not is_person and bool(values.get("SUPABASE_SECRET_KEY"))
        yield Session(output, connection, operator or alone)


@workspaces.callback(invoke_without_command=True)
def list_workspaces(
    context: typer.Context,
    *,
    operator: Operator = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Create and list workspaces; lists them when nothing else is asked for."""
    if context.invoked_subcommand is None:
        list_all(operator=operator, token=token, env_file=env_file, as_json=as_json)


@members.callback(invoke_without_command=True)
def list_people(
    context: typer.Context,
    *,
    workspace: Which = None,
    operator: Operator = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List, add, promote and remove people; lists them when nothing else is asked for."""
    if context.invoked_subcommand is None:
        list_members(
            workspace=workspace, operator=operator, token=token, env_file=env_file, as_json=as_json
        )


@workspaces.command("create")
def create(
    name: Annotated[str, typer.Argument(help="The name people see.")],
    *,
    manager: Annotated[str, typer.Option(help="The first manager's mail address.")],
    mail: Mailed = False,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Make a workspace and its first manager; needs SUPABASE_SECRET_KEY."""
    with _session(as_json, env_file, None, operator=True) as session:
        made = session.ask("create_workspace", p_name=name, p_manager=manager)
        mailed = send_invitation(session.connection, made["manager"]) if mail else None
        session.output.value(
            {**made, "mailed": mailed},
            text=f"{made['name']} is made, {made['id']}\n{_what(made['manager'], mailed)}",
        )


@workspaces.command("list")
def list_all(
    *,
    operator: Operator = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List your workspaces; with the secret key, all."""
    with _session(as_json, env_file, token, operator) as session:
        columns = {
            "name": "NAME", "id": "ID", "members": "MEMBERS", "managers": "MANAGERS",
            "invitations": "INVITED",
        }  # fmt: skip
        spare = ("invitations", "managers")
        rows = session.ask("list_workspaces")["workspaces"]
        session.output.table(rows, columns, empty="no workspaces", spare=spare)


@members.command("list")
def list_members(
    *,
    workspace: Which = None,
    operator: Operator = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List who belongs to a workspace and who is invited."""
    with _session(as_json, env_file, token, operator) as session:
        found = session.ask("list_members", p_workspace_id=session.workspace(workspace)["id"])
        if as_json:
            session.output.line(found)
            return
        rows = [
            {"who": row["email"] or row["user_id"], "role": row["role"], "state": "member"}
            for row in found["members"]
        ]
        rows += [
            {
                "who": row["email"],
                "role": row["role"],
                "state": f"invited, ends {ago(row['expires_at'])}",
            }
            for row in found["invitations"]
        ]
        columns = {"who": "PERSON", "role": "ROLE", "state": "STATE"}
        session.output.table(rows, columns, empty="no one")


@members.command("add")
def add(
    email: Mail,
    *,
    role: Role = "member",
    mail: Mailed = False,
    workspace: Which = None,
    operator: Operator = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Add a person; without a confirmed account they join at their first sign-in."""
    _set(email, role, workspace, operator, token, env_file, as_json, mail=mail)


@members.command("role")
def change_role(
    email: Mail,
    role: Annotated[Literal["manager", "member"], typer.Argument(help="manager or member.")],
    *,
    workspace: Which = None,
    operator: Operator = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Make a person a manager, or a plain member."""
    _set(email, role, workspace, operator, token, env_file, as_json)


@members.command("remove")
def remove(
    email: Annotated[str, typer.Argument(help="The person's mail address, or user id.")],
    *,
    workspace: Which = None,
    operator: Operator = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Remove a person, or withdraw an invitation; the last manager stays."""
    with _session(as_json, env_file, token, operator) as session:
        chosen = session.workspace(workspace)
        gone = session.ask("remove_member", p_workspace_id=chosen["id"], p_member=email)
        session.output.value(gone, text=f"{email} is removed from {chosen['name']}")


def _set(
    email: str,
    role: str,
    workspace: str | None,
    operator: bool,
    token: str | None,
    env_file: Path | None,
    as_json: bool,
    *,
    mail: bool = False,
) -> None:
    with _session(as_json, env_file, token, operator) as session:
        if mail:
            session.connection.need("SUPABASE_SECRET_KEY")
        chosen = session.workspace(workspace)
        made = session.ask("set_member", p_workspace_id=chosen["id"], p_email=email, p_role=role)
        mailed = send_invitation(session.connection, made) if mail else None
        session.output.value({**made, "mailed": mailed}, text=_what(made, mailed))


def _what(made: dict[str, Any], mailed: bool | None) -> str:
    if made["state"] == "member":
        return f"{made['email']} is a {made['role']}"
    ends = {
        True: "Supabase Auth mails a link to choose a password",
        False: "no mail was sent, the address has an account",
        None: "no mail is sent without --mail",
    }
    return (
        f"{made['email']} is invited as {made['role']} and joins at the first sign-in with that "
        f"address; {ends[mailed]}"
    )
