"""`watch` prints what a job says as it comes, in one flow."""

from __future__ import annotations

from typing import Any

import pytest

from minutehand.cli.watch import say
from minutehand.terminal.output import Output


def page(**more: Any) -> dict[str, Any]:
    return {"data": {"stream": "reply", "attempt": 1, "from": 0, **more}}


def test_words_flow_on_and_what_follows_begins_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An attempt that begins again says so; a terminal obeys nothing that a job says."""
    output = Output()
    say(output, page(text="Grüße, "))
    say(output, page(text="We\x1b[2Jlt", **{"from": 7}))
    say(output, page(text="Hello\n", attempt=2))
    say(output, page(items=[{"n": 1}, "two"]))

    printed = capsys.readouterr().out
    assert printed == 'Grüße, We␛[2Jlt\nreply begins again\nHello\n{"n": 1}\n"two"\n'
