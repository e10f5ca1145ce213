"""`minutehand chat`: talk in a session, follow the reply and the work behind it, answer, cancel.

How a message is followed is follow.py's; every rule is the app's own, behind its routes.
"""

from __future__ import annotations

import re
import secrets
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import FEWEST
from minutehand.terminal.inputs import read_text
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import COLOURS, Output, ago, headed, shown
from minutehand_apps.chat.verbs.follow import STATES, Follow, answer_question, command_of, state_of

app = typer.Typer(
    help="Sessions of the chat, and the background work that messages become.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
COLUMNS = headed("session_id:SESSION state messages:SAID last_message_at:LATEST title:CONVERSATION")
#: Pages of 200 sessions searched for the end of an id.
MOST_PAGES = 10


#: How a message is taken.
Mode = Literal["auto", "reply", "work"]


Session = Annotated[
    str, typer.Argument(metavar="SESSION", help=f"The session's id, or its last {FEWEST} digits.")
]
Item = Annotated[
    str | None, typer.Option("--item", "-i", help="Which work, by the last digits of its id.")
]


@app.command()
@workspace_verb
def say(
    output: Output,
    connection: Connection,
    text: Annotated[str, typer.Argument(help="What to say; - reads it.")],
    *,
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="Where; a new session without it.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="auto, reply at once, or work.")] = "auto",
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="A text to work on; repeatable, at most 5."),
    ] = None,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Whether work may ask back.")] = True,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait for the reply.")
    ] = False,
) -> None:
    """Say something and follow what becomes of it; exit code 1 unless all of it ended well."""
    documents = [{"title": path.name[:200], "text": read_text(str(path))} for path in file or []]
    session_id = _whole(connection, session) if session else f"guest_{secrets.token_hex(32)}"
    body = {
        "messages": [{"role": "user", "content": sys.stdin.read() if text == "-" else text}],
        "workspace_id": connection.workspace,
        "documents": documents,
        "mode": mode,
        "ask": ask,
    }
    if not session:
        output.note(f"session {session_id}")
    follow = Follow(output, connection, session_id)
    if detach:
        said = follow.send({**body, "wait_seconds": 0}, str(uuid.uuid4()))
        output.value(said, text=" ".join([session_id, *(one["id"] for one in said["work"])]))
        return
    follow.say(body, str(uuid.uuid4()))


@app.command()
@workspace_verb
def watch(output: Output, connection: Connection, session: Session) -> None:
    """Follow the work that is under way in a session until none is."""
    follow = Follow(output, connection, _whole(connection, session))
    live = state_of(connection, follow.session_id)["activeWork"]
    if not live:
        output.note("nothing is under way")
        return
    follow.work({one["id"]: one["title"] for one in live})


@app.command()
@workspace_verb
def ls(
    output: Output,
    connection: Connection,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 20,
) -> None:
    """List sessions, the one written in last first."""
    rows = _page(connection, limit)["sessions"]
    output.table(rows, COLUMNS, row=_row, empty="no sessions")


@app.command()
@workspace_verb
def show(
    output: Output,
    connection: Connection,
    session: Session,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 50,
) -> None:
    """Show the latest messages and the state of the work."""
    session_id = _whole(connection, session)
    talk = connection.get("/api/chat", sessionId=session_id, limit=limit)
    state = state_of(connection, session_id)
    if output.answered({**talk, **state}):
        return
    output.text(Text(shown(talk["title"] or "New conversation", lines=False), style="bold"))
    for message in talk["messages"]:
        output.text(_told(message))
    for one in [*state["endedWork"], *state["activeWork"]]:
        line = Text.assemble((f"{one['id'][-8:]}  ", "dim"), shown(f"{one['title']}  "))
        line.append(one["status"], style=COLOURS[STATES.get(one["status"], one["status"])])
        output.text(line)
    for question in state["pendingQuestions"]:
        output.note(f"{question['content']}\n→ {command_of(session_id, question)}")


@app.command()
@workspace_verb
def answer(
    output: Output,
    connection: Connection,
    session: Session,
    text: Annotated[str, typer.Argument(metavar="ANSWER", help="One of its options, or a text.")],
    *,
    item: Item = None,
) -> None:
    """Answer what work asks; of several, the one named by --item."""
    session_id = _whole(connection, session)
    asked = state_of(connection, session_id)["pendingQuestions"]
    one = _chosen({each["workId"]: each for each in asked}, item, "asks something")
    done = answer_question(connection, session_id, one["id"], text)
    output.value(done, text=f"{done['workId']}  answered")


@app.command()
@workspace_verb
def cancel(output: Output, connection: Connection, session: Session, *, item: Item = None) -> None:
    """Cancel work that is under way; of several, the one named by --item."""
    live = state_of(connection, _whole(connection, session))["activeWork"]
    one = _chosen({each["id"]: each for each in live}, item, "is under way")
    done = connection.call("POST", "/api/async-cancel", json={"workId": one["id"]})
    output.value(done, text=f"{one['id']}  cancelled")


@app.command()
@workspace_verb
def rm(output: Output, connection: Connection, session: Session) -> None:
    """Delete a session's conversation and cancel its work."""
    session_id = _whole(connection, session)
    connection.call("DELETE", "/api/chat", params={"sessionId": session_id})
    output.value({"sessionId": session_id, "deleted": True}, text="deleted")


def _page(connection: Connection, limit: int, after: str | None = None) -> dict[str, Any]:
    where = connection.workspace
    page: dict[str, Any] = connection.get(
        "/api/chat/sessions", workspace_id=where, limit=limit, after=after
    )
    return page


def _whole(connection: Connection, text: str) -> str:
    """The id of the session that is named, or whose id ends so.

    Raises:
        CommandFailed: There is none, or there are several.
    """
    if not re.fullmatch(f"[0-9a-f]{{{FEWEST},15}}", text):
        return text
    found: list[str] = []
    after = None
    for _ in range(MOST_PAGES):
        page = _page(connection, 200, after)
        found += [one["session_id"] for one in page["sessions"] if one["session_id"].endswith(text)]
        after = page["next"]
        if after is None:
            break
    return str(_only(found, f"session's id ends with {text}", "session_not_found"))


def _only(found: list[Any], what: str, missing: str) -> Any:
    if not found:
        raise CommandFailed(
            f"no {what}",
            code=missing,
            fix="`minutehand chat ls` lists sessions, `minutehand chat show SESSION` their work",
        )
    if len(found) > 1:
        raise CommandFailed(f"more than one {what}", code="ambiguous_id")
    return found[0]


def _chosen(work: dict[str, dict[str, Any]], digits: str | None, what: str) -> dict[str, Any]:
    """The work that was named, or the only one.

    Raises:
        CommandFailed: There is none, or there are several.
    """
    if digits is not None:
        found = [one for name, one in work.items() if name.endswith(digits)]
        return dict(_only(found, f"work whose id ends with {digits} {what}", "work_item_not_found"))
    if len(work) > 1:
        named = "".join(f"\n  {one}" for one in work)
        raise CommandFailed(
            f"more than one {what}:{named}", code="ambiguous_id", fix="name one with --item"
        )
    return dict(_only(list(work.values()), f"work {what}", "invalid_state"))


def _row(session: dict[str, Any]) -> dict[str, Any]:
    return {**session, "state": _state(session), "session_id": session["session_id"][-12:]}


def _state(row: dict[str, Any]) -> str:
    """A session's state, the most urgent first, in the console's words."""
    if row["answer_wanted"]:
        return "asks you"
    if row["replying"]:
        return "being answered"
    if row["live"]:
        return "works"
    return "work failed" if row["failed"] else "quiet"


def _told(message: dict[str, Any]) -> Text:
    who = message["role"]
    if who == "user":
        who = "you" if message["mine"] else "guest" if message["byGuest"] else "member"
    at = datetime.fromtimestamp(message["timestamp"] / 1000, UTC).isoformat()
    head = f"{ago(at)}  {who}  {shown(message.get('title', ''), lines=False)}".rstrip()
    page = message.get("result", {}).get("artefact")
    text = f"{message['content']}\n{page['url']}" if page else message["content"]
    return Text.assemble((f"{head}\n", "dim"), shown(text))
