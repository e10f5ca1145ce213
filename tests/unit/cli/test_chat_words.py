"""A question at a terminal, and what a failed reply leaves."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import httpx
import pytest
from rich.console import Console

from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.output import Output
from minutehand_apps.chat.verbs.follow import Follow, prompted


def test_a_question_is_answered_by_an_option_or_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is one; where there are no options any text that says something will do."""
    output = Output()
    written = io.StringIO()
    monkeypatch.setattr(output, "out", Console(file=written))
    monkeypatch.setattr(output, "err", Console(file=written))
    given = iter(["0", "4", "", "2", "The city", "in blue", " ", "1"])

    def ask(*_: object, **__: object) -> str:
        return next(given)

    words, options = "Draft: For whom?\x1b[2J", ["The city", "The museum"]
    assert prompted(output, words, options, ask) == "The museum"
    assert prompted(output, words, options, ask) == "The city"
    assert prompted(output, words, options, ask) == "in blue"
    assert prompted(output, words, [], ask) == "1"
    assert "\x1b" not in written.getvalue()
    assert "Draft: For whom?" in written.getvalue()
    assert "2  The museum" in written.getvalue()


def say(*events: Mapping[str, object]) -> None:
    """Follow a message to a service that streams these events."""
    told = "".join(f"data: {json.dumps(each)}\n\n" for each in events)

    def answer(request: httpx.Request) -> httpx.Response:
        feed = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=feed, text=told)

    connection = Connection({"API_URL": "http://service.test"}, "token")
    transport = httpx.MockTransport(answer)
    connection._api = httpx.Client(base_url="http://service.test", transport=transport)
    try:
        Follow(Output(), connection, "s").say({}, "key")
    finally:
        connection.close()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_reply_is_printed_once(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It grows at a terminal, and is one text through a pipe."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    pieces = ({"type": "text", "text": "The lift "}, {"type": "text", "text": "carries two.\x1b"})
    say(*pieces, {"type": "done", "status": 200, "reply": "The lift carries two.\x1b", "work": []})
    assert capsys.readouterr().out == "The lift carries two.␛\n"


def test_a_reply_that_came_to_nothing_is_a_failure() -> None:
    """With the service's reason and word."""
    error = {"type": "error", "code": "reply_failed", "error": "it rained"}
    with pytest.raises(CommandFailed, match="it rained") as failed:
        say(error)
    assert failed.value.code == "reply_failed"
