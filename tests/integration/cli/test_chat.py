"""`minutehand chat` against the running stack: at a terminal, through a pipe, for a program."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from dataclasses import replace
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
    return replace(run, first=("chat",))


@pytest.fixture
def notes(tmp_path: Path) -> str:
    """A text to work on."""
    (tmp_path / "notes.txt").write_text(NOTES, "utf-8")
    return str(tmp_path / "notes.txt")


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_session_is_begun_and_answered(run: Run) -> None:
    """Through a pipe: the reply on standard output, all else beside it."""
    begun = run("say", "-", input="The harbour is quiet today.")
    found = re.fullmatch(r"session (guest_[0-9a-f]{64})\n", begun.stderr)
    assert found is not None
    session = found[1]
    assert "LANGUAGE_MODEL_URL" in begun.stdout

    assert "LANGUAGE_MODEL_URL" in run("say", "12 + 12", "-s", session[-12:]).stdout
    shown = run("show", session[-12:]).stdout
    listed = run.json("ls")

    assert shown.startswith("The harbour is quiet today.\n")
    assert shown.index("quiet") < shown.index("12 + 12")
    assert session in {one["session_id"] for one in listed}
    assert "The harbour is quiet" in run("ls").stdout
    run("rm", session)
    assert run.json("show", session)["messages"] == []


def test_work_is_followed_answered_and_cancelled(run: Run) -> None:
    """A program reads one document a line, and ends when nothing goes on by itself."""
    session = f"guest_{uuid.uuid4().hex}{uuid.uuid4().hex}"
    first = lines(run("say", "Draw a pie chart of rent 800, food 300", "-s", session, "--json"))
    text = "Build a dashboard of sales: Jan 10, Feb 14"
    told = lines(run("say", text, "-s", session, "--json"))

    [work] = told[0]["work"]
    assert {each["workId"] for each in told[1:]} == {work["id"]}
    assert told[-1]["type"] == "work_question"
    assert run.refused("answer", session, "Green")["code"] == "ambiguous_id"
    item = first[0]["work"][0]["id"][-8:]
    asked = run("show", session).stderr
    assert f"minutehand chat answer {session} … --item {item}" in asked
    assert "answered" in run("answer", session, "Green", "--item", item).stdout
    run("watch", session)  # until nothing goes on by itself: what it shows of that is chance
    done = run("show", session).stdout
    assert re.search(rf"{item}  Build: Draw a pie chart .*completed", done)
    assert done.count("colours: Green") == 1
    assert "/artefacts/page.html?key=" in done
    assert f"{work['id']}  cancelled" in run("cancel", session).stdout
    assert run.refused("cancel", session)["code"] == "invalid_state"
    assert "nothing is under way" in run("watch", session).stderr


def test_at_a_terminal_it_asks(stack: RunningStack, notes: str) -> None:
    """Text appears as it is written, a question waits for its answer; an option has a number."""
    command = [sys.executable, "-m", "minutehand.cli", "chat", "say"]
    command += ["Draw a chart: rent 800, food 300", "--file", notes]
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
    assert "colours: Blue and white" in words


def test_what_is_missing_is_reported_with_a_code_and_a_way_out(run: Run, tmp_path: Path) -> None:
    """As by every other verb."""
    missing = run.refused("show", uuid.uuid4().hex[:12])
    assert missing["code"] == "session_not_found"
    assert "chat ls" in missing["fix"]
    assert run.refused("say", "Hi", "-s", "roof")["code"] == "session_id_invalid"
    absent = str(tmp_path / "absent.txt")
    assert run.refused("say", "Hi", "--file", absent)["code"] == "unreadable"
    detached = run.json("say", "Good night", "--detach")
    assert run.refused("answer", detached["sessionId"], "Yes")["code"] == "invalid_state"
