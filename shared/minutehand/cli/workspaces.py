"""`minutehand workspaces`: the tenants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from minutehand.project import Project
from minutehand.terminal.connection import FIXES, CommandFailed, Connection
from minutehand.terminal.options import by_itself, verb
from minutehand.terminal.output import Output, headed

FIXES.update(
    {
        "workspace_exists": "`minutehand workspaces list` shows it",
        "account_not_found": "add the account first: in the dashboard, Authentication → Users",
        "PGRST202": "a migration is missing: `minutehand doctor --only migrations` shows which",
    }
)

TENANTS = {"existing": "own organizations and their members", "personal": "users"}
workspaces = typer.Typer(help="Create and list workspaces.", rich_markup_mode=None)
Operator = Annotated[
    bool, typer.Option("--operator", help="Use SUPABASE_SECRET_KEY, even if you can sign in.")
]


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


@workspaces.command("create")
@verb
def create(
    output: Output,
    connection: Connection,
    name: Annotated[str, typer.Argument(help="The name people see.")],
    *,
    manager: Annotated[str, typer.Option(help="The first manager's mail address, or user id.")],
) -> None:
    """Make a workspace and its first manager; needs SUPABASE_SECRET_KEY."""
    session = Session.of(connection, operator=True)
    made = session.ask("create_workspace", p_name=name, p_manager=manager)
    output.value(made, text=f"{made['name']} is made, {made['id']}, managed by {manager}")


@by_itself(workspaces)
@workspaces.command("list")
@verb
def list_workspaces(output: Output, connection: Connection, *, operator: Operator = False) -> None:
    """List your workspaces; with the secret key, all."""
    rows = Session.of(connection, operator=operator).ask("list_workspaces")["workspaces"]
    columns = headed("name id members managers")
    output.table(rows, columns, empty="no workspaces", spare=("managers",))
