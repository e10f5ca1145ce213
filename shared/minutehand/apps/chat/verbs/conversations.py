"""`minutehand chat`: talk, follow the reply and the work behind it, answer, cancel, try again.

How a message is followed is follow.py's; every rule is the app's own, behind its routes.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from minutehand.apps.chat.verbs.follow import HOME, Follow, answer_item, question_of
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import FEWEST, WHOLE, digits_of
from minutehand.terminal.inputs import read_text
from minutehand.terminal.options import EnvFile, Json, Token, Workspace, connected, seconds_of
from minutehand.terminal.output import COLOURS, Output, ago, shown

app = typer.Typer(
    help="Conversations, and the background work that messages become.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
COLUMNS = {
    "id": "ID",
    "state": "STATE",
    "messages": "SAID",
    "last_message_at": "LATEST",
    "title": "CONVERSATION",
}
#: Pages of 200 conversations searched for a part of an id.
MOST_PAGES = 10


class Mode(StrEnum):
    """How a message is taken."""

    AUTO = "auto"
    REPLY = "reply"
    WORK = "work"


def _part(text: str | None) -> str | None:
    if text is None:
        return None
    if (digits := digits_of(text)) is None:
        raise typer.BadParameter(f"{text!r} must be an id, or {FEWEST} or more digits of one")
    return digits


ChatId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The conversation's id, or its first or last 6 digits or more.",
        callback=_part,
    ),
]
Item = Annotated[
    str | None,
    typer.Option(
        "--item", "-i", help="Which work item or reply, by 6 digits or more.", callback=_part
    ),
]
TheMode = Annotated[Mode, typer.Option("--mode", help="auto, reply at once, or work.")]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", help="A text to work on; repeatable, at most 5."),
]
Ask = Annotated[bool, typer.Option("--ask/--no-ask", help="Whether work may ask back.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the reply.")]


@app.command()
def start(
    text: Annotated[str | None, typer.Argument(help="What to say first; - reads it.")] = None,
    *,
    title: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    mode: TheMode = Mode.AUTO,
    file: Files = None,
    ask: Ask = True,
    detach: Detach = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Begin a conversation, and say something in it."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        said = None if text is None else _message(text, mode, file, ask)
        begun = connection.call(
            "POST",
            HOME,
            json={"workspace_id": connection.workspace, "title": title},
            headers={"idempotency-key": str(uuid.uuid4())},
        )
        if said is None:
            output.value(begun, text=begun["id"])
            return
        output.note(f"conversation {begun['id']}")
        _say(output, connection, begun["id"], said, detach)


@app.command()
def say(
    chat_id: ChatId,
    text: Annotated[str, typer.Argument(help="What to say; - reads it.")],
    *,
    mode: TheMode = Mode.AUTO,
    file: Files = None,
    ask: Ask = True,
    detach: Detach = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Say something and follow what becomes of it; exit code 1 unless all of it ended well."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        said = _message(text, mode, file, ask)
        _say(output, connection, _whole(connection, chat_id), said, detach)


@app.command()
def watch(
    chat_id: ChatId,
    *,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Follow all that is under way in a conversation until nothing is."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        chat_id = _whole(connection, chat_id)
        now = connection.call("GET", f"{HOME}/{chat_id}")
        live = {job_id for job_id, one in _jobs(now).items() if not _is_over(one)}
        if not live:
            output.note("nothing is under way")
            return
        Follow(output, connection, chat_id, None, live).run()


@app.command()
def ls(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 20,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List conversations, the one written in last first."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        params = {"workspace_id": connection.workspace, "limit": limit}
        rows = connection.call("GET", HOME, params=params)["conversations"]
        if not as_json:
            for row in rows:
                row["state"] = _state(row)
        output.table(rows, COLUMNS, empty="no conversations")


@app.command()
def show(
    chat_id: ChatId,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 50,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Show the latest messages and the state of the work."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        path = f"{HOME}/{_whole(connection, chat_id)}"
        found = connection.call("GET", path)
        page = connection.call("GET", f"{path}/messages", params={"limit": limit})
        if as_json:
            output.line({**found, "said": page["messages"]})
            return
        output.text(Text(shown(found["title"] or "New conversation", lines=False), style="bold"))
        for message in page["messages"]:
            output.text(_told(message))
        for job_id, one in _jobs(found).items():
            words = one.get("title") or "the reply"
            line = Text.assemble((f"{job_id[-8:]}  ", "dim"), shown(f"{words}  ", lines=False))
            line.append(one["status"], style=COLOURS[one["status"]])
            output.text(line)
            if one.get("question"):
                output.note(question_of(found["id"], one))


@app.command()
def answer(
    chat_id: ChatId,
    text: Annotated[str, typer.Argument(metavar="ANSWER", help="One of its options, or a text.")],
    *,
    item: Item = None,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Answer what a work item asks; of several, the one named by --item."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        path, job_id, one = _item(
            connection, chat_id, item, lambda one: bool(one.get("question")), "asks something"
        )
        stands = answer_item(connection, path, {"question_name": None, **one}, text)
        output.value(stands, text=f"{job_id}  answered; it is {_status(stands, job_id)}")


@app.command()
def cancel(
    chat_id: ChatId,
    *,
    item: Item = None,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Cancel a work item, or the writing of a reply; of several, the one named by --item."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        path, job_id, _ = _item(
            connection, chat_id, item, lambda one: not _is_over(one), "is under way"
        )
        stands = connection.call("POST", f"{path}/work/{job_id}/cancel")
        output.value(stands, text=f"{job_id}  cancel requested; it is {_status(stands, job_id)}")


@app.command()
def retry(
    chat_id: ChatId,
    *,
    item: Item = None,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Try a failed or cancelled item or reply again; of several, the one named by --item."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        ended_badly = {"failed", "cancelled"}
        path, job_id, _ = _item(
            connection, chat_id, item, lambda one: one["status"] in ended_badly, "can be retried"
        )
        stands = connection.call("POST", f"{path}/work/{job_id}/retry")
        output.value(stands, text=f"{job_id}  enqueued again; it is {_status(stands, job_id)}")


@app.command()
def share(
    chat_id: ChatId,
    *,
    span: Annotated[str, typer.Option("--for", help="How long it is valid: 1h, 7d.")] = "1d",
    stop: Annotated[bool, typer.Option("--stop", help="Close the open link.")] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Print a link by which someone without an account comes into a conversation."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        chat_id = _whole(connection, chat_id)
        path = f"{HOME}/{chat_id}/share"
        if stop:
            connection.call("DELETE", path)
            output.value({"id": chat_id, "shared": False}, text="the link is closed")
            return
        shared = connection.call("POST", path, json={"ttl_seconds": int(seconds_of(span))})
        site = connection.values.get("CONSOLE_URL") or connection.need("API_URL")
        link = f"{site.rstrip('/')}/guest/chat#{shared['session_id']}/{chat_id}"
        output.value({**shared, "link": link}, text=link)
        output.note(
            f"anyone who has it can read and write there; it expires {ago(shared['expires_at'])}"
        )


def _message(text: str, mode: Mode, files: list[Path] | None, ask: bool) -> dict[str, Any]:
    """The body of a message; its own id makes a repeated request find the first.

    Raises:
        CommandFailed: A file cannot be read.
    """
    documents = []
    for path in files or []:
        documents.append({"title": path.name[:200], "text": read_text(str(path))})
    return {
        "text": sys.stdin.read() if text == "-" else text,
        "client_id": str(uuid.uuid4()),
        "documents": documents,
        "mode": mode.value,
        "ask": ask,
    }


def _say(
    output: Output, connection: Connection, chat_id: str, body: dict[str, Any], detach: bool
) -> None:
    sent = connection.call("POST", f"{HOME}/{chat_id}/messages", json=body)
    if detach:
        output.value({**sent, "conversation_id": chat_id}, text=f"{chat_id}  {sent['job_id']}")
        return
    if output.as_json:
        output.line({"type": "message", "message": sent["message"]})
    Follow(output, connection, chat_id, sent["message"]["id"], {sent["job_id"]}).run()


def _whole(connection: Connection, digits: str) -> str:
    """The id of the one conversation whose id is, begins or ends with these digits.

    Raises:
        CommandFailed: There is none, or there are several.
    """
    if len(digits) == WHOLE:
        return str(uuid.UUID(digits))
    found: list[str] = []
    params: dict[str, Any] = {"workspace_id": connection.workspace, "limit": 200}
    for _ in range(MOST_PAGES):
        page = connection.call("GET", HOME, params=params)
        found += [one["id"] for one in page["conversations"] if _fits(one["id"], digits)]
        if page["next"] is None:
            break
        params["after"] = page["next"]
    return _only(found, f"conversation's id begins or ends with {digits}", "conversation_not_found")


def _fits(one: str, digits: str) -> bool:
    bare = one.replace("-", "")
    return bare.startswith(digits) or bare.endswith(digits)


def _only(found: list[str], what: str, missing: str) -> str:
    if not found:
        raise CommandFailed(
            f"no {what}",
            code=missing,
            fix="`minutehand chat ls` lists conversations, `minutehand chat show ID` their work",
        )
    if len(found) > 1:
        named = "".join(f"\n  {one}" for one in found)
        raise CommandFailed(f"more than one {what}:{named}", code="ambiguous_id")
    return found[0]


def _jobs(conversation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Work items, and replies that are not written, by their job's id."""
    replies = {one["job_id"]: one for one in conversation["replies"]}
    return {one["work_item_id"]: one for one in conversation["work"]} | {
        job_id: {**one, "work_item_id": job_id} for job_id, one in replies.items()
    }


def _item(
    connection: Connection,
    chat_id: str,
    digits: str | None,
    fits: Callable[[dict[str, Any]], bool],
    what: str,
) -> tuple[str, str, dict[str, Any]]:
    """The conversation's path, and the id and state of the job that is meant; see `_chosen`."""
    path = f"{HOME}/{_whole(connection, chat_id)}"
    found = connection.call("GET", path)
    job_id = _chosen(found, digits, fits, what)
    return path, job_id, _jobs(found)[job_id]


def _chosen(
    conversation: Mapping[str, Any],
    digits: str | None,
    fits: Callable[[dict[str, Any]], bool],
    what: str,
) -> str:
    """The job that was named, or the only one that fits.

    Raises:
        CommandFailed: There is none, or there are several.
    """
    jobs = _jobs(conversation)
    if digits is not None:
        found = [job_id for job_id in jobs if _fits(job_id, digits)]
        return _only(found, f"work item's id begins or ends with {digits}", "work_item_not_found")
    found = [job_id for job_id, one in jobs.items() if fits(one)]
    if len(found) > 1:
        named = "".join(f"\n  {one}  {jobs[one].get('title') or 'the reply'}" for one in found)
        raise CommandFailed(
            f"more than one {what}:{named}", code="ambiguous_id", fix="name one with --item"
        )
    return _only(found, f"work item {what}", "invalid_state")


def _status(conversation: Mapping[str, Any], job_id: str) -> str:
    one = _jobs(conversation).get(job_id)
    return str(one["status"]) if one else "completed"


def _is_over(one: Mapping[str, Any]) -> bool:
    return one["status"] in {"completed", "failed", "cancelled"}


def _state(row: Mapping[str, Any]) -> str:
    """A conversation's state, the most urgent first, in the console's words."""
    if row["answer_wanted"]:
        return "asks you"
    if row["replying"]:
        return "being answered"
    if row["live"]:
        return "works"
    return "work failed" if row["failed"] else "quiet"


def _told(message: Mapping[str, Any]) -> Text:
    who = {"user": "guest" if message["by_guest"] else "member"}.get(message["author"], "assistant")
    head = f"{ago(message['created_at'])}  {who}"
    if message["kind"] == "result":
        head += f"  {shown(message['data']['title'], lines=False)}"
    page = (message["data"] or {}).get("artefact")
    text = f"{message['text']}\n{page['url']}" if page else message["text"]
    return Text.assemble((f"{head}\n", "dim"), shown(text))
