"""The command's small parts: time spans, payloads, events, settings files."""

from __future__ import annotations

from pathlib import Path

import pytest

from minutehand.cli.jobs import read_payload
from minutehand.terminal import local_member
from minutehand.terminal.connection import (
    CommandFailed,
    Connection,
    load_values,
    read_env_file,
)
from minutehand.terminal.options import seconds_of
from minutehand.terminal.output import Output


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5min", 300), ("1h30m", 5400), ("2d", 172800), ("45", 45), ("1.5h", 5400)],
)
def test_spans_are_read_as_people_write_them(text: str, seconds: float) -> None:
    """`--in 1h30m` is read aloud."""
    assert seconds_of(text) == seconds


def test_payloads_come_from_the_line_or_a_file(tmp_path: Path) -> None:
    """Long ones are easier in a file."""
    file = tmp_path / "payload.json"
    file.write_text('{"a": 1}')

    assert read_payload('{"a": 1}') == read_payload(f"@{file}") == {"a": 1}
    with pytest.raises(CommandFailed, match="must be a JSON object"):
        read_payload("[1]")
    with pytest.raises(CommandFailed, match="cannot be read"):
        read_payload(f"@{tmp_path}/missing")


def test_brackets_and_escapes_of_strangers_are_only_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Questions, reasons and errors come from jobs and other members."""
    output = Output()

    output.note("Which one? [yes, no] [/dim]")
    output.value({}, text="[/red] \x1b]0;title\x9c")
    output.table([{"error": "a\x1b[2J"}], {"error": "ERROR"}, empty="none")

    printed = capsys.readouterr()
    assert printed.err == "Which one? [yes, no] [/dim]\n"
    assert printed.out.splitlines()[0] == "[/red] ␛]0;title\ufffd"
    assert "a␛[2J" in printed.out


def test_a_named_file_wins_over_the_environment(tmp_path: Path) -> None:
    """`--env-file prod.env` must not be mixed with the shell's leftovers."""
    file = tmp_path / "prod.env"
    file.write_text("# a comment\nexport API_URL='https://api'\n\nSUPABASE_URL=https://x=y\n")
    environ = {"API_URL": "http://other", "SUPABASE_URL": "http://other", "HOME": "/"}

    assert read_env_file(file) == {"API_URL": "https://api", "SUPABASE_URL": "https://x=y"}
    assert load_values(file, environ)["API_URL"] == "https://api"
    assert load_values(None, environ)["API_URL"] == "http://other"
    unserved = {"SUPABASE_URL": "https://x", "MINUTEHAND_PROJECT": str(tmp_path)}
    assert load_values(None, unserved) == unserved  # as before any API is deployed
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local" / "env").write_text("API_URL=http://local\n")
    beside = {"API_URL": "http://mine", "MINUTEHAND_PROJECT": str(tmp_path)}
    assert load_values(None, beside)["API_URL"] == "http://mine"
    with pytest.raises(CommandFailed, match="is not a file"):
        load_values(tmp_path / "missing", environ)


def test_a_local_stack_without_accounts_is_not_signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was reported as a database that does not answer."""
    values = {"SUPABASE_URL": "http://127.0.0.1:1", "SUPABASE_JWT_SECRET": "s", "DATABASE_URL": "x"}
    monkeypatch.setattr(local_member, "first_member", lambda _: None)

    with pytest.raises(CommandFailed) as refused:
        _ = Connection(values).token

    assert refused.value.code == "not_signed_in"
