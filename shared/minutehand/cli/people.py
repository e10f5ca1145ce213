"""Verbs over one person's data: export it, erase it. Both are the operator's."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from minutehand.cli.control import Yes
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output

UserId = Annotated[str, typer.Argument(help="The user's id in Auth.")]
Words = Annotated[
    list[str] | None,
    typer.Option("--word", help="Also what quotes this, a name or an address; may be repeated."),
]


@verb
def export(output: Output, connection: Connection, user_id: UserId, *, word: Words = None) -> None:
    """Print a person's jobs and all that names them, as JSON."""
    output.line(_ask(connection, "export_person", user_id, word))


@verb
def erase(
    output: Output, connection: Connection, user_id: UserId, *, word: Words = None, yes: Yes = False
) -> None:
    """Delete a person's jobs and all that names them; what it deletes, export prints."""
    if not yes:
        if output.as_json or not sys.stdin.isatty():
            raise CommandFailed("nothing was changed", code="not_confirmed", fix="pass --yes")
        typer.confirm(f"Erase {user_id}? Their jobs are deleted.", err=True, abort=True)
    done = _ask(connection, "erase_person", user_id, word)
    lines = [
        f"{what} {count} in {table}" for what in done for table, count in sorted(done[what].items())
    ]
    output.value(done, text="\n".join(lines) or "there was nothing of them")


def _ask(connection: Connection, function: str, user_id: str, words: list[str] | None) -> Any:
    connection.need("SUPABASE_SECRET_KEY")
    arguments = {"p_user_id": user_id, "p_words": words or []}
    return connection.rpc(function, arguments, as_operator=True)
