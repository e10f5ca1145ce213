"""Commands that export or erase a person's data.

The commands `export` and `erase` need the operator's key.
"""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import typer

from minutehand.aws import client
from minutehand.cli.control import Yes, confirm
from minutehand.config import ConfigurationError, Settings
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output

UserId = Annotated[UUID, typer.Argument(metavar="USER_ID", help="The user's id in Auth.")]
MatchedTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--word",
        help="Also find this text, such as the person's name or e-mail address; repeatable.",
    ),
]


@verb
def export(
    output: Output, connection: Connection, user_id: UserId, *, word: MatchedTexts = None
) -> None:
    """Export a person's jobs and all other data that names the person, as JSON."""
    output.line(_call(connection, "export_person", user_id, word))


@verb
def erase(
    output: Output,
    connection: Connection,
    user_id: UserId,
    *,
    word: MatchedTexts = None,
    yes: Yes = False,
) -> None:
    """Delete a person's jobs and all other data that names the person; `export` prints it."""
    if not yes:
        confirm(output, lambda: f"Erase {user_id}? Their jobs will be deleted.")
    settings = Settings.from_env(connection.values)  # raise an error before data is deleted
    result = _call(connection, "erase_person", user_id, word)
    files = result.get("files", [])
    lines = [
        f"{action} {count} in {table}"
        for action in ("deleted", "cleared")
        for table, count in sorted(result[action].items())
    ]
    lines += [f"deleted file {key}" for key in files]
    if files:
        _delete_files(settings, files)
    output.value(result, text="\n".join(lines) or "no data of this person found")


def _delete_files(settings: Settings, keys: Sequence[str]) -> None:
    """Delete files of the uploads bucket.

    If a file cannot be deleted, the error lists the files to delete.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        settings.require("UPLOADS_BUCKET")
        storage = client(settings, "s3")
        for key in keys:
            storage.delete_object(Bucket=settings.uploads_bucket, Key=key)
    except (ConfigurationError, BotoCoreError, ClientError) as error:
        text = f"the rows are deleted, but these files are left: {', '.join(keys)} ({error})"
        raise CommandFailed(text, code="files_left", fix="delete them from the bucket") from error


def _call(connection: Connection, function: str, user_id: UUID, texts: list[str] | None) -> Any:
    arguments = {"p_user_id": str(user_id), "p_words": texts or []}
    return connection.rpc(function, arguments, as_operator=True)
