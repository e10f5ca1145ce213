"""`minutehand watch`, which prints a job's output as it arrives."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from httpx_sse import ServerSentEvent

from minutehand.cli.watch import OutputPrinter, format_event, format_log_line
from minutehand.terminal.output import Output, localize_times


def page(**more: Any) -> dict[str, Any]:
    return {"data": {"stream": "reply", "attempt": 1, "from": 0, **more}}


def test_words_flow_on_and_what_follows_begins_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Pieces of output are printed without line breaks between them.

    A new attempt begins a line, and control characters are escaped.
    """
    printer = OutputPrinter(Output())
    printer.print(page(text="Grüße, "))
    printer.print(page(text="We\x1b[2Jlt", **{"from": 7}))
    printer.print(page(text="Hello\n", attempt=2))
    printer.print(page(stream="facts", items=[{"n": 1}, "two"]))

    printed = capsys.readouterr().out
    assert printed == 'Grüße, We␛[2Jlt\nreply starts again\nHello\n{"n": 1}\n"two"\n'


@pytest.mark.parametrize("text", [True, False], ids=["text", "items"])
def test_output_that_the_next_attempt_keeps_is_printed_once(
    capsys: pytest.CaptureFixture[str], text: bool
) -> None:
    """Output that a later attempt repeats from finished steps is printed once."""
    printer = OutputPrinter(Output())
    lines = []
    for attempt, start, new in [(1, 0, "abc"), (2, 0, "ab"), (2, 2, "cd"), (3, 0, "abx")]:
        more: dict[str, Any] = {"text": new} if text else {"items": list(new)}
        printer.print(page(attempt=attempt, **{"from": start}, **more))
        lines.append(re.sub('["\n]', "", capsys.readouterr().out))

    assert lines == ["abc", "", "d", "reply starts againabx"]


def test_a_retry_that_is_past_is_no_next_try() -> None:
    """An event about a retry in the past is printed without the time of a next try."""
    for year, has_try in ((2000, False), (9000, True)):
        data = json.dumps({"data": {"next_retry_at": f"{year}-01-01T00:00:00+00:00"}})
        text = format_event(ServerSentEvent("job.retried", data)).plain
        assert ("next try in" in text, "ago" in text) == (has_try, False)


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user whose clock is nine hours ahead of UTC."""
    with monkeypatch.context() as set_back:
        set_back.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_instants_are_by_the_readers_clock() -> None:
    """Times are printed in the user's time zone, with the date if it is not today."""
    line: dict[str, Any] = {"created_at": "2026-01-31T15:04:05.678901+00:00", "log_level": "info"}
    line |= {"message": "x", "metadata": {"page": 7}}
    assert format_log_line(line).plain == '00:04:05.678  info    x  {"page": 7}'
    assert localize_times("since 2026-01-31 15:04:05+00.") == "since 2026-02-01 00:04:05."
    now = datetime.now(UTC)
    sentence = localize_times(f"expected {now:%Y-%m-%d %H:%M:%S}+00")
    assert sentence == f"expected {(now.hour + 9) % 24:02}:{now:%M:%S}"
