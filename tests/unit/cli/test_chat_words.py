"""A text that is being written, out of overlapping pieces, and a question at a terminal."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import httpx
import pytest
import typer
from rich.console import Console

from minutehand.apps.chat.verbs.follow import Follow, grown, prompted
from minutehand.terminal.connection import Connection
from minutehand.terminal.output import Output

REPLY, CHAT, MESSAGE = "job-1", "chat-1", "message-1"


def test_a_text_is_joined_from_pieces_of_which_some_are_missed() -> None:
    """Counted in characters, as the worker counts; what is no text changes nothing."""
    known = (0, "")
    for stage, message in (
        ("text:0", "The röof 🏠"),
        ("thinking", "a moment"),
        ("text:9", "is mended"),
        ("text:2", "e röof is mended."),
    ):
        known = grown(known, {"stage": stage, "message": message})
    assert known == (0, "The röof is mended.")
    assert grown(known, {"stage": "text:400", "message": "late"}) == (400, "late")
    assert grown(known, {}) == known


def test_a_question_is_answered_by_an_option_or_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until it is one; where there are no options any text that says something will do."""
    output = Output()
    shown = io.StringIO()
    monkeypatch.setattr(output, "out", Console(file=shown))
    monkeypatch.setattr(output, "err", Console(file=shown))
    given = iter(["0", "4", "", "2", "The city", "in blue", " ", "1"])

    def ask(*_: object, **__: object) -> str:
        return next(given)

    item = {
        "title": "Draft",
        "question": "For whom?\x1b[2J",
        "question_options": ["The city", "The museum"],
    }
    assert prompted(output, item, ask) == "The museum"
    assert prompted(output, item, ask) == "The city"
    assert prompted(output, item, ask) == "in blue"
    assert prompted(output, {**item, "question_options": None}, ask) == "1"
    assert "\x1b" not in shown.getvalue()
    assert "Draft: For whom?" in shown.getvalue()
    assert "2  The museum" in shown.getvalue()


class Conversation:
    """A service with one conversation: a reply that is written while its stream is told."""

    def __init__(self, pieces: list[tuple[str, str]], end: str, text: str | None) -> None:
        told = [
            {"type": "job.progress", "data": {"progress": {"stage": stage, "message": message}}}
            for stage, message in pieces
        ]
        told.append({"type": f"job.{end}", "data": {}})
        self.stream = "".join(
            f"id: {n}\nevent: {each['type']}\ndata: {json.dumps({'job_id': REPLY, **each})}\n\n"
            for n, each in enumerate(told)
        )
        self.end, self.text = end, text
        self.is_over = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/stream"):
            self.is_over = True
            feed = {"content-type": "text/event-stream"}
            return httpx.Response(200, headers=feed, text=self.stream)
        if request.url.path.endswith("/messages"):
            said = {"id": "message-2", "author": "assistant", "kind": "reply", "text": self.text}
            there = self.is_over and self.text is not None
            return httpx.Response(200, json={"messages": [{**said, "job_id": REPLY}] * there})
        status = self.end if self.is_over else "processing"
        reply = {"job_id": REPLY, "status": status, "error_message": "it rained"}
        replies: list[Any] = [] if status == "completed" else [reply]
        return httpx.Response(200, json={"work": [], "replies": replies})


def followed(service: Conversation, *, as_json: bool = False) -> None:
    """Follow the message that the service answers."""
    connection = Connection({"API_URL": "http://service.test"}, "token")
    connection._api = httpx.Client(
        base_url="http://service.test", transport=httpx.MockTransport(service)
    )
    try:
        Follow(Output(as_json=as_json), connection, CHAT, MESSAGE, {REPLY}).run()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("pieces", "seen"),
    [
        ([], "The lift carries two tonnes.\n"),
        ([("text:0", "The lift "), ("text:4", "lift carries")], "The lift carries two tonnes.\n"),
        ([("text:0", "The lift"), ("text:20", "two")], "The lift carries two tonnes.\n"),
        ([("text:9", "carries two")], "The lift carries two tonnes.\n"),
        (
            [("text:0", "A lift goes"), ("thinking", ""), ("text:9", "carries")],
            "A lift goes\nThe lift carries two tonnes.\n",
        ),
        # another attempt begins anew: what stands on the screen cannot be taken back
        ([("text:0", "A lift"), ("text:0", "The")], "A lift\nThe lift carries two tonnes.\n"),
    ],
)
def test_a_reply_grows_at_a_terminal_and_stands_there_once(
    pieces: list[tuple[str, str]],
    seen: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever was missed of it on the way."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    followed(Conversation(pieces, "completed", "The lift carries two tonnes."))
    assert capsys.readouterr().out == seen


def test_a_reply_that_came_to_nothing_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason and the way on; for a program the last line says how things stand."""
    with pytest.raises(typer.Exit) as ended:
        followed(Conversation([], "failed", None))
    told = capsys.readouterr()
    assert (ended.value.exit_code, told.out) == (1, "")
    assert "failed: it rained" in told.err
    assert f"minutehand chat retry {CHAT}" in told.err
    with pytest.raises(typer.Exit):
        followed(Conversation([], "failed", None), as_json=True)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["conversation"]["replies"][0]["status"] == "failed"
