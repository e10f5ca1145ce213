"""The command's small parts: time spans, payloads, events, settings files, the scaffold."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import given
from hypothesis import strategies as st

from minutehand.cli.jobs import read_payload
from minutehand.cli.scaffold import scaffold
from minutehand.cli.show import link_of
from minutehand.cli.watch import result_of, sentence
from minutehand.terminal.connection import CommandFailed, load_values, read_env_file
from minutehand.terminal.events import Event, events_of
from minutehand.terminal.options import seconds_of
from minutehand.terminal.output import Output, ago
from tests.support.paths import ROOT

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("45", 45), ("1.5h", 5400)],
)
def test_spans_are_read_as_people_write_them(text: str, seconds: float) -> None:
    """`--in 1h30m` is read aloud."""
    assert seconds_of(text) == seconds


@given(st.text(max_size=8))
def test_a_span_is_understood_or_refused_and_never_guessed(text: str) -> None:
    """Half an understood span would run a job at the wrong time."""
    with contextlib.suppress(CommandFailed):
        assert seconds_of(text) >= 0


def test_payloads_come_from_the_line_or_a_file(tmp_path: Path) -> None:
    """Long ones are easier in a file."""
    file = tmp_path / "payload.json"
    file.write_text('{"a": 1}')

    assert read_payload('{"a": 1}') == read_payload(f"@{file}") == {"a": 1}
    with pytest.raises(CommandFailed, match="must be a JSON object"):
        read_payload("[1]")
    with pytest.raises(CommandFailed, match="cannot be read"):
        read_payload(f"@{tmp_path}/missing")


@pytest.mark.parametrize(
    ("instant", "words"),
    [
        ("2025-12-31T23:59:50+00:00", "10 s ago"),
        ("2026-01-01T00:05:00+00:00", "in 5 min"),
        ("2025-12-30T00:00:00Z", "2 d ago"),
        ("soon", "soon"),
    ],
)
def test_times_are_relative(instant: str, words: str) -> None:
    """A person thinks in distances."""
    assert ago(instant, now=NOW) == words


def test_event_streams_are_read_as_the_standard_says() -> None:
    """Comments keep the connection open; several data lines are one value; U+2028 ends no line."""
    text = (
        ': keep-alive\n\nretry: 2000\n\nid: 7\nevent: job.log\ndata: {"a":\r\n'
        'data: "x\u2028y"}\n\ndata: 3\n\n'
    )
    answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    assert list(events_of(EventSource(answer))) == [
        Event("7", "job.log", {"a": "x\u2028y"}),
        Event("7", "message", 3),
    ]


def test_an_event_is_one_readable_line() -> None:
    """What a person sees while watching."""
    at = "2026-01-01T12:34:56.789Z"
    progress = {"progress": {"percentage": 40, "stage": "enriching"}}
    # reason and instant are told apart, the instant without its fractions
    retried = {"error_message": "no answer", "next_retry_at": "2026-01-01T12:35:50.17+00:00"}

    lines = [
        sentence(Event("1", kind, {"at": at, "data": data})).plain
        for kind, data in (("job.progress", progress), ("job.retried", retried))
    ]

    assert lines == [
        "12:34:56.789  progress     40 % enriching",
        "12:34:56.789  retried     no answer (next try at 2026-01-01 12:35:50 UTC)",
    ]


@pytest.mark.parametrize(
    ("result", "told"), [(None, ""), ({"a": "é"}, '{"a": "é"}'), (["x" * 1000], "… all:")]
)
def test_a_result_fits_behind_the_end_of_its_job(result: object, told: str) -> None:
    """A quarter of a megabyte on one line would hide everything before it."""
    text = result_of({"id": "j", "result": result})

    assert told in text
    assert len(text) < 500


def test_brackets_and_escapes_of_strangers_are_only_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Questions, reasons and errors come from jobs and other members."""
    output = Output()

    output.note("Which one? [yes, no] [/dim]")
    output.value({}, text="[/red] \x1b]0;title\x9c")
    output.table([{"error_message": "a\x1b[2J"}], {"error_message": "ERROR"}, empty="none")

    printed = capsys.readouterr()
    assert printed.err == "Which one? [yes, no] [/dim]\n"
    assert printed.out.splitlines()[0] == "[/red] ␛]0;title\ufffd"
    assert "a␛[2J" in printed.out


def test_json_holds_no_control_character_of_either_set(capsys: pytest.CaptureFixture[str]) -> None:
    """U+009B begins a command as ESC [ does; what is parsed stays the same."""
    value = {"error": "\x1b[2J \x7f \x9b2J \x80\x9f é"}

    Output(as_json=True).line(value)

    written = capsys.readouterr().out
    assert json.loads(written) == value
    assert not [c for c in written[:-1] if ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F]
    assert "é" in written


def test_a_file_that_is_here_opens_in_the_editor_and_any_other_in_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blanks and brackets in a name do not end the address; without a commit there is none."""
    (tmp_path / "src" / "jobs").mkdir(parents=True)
    (tmp_path / "src" / "jobs" / "my bill.py").touch()
    monkeypatch.setenv("MINUTEHAND_PROJECT", str(tmp_path))
    monkeypatch.delenv("MINUTEHAND_EDITOR", raising=False)
    frame, origin = {"file": "jobs/my bill.py", "line": 7}, {"source": "https://x.example/blob/0a"}

    assert link_of(frame, origin) == f"vscode://file{tmp_path}/src/jobs/my%20bill.py:7"
    monkeypatch.setenv("MINUTEHAND_EDITOR", "idea://open?file={file}&line={line}")
    assert link_of(frame, {}) == f"idea://open?file={tmp_path}/src/jobs/my%20bill.py&line=7"
    gone = {**frame, "file": "jobs/gone].py"}
    assert link_of(gone, origin) == "https://x.example/blob/0a/jobs/gone%5D.py#L7"
    assert link_of(gone, {}) is None


def test_a_template_that_was_not_filled_in_is_empty(tmp_path: Path) -> None:
    """The README's files have a remark behind each name; it must not become the secret."""
    file = tmp_path / "secrets.env"
    file.write_text(
        "A=    # minutehand token secret\nB=x#y # a remark\nC='x # y' # z\nD=\"q\"\n# E=1\nF='\n"
    )

    assert read_env_file(file) == {"A": "", "B": "x#y", "C": "x # y", "D": "q", "F": "'"}


def test_a_named_file_wins_over_the_environment(tmp_path: Path) -> None:
    """`--env-file prod.env` must not be mixed with the shell's leftovers."""
    file = tmp_path / "prod.env"
    file.write_text("# a comment\nexport API_URL='https://api'\n\nSUPABASE_URL=https://x=y\n")
    environ = {"API_URL": "http://other", "SUPABASE_URL": "http://other", "HOME": "/"}

    assert read_env_file(file) == {"API_URL": "https://api", "SUPABASE_URL": "https://x=y"}
    assert load_values(file, environ)["API_URL"] == "https://api"
    assert load_values(None, environ)["API_URL"] == "http://other"
    for path, said in ((tmp_path / "missing", "does not exist"), (tmp_path, "is not a file")):
        with pytest.raises(CommandFailed, match=said):
            load_values(path, environ)


@pytest.mark.lint
def test_a_scaffolded_app_passes_its_own_test_and_the_linters(tmp_path: Path) -> None:
    """A newcomer's first processor starts green."""
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    package = tmp_path / "shared" / "minutehand"
    package.mkdir(parents=True)
    for path in (ROOT / "shared" / "minutehand").iterdir():
        if path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    apps = tmp_path / "shared" / "minutehand_apps"
    apps.mkdir()
    (apps / "__init__.py").touch()

    written = scaffold("greetings.send", tmp_path)
    names = [str(path) for path in written]
    bin_ = Path(sys.executable).parent
    for command in (
        [str(bin_ / "ruff"), "check", "--config", str(ROOT / "pyproject.toml"), *names],
        [str(bin_ / "ruff"), "format", "--check", "--config", str(ROOT / "pyproject.toml"), *names],
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", names[-1]],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["greet", "Greet.send", "a.b.c", "greet.", "class.run", "../x.y"])
def test_the_scaffold_refuses_names_that_would_not_work(tmp_path: Path, name: str) -> None:
    """Nothing is written."""
    with pytest.raises(CommandFailed):
        scaffold(name, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_the_scaffold_overwrites_nothing(tmp_path: Path) -> None:
    """The second call finds the first one's work."""
    scaffold("greetings.send", tmp_path)

    with pytest.raises(CommandFailed, match="already there"):
        scaffold("greetings.post", tmp_path)
