"""Following a message in a terminal: its reply as it is written, and the work it becomes.

Verbs are sessions.py's. The only difference here is the display: to a person at a terminal text
grows as it is written, a pipe gets whole lines, a program one JSON document a line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import typer
from httpx_sse import EventSource
from rich.text import Text

from minutehand.terminal.connection import CommandFailed, Connection, parsed, reachable
from minutehand.terminal.events import events_of, stream
from minutehand.terminal.output import COLOURS, Output, joined, shown

#: The states of work as a job's, which have colours.
STATES = {"accepted": "pending", "in_progress": "processing", "waiting_for_user": "waiting"}
_ENDS = {"work_completed": "completed", "work_failed": "failed", "work_cancelled": "cancelled"}
#: A reply is waited for a minute at a time.
_PATIENCE = httpx.Timeout(90.0, connect=5.0)


def state_of(connection: Connection, session_id: str) -> dict[str, Any]:
    """The state of a session's work."""
    found: dict[str, Any] = connection.get("/api/async-status", sessionId=session_id)
    return found


def answer_question(
    connection: Connection, session_id: str, message_id: str, answer: str
) -> dict[str, Any]:
    """Answer a question.

    Raises:
        CommandFailed: Someone was faster, or the time to answer is over.
    """
    body = {"messageId": message_id, "sessionId": session_id, "content": answer}
    done: dict[str, Any] = connection.call("POST", "/api/async-messages", json=body)
    return done


def command_of(session_id: str, question: dict[str, Any]) -> str:
    """The command that answers a question."""
    return f"minutehand chat answer {session_id} … --item {question['workId'][-8:]}"


@dataclass
class Follow:
    """What becomes of a message, or of work in a session."""

    output: Output
    connection: Connection
    session_id: str
    _ended: dict[str, str] = field(default_factory=dict)

    def send(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Say something; what is answered at once."""
        answer = self.connection.call("POST", "/api/chat", json=body, headers=self._headers(key))
        said: dict[str, Any] = answer
        return said

    def say(self, body: dict[str, Any], key: str) -> None:
        """Say something and print the reply, or the work until it ends or asks.

        Raises:
            typer.Exit: With 1, when something failed or was cancelled.
        """
        said = self._reply(body, key)
        while said["status"] == 202 and not said["work"]:
            said = self._later(said["messageId"])
        if self.output.as_json:
            self.output.line({"type": "message", **said})
        if said["work"]:
            titles = {each["id"]: each["title"] for each in self._work(said["work"])}
            self.work(titles)

    def work(self, titles: dict[str, str]) -> None:
        """Print what becomes of work, by its id, until nothing goes on by itself."""
        asking: set[str] = set()
        path = f"/api/async-events?sessionId={self.session_id}"
        for event in stream(self.connection, path):
            told = event.data
            work_id = told.get("workId")
            if work_id not in titles:
                continue
            if self.output.as_json:
                self.output.line(told)
            asking.discard(work_id)
            if told["type"] in _ENDS:
                self._ended[work_id] = _ENDS[told["type"]]
                self._tell_end(titles[work_id], told)
            elif told["type"] == "work_question" and self._is_open(told["data"]):
                if not self._asked(told):
                    asking.add(work_id)
            elif told["type"] == "work_progress" and not self.output.as_json:
                progress = told["data"]
                words = joined([f"{progress['percentage']:>3.0f} %", progress["message"]])
                self.output.text(Text.assemble((f"{titles[work_id]}  ", "dim"), shown(words)))
            if titles.keys() <= self._ended.keys() | asking:
                break
        if any(each != "completed" for each in self._ended.values()):
            raise typer.Exit(1)

    def _headers(self, key: str) -> dict[str, str]:
        return {"x-session-id": self.session_id, "idempotency-key": key}

    def _reply(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Post a message; its reply printed as it comes."""
        headers = {**self._headers(key), "accept": "text/event-stream"}
        api = self.connection.api
        grown = False
        with (
            reachable(f"the API at {self.connection.need('API_URL')}"),
            api.stream("POST", "/api/chat", json=body, headers=headers, timeout=_PATIENCE) as told,
        ):
            if not told.is_success:
                told.read()
                parsed(told)
            for event in events_of(EventSource(told)):
                said: dict[str, Any] = event.data
                if said["type"] == "error":
                    raise CommandFailed(said["error"], code=said["code"])
                if said["type"] == "done":
                    break
                if not self.output.as_json and sys.stdout.isatty():
                    self.output.out.print(Text(shown(said["text"])), end="")
                    grown = True
        if grown:
            self.output.out.print()
        elif not self.output.as_json and (said["status"] == 200 or said["work"]):
            self.output.text(said["reply"])
        return said

    def _later(self, message_id: str) -> dict[str, Any]:
        """A reply that takes longer than one wait."""
        path = f"/api/chat/replies/{message_id}"
        params = {"sessionId": self.session_id}
        with reachable(f"the API at {self.connection.need('API_URL')}"):
            answer = self.connection.api.get(path, params=params, timeout=_PATIENCE)
            said: dict[str, Any] = {**parsed(answer), "status": answer.status_code}
        if said["status"] == 200 and not self.output.as_json:
            self.output.text(said["reply"])
        return said

    def _work(self, begun: list[dict[str, Any]]) -> list[dict[str, Any]]:
        state = state_of(self.connection, self.session_id)
        ids = {each["id"] for each in begun}
        return [one for one in state["activeWork"] + state["endedWork"] if one["id"] in ids]

    def _tell_end(self, title: str, told: dict[str, Any]) -> None:
        if self.output.as_json:
            return
        status, data = _ENDS[told["type"]], told["data"]
        line = Text.assemble((f"{shown(title, lines=False)}  ", "bold"))
        line.append(status, style=COLOURS[status])
        self.output.text(line)
        if status == "failed":
            self.output.note(f"failed: {data['error']}")
        elif data.get("result"):
            page = data["result"].get("artefact")
            self.output.text(data["result"]["text"] + (f"\n{page['url']}" if page else ""))

    def _is_open(self, question: dict[str, Any]) -> bool:
        asked = state_of(self.connection, self.session_id)["pendingQuestions"]
        return question["messageId"] in {each["id"] for each in asked}

    def _asked(self, told: dict[str, Any]) -> bool:
        """Ask the person at the terminal; whether someone was there to answer."""
        question = told["data"]
        if self.output.as_json:
            return False
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            options = ", ".join(question["options"])
            self.output.note(
                f"{question['title']}: {question['question']}{f' [{options}]' * bool(options)}"
                f"\n→ {command_of(self.session_id, told)}"
            )
            return False
        words = f"{question['title']}: {question['question']}"
        given = prompted(self.output, words, question["options"], typer.prompt)
        try:
            answer_question(self.connection, self.session_id, question["messageId"], given)
        except CommandFailed as failed:
            if failed.code != "invalid_state":
                raise
            self.output.note(str(failed))  # someone was faster, or its default was taken
        return True


def prompted(output: Output, words: str, options: Sequence[str], ask: Callable[..., Any]) -> str:
    """A person's answer to a question; an option also by its number."""
    output.text(Text(shown(words), style=COLOURS["waiting"]))
    for number, option in enumerate(options, 1):
        output.text(f"  {number}  {option}", lines=False)
    while True:
        given = str(ask("Answer", err=True)).strip()
        if given.isascii() and given.isdigit() and 1 <= int(given) <= len(options):
            return options[int(given) - 1]
        if given and not (options and given.isdigit()):
            return given
        output.note(f"one of 1 to {len(options)}")
