"""`minutehand chat` against the running stack: at a terminal, through a pipe, for a program."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.support.command import Run
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack

NOTES = "The lift carries two tonnes. The roof leaks."


@pytest.fixture
def run(run: Run) -> Run:
    """Run a verb of `chat`."""
    return partial(run, "chat")


@pytest.fixture
def notes(tmp_path: Path) -> str:
    """A text to work on."""
    (tmp_path / "notes.txt").write_text(NOTES, "utf-8")
    return str(tmp_path / "notes.txt")


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def refused(result: Result) -> str:
    return str(json.loads(result.stderr)["code"])


def test_a_conversation_is_begun_and_answered(run: Run) -> None:
    """Through a pipe: the reply on standard output, all else beside it."""
    begun = run("start", "-", "--title", "Harbour", input="The harbour is quiet today.")
    found = re.fullmatch(r"conversation ([0-9a-f-]{36})\n", begun.stderr)
    assert found is not None
    chat_id = found[1]
    assert "LANGUAGE_MODEL_URL" in begun.stdout

    assert run("say", chat_id[-12:], "12 + 12").stdout.startswith("12 + 12 = 24")
    shown = run("show", chat_id[-12:]).stdout
    listed = json.loads(run("ls", "--json").stdout)

    assert shown.startswith("Harbour\n")
    assert shown.index("The harbour is quiet") < shown.index("12 + 12")
    assert chat_id in {one["id"] for one in listed}
    assert "Harbour" in run("ls").stdout


def test_work_is_followed_answered_cancelled_and_tried_again(run: Run, notes: str) -> None:
    """A program reads one document a line, and ends when nothing goes on by itself."""
    chat_id = json.loads(run("start", "--json").stdout)["id"]
    text = "Draft a letter about the lift, then build a dashboard of sales: Jan 10, Feb 14"

    told = lines(run("say", chat_id, text, "--file", notes, "--json"))

    kinds = [one["message"]["kind"] for one in told if one["type"] == "message"]
    jobs = {one["job_id"] for one in told if one["type"].startswith("job.")}
    [end] = [one["conversation"] for one in told if one["type"] == "conversation"]
    assert (kinds, told[-1]["type"]) == (["message", "plan"], "conversation")
    first, second = (item["work_item_id"] for item in end["work"])
    # how far the events were told is chance: the end is read as it is
    assert jobs <= {first, second, told[0]["message"]["job_id"]}
    assert (end["waiting"], end["replying"]) == (2, False)

    assert refused(run("answer", chat_id, "Formal", "--json", code=1)) == "ambiguous_id"
    asked = run("show", chat_id).stderr
    assert f"minutehand chat answer {chat_id} … --item {first[-8:]}" in asked
    answered = run("answer", chat_id, "Formal", "--item", first[-8:]).stdout
    assert answered.startswith(f"{first}  answered; it is ")
    run("watch", chat_id)  # until nothing goes on by itself: what it shows of that is chance
    done = run("show", chat_id).stdout
    assert f"{first[-8:]}  Draft: Draft a letter about the lift  completed" in done
    assert done.count(NOTES.partition(".")[0]) == 1
    assert f"{second}  cancel requested; it is cancelled" in run("cancel", chat_id).stdout
    assert refused(run("cancel", chat_id, "--json", code=1)) == "invalid_state"
    run("retry", chat_id)
    again = run("watch", chat_id)
    assert "Blue and white" in again.stderr  # it asks, and what to do is said beside the results
    run("answer", chat_id, "something in dark green")
    run("watch", chat_id)
    assert "/api/chat/artefacts/" in run("show", chat_id).stdout
    said = json.loads(run("show", chat_id, "--json").stdout)["said"]
    assert [each["kind"] for each in said].count("result") == 2


def test_at_a_terminal_it_asks(stack: RunningStack, notes: str) -> None:
    """Text appears as it is written, a question waits for its answer; an option has a number."""
    command = [
        sys.executable,
        "-m",
        "minutehand.cli",
        "chat",
        "start",
        "Draft a letter about the lift.",
        "--file",
        notes,
    ]
    ours, theirs = os.openpty()
    environ = {**os.environ, "MINUTEHAND_ENV_FILE": str(stack.folder / "env"), "TERM": "dumb"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
    ) as running:
        os.close(theirs)
        seen, answered = b"", False
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # how Linux tells that the other end is closed
                break
            if not answered and b"Answer:" in seen:
                os.write(ours, b"9\n1\n")
                answered = True
        os.close(ours)
        code = running.wait()

    words = seen.decode()
    assert code == 0, words
    assert answered
    assert "one of 1 to " in words
    assert words.index("Answer:") < words.index("completed")
    assert "two tonnes" in words


def test_a_link_for_a_guest_is_printed_and_closed(run: Run, stack: RunningStack) -> None:
    """The same while it is open; the key is behind the #."""
    chat_id = json.loads(run("start", "--json").stdout)["id"]

    link = run("share", chat_id, "--for", "2h").stdout.strip()
    again = json.loads(run("share", chat_id, "--json").stdout)

    assert re.fullmatch(r"http://\S+/guest/chat#guest_[0-9a-f]{64}/" + chat_id, link)
    assert again["link"] == link
    assert "the link is closed" in run("share", chat_id, "--stop").stdout
    assert json.loads(run("show", chat_id, "--json").stdout)["shared_until"] is None


def test_what_is_not_there_is_told_with_a_code_and_a_way_out(run: Run, tmp_path: Path) -> None:
    """As by every other verb."""
    missing = run("show", str(uuid.uuid4()), "--json", code=1)
    assert refused(missing) == "conversation_not_found"
    assert "chat ls" in json.loads(missing.stderr)["fix"]
    assert refused(run("say", uuid.uuid4().hex[:12], "Hi", "--json", code=1)) == refused(missing)
    assert "must be an id" in run("say", "roof", "Hi", code=2).stderr
    absent = str(tmp_path / "absent.txt")
    assert refused(run("start", "Hi", "--file", absent, "--json", code=1)) == "unreadable"
    chat_id = json.loads(run("start", "--json").stdout)["id"]
    assert "nothing is under way" in run("watch", chat_id).stderr
    assert refused(run("answer", chat_id, "Yes", "--json", code=1)) == "invalid_state"
    detached = json.loads(run("say", chat_id, "Good night", "--detach", "--json").stdout)
    assert detached["conversation_id"] == chat_id
