"""Following a message in a terminal: its reply as it is written, and the work it becomes.

Verbs are chat.py's. The only difference here is the display: to a person at a terminal text
grows as it is written, a pipe gets whole lines, a program one JSON document a line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.text import Text

from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.events import ENDED, Event, stream
from minutehand.terminal.output import COLOURS, Output, joined, shown

HOME = "/api/chat/conversations"
#: States in which a job continues without a person.
_GOES_ON = {"pending", "processing"}
_TEXT = re.compile(r"text:(\d+)")


def grown(known: tuple[int, str], progress: dict[str, Any]) -> tuple[int, str]:
    """The text being written, from a place on, out of the text so far and a job's progress.

    A piece holds the text from the n-th character on (stage `text:<n>`); pieces overlap, so that
    some may be missed.
    """
    match = _TEXT.fullmatch(str(progress.get("stage") or ""))
    if match is None:
        return known
    start, text = known
    place, piece = int(match[1]), str(progress.get("message") or "")
    if not text or not start <= place <= start + len(text):
        return place, piece
    return start, text[: place - start] + piece


@dataclass
class Follow:
    """What became of a message, or of all that lives in a conversation when `message_id` is None.

    Attributes:
        wanted: Jobs that are followed: replies and work items.
    """

    output: Output
    connection: Connection
    conversation_id: str
    message_id: str | None
    wanted: set[str]
    _others: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _live: dict[str, tuple[int, str]] = field(default_factory=dict)
    _lines: dict[str, str] = field(default_factory=dict)
    _open: str | None = None  # the job whose text ends the screen's last line
    _printed: str = ""
    _ended_badly: bool = False

    def __post_init__(self) -> None:
        """Who said it has read it."""
        self._told.add(self.message_id or "")

    @property
    def path(self) -> str:
        """Where the conversation is."""
        return f"{HOME}/{self.conversation_id}"

    def run(self) -> None:
        """Print events until nothing runs any more; exit code 1 when something failed."""
        while not self._is_over() and self._stream_moved():
            pass  # it was shared, or is no longer: its jobs have another session
        self._close_line()
        if self._ended_badly:
            raise typer.Exit(1)

    def _stream_moved(self) -> bool:
        """Follow the stream to its end, or until all is over; whether it continues in another."""
        for event in stream(self.connection, f"{self.path}/stream"):
            if event.type == "end":
                return event.data.get("reason") == "moved" or not self._is_over()
            if "." in event.type and self._is_mine(event) and self._take(event):
                break
        return False

    def _is_mine(self, event: Event) -> bool:
        """Whether an event is of a job that is followed; ids rise with time."""
        job_id = str(event.data.get("job_id"))
        if job_id in self.wanted or job_id in self._others:
            return job_id in self.wanted
        if self.message_id is None or job_id < min(self.wanted):
            return False
        items = self.connection.call("GET", self.path)["work"]
        mine = {item["work_item_id"] for item in items if item["message_id"] == self.message_id}
        self.wanted |= mine
        if job_id not in mine:
            self._others.add(job_id)
        return job_id in mine

    def _take(self, event: Event) -> bool:
        """Tell an event; whether that was all."""
        if self.output.as_json:
            self.output.line(event.data)
        data = event.data.get("data") or {}
        if event.type == "job.progress":
            self._progress(str(event.data["job_id"]), data.get("progress") or {})
            return False
        return self._is_over()

    def _progress(self, job_id: str, progress: dict[str, Any]) -> None:
        if self.output.as_json:
            return
        if str(progress.get("stage") or "").startswith("text:"):
            self._live[job_id] = grown(self._live.get(job_id, (0, "")), progress)
            # work writes beside other work: its text comes whole, with its message
            if job_id not in self._lines and sys.stdout.isatty():
                self._grow(job_id, self._live[job_id])
            return
        if self._live.pop(job_id, None) is not None:
            self._close_line()  # another stage is another attempt's: its text begins again
        if job_id in self._lines:
            words = joined([f"{progress.get('percentage') or 0:>3.0f} %", progress.get("message")])
            self._say(Text.assemble((f"{self._lines[job_id]}  ", "dim"), shown(words)))

    def _grow(self, job_id: str, text: tuple[int, str]) -> None:
        start, words = text
        if self._open != job_id:
            self._close_line()
            self._open, self._printed = job_id, ""
        done = len(self._printed) - start
        if start == 0 and words.startswith(self._printed):
            more = words[len(self._printed) :]
        elif 0 < done <= len(words):
            more = words[done:]  # only its end is known; what is before is on the screen
        else:
            return
        self._printed += more
        self.output.out.print(Text(shown(more)), end="")

    def _close_line(self) -> None:
        if self._open is not None:
            self.output.out.print()
            self._open = None

    def _say(self, words: Text) -> None:
        self._close_line()
        self.output.text(words)

    def _is_over(self) -> bool:
        """Read the state and print what is new; return whether nothing runs any more."""
        while True:
            now = self.connection.call("GET", self.path)
            items = [item for item in now["work"] if self._follows(item)]
            self.wanted |= {item["work_item_id"] for item in items}
            replies = [reply for reply in now["replies"] if reply["job_id"] in self.wanted]
            self._tell_states(items)
            self._tell_messages()
            if any(one["status"] in _GOES_ON for one in [*items, *replies]):
                return False
            if self._asked([item for item in items if item["question"]]):
                continue
            self._tell_ends(now, items, replies)
            return True

    def _follows(self, item: dict[str, Any]) -> bool:
        return item["work_item_id"] in self.wanted or item["message_id"] == self.message_id

    def _tell_states(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            name = f"{item['work_item_id'][-8:]}  {item['title']}"
            known = self._lines.setdefault(item["work_item_id"], shown(name, lines=False))
            state = f"{item['work_item_id']} {item['status']} {item['question_name']}"
            if state in self._told or self.output.as_json:
                continue
            self._told.add(state)
            style = COLOURS[item["status"]]
            self._say(Text.assemble((f"{known}  ", "dim"), (item["status"], style)))

    def _tell_messages(self) -> None:
        page = self.connection.call("GET", f"{self.path}/messages", params={"limit": 50})
        for message in page["messages"]:
            if message["id"] in self._told or message["job_id"] not in self.wanted:
                continue
            self._told.add(message["id"])
            if self.output.as_json:
                self.output.line({"type": "message", "message": message})
            elif message["author"] == "assistant":
                self._tell(message)

    def _tell(self, message: dict[str, Any]) -> None:
        text = str(message["text"])
        if self._open == message["job_id"] and text.startswith(self._printed):
            self.output.out.print(Text(shown(text[len(self._printed) :])), end="")
            self._close_line()
            return
        head = f"{message['data']['title']}\n" if message["kind"] == "result" else ""
        self._say(Text.assemble((shown(head), "bold"), shown(text)))

    def _asked(self, asking: list[dict[str, Any]]) -> bool:
        """Ask the person at the terminal; whether someone was there to answer."""
        if not asking or self.output.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
            return False
        self._close_line()
        for item in asking:
            given = prompted(self.output, item, typer.prompt)
            try:
                answer_item(self.connection, self.path, item, given)
            except CommandFailed as failed:
                if failed.code != "invalid_state":
                    raise
                self.output.note(str(failed))  # someone was faster, or its default was taken
        return True

    def _tell_ends(
        self, now: dict[str, Any], items: list[dict[str, Any]], replies: list[dict[str, Any]]
    ) -> None:
        self._ended_badly = any(
            one["status"] in ENDED - {"completed"} for one in [*items, *replies]
        )
        if self.output.as_json:
            self.output.line({"type": "conversation", "conversation": now})
            return
        self._close_line()
        for one in [*items, *replies]:
            if one["status"] == "failed":
                self.output.note(f"failed: {one['error_message']}")
            elif one["status"] == "cancelled":
                self.output.note("cancelled")
        if self._ended_badly:
            self.output.note(f"→ minutehand chat retry {self.conversation_id}")
        for item in items:
            if item["question"]:
                self.output.note(question_of(self.conversation_id, item))


def prompted(output: Output, item: dict[str, Any], ask: Callable[..., Any]) -> str:
    """A person's answer to an item's question; an option also by its number."""
    options = [str(option) for option in item["question_options"] or []]
    words = shown(f"{item['title']}: {item['question']}")
    output.text(Text(words, style=COLOURS["waiting"]))
    for number, option in enumerate(options, 1):
        output.text(f"  {number}  {option}", lines=False)
    while True:
        given = str(ask("Answer", err=True)).strip()
        if given.isascii() and given.isdigit() and 1 <= int(given) <= len(options):
            return options[int(given) - 1]
        if given and not (options and given.isdigit()):
            return given
        output.note(f"one of 1 to {len(options)}")


def question_of(conversation_id: str, item: dict[str, Any]) -> str:
    """What an item asks, and how to answer it."""
    options = ", ".join(map(str, item["question_options"] or []))
    choices = f" [{options}]" if options else ""
    command = f"minutehand chat answer {conversation_id} … --item {item['work_item_id'][-8:]}"
    return f"{item['title']}: {item['question']}{choices}\n→ {command}"


def answer_item(
    connection: Connection, path: str, item: dict[str, Any], answer: str
) -> dict[str, Any]:
    """Answer the question of an item; return the conversation's new state.

    Raises:
        CommandFailed: Someone was faster, or the time to answer is over.
    """
    body = {"answer": answer, "name": item["question_name"]}
    stands: dict[str, Any] = connection.call(
        "POST", f"{path}/work/{item['work_item_id']}/answer", json=body
    )
    return stands
