"""Small parts of the `minutehand` command: texts of other users, settings files, tokens."""

import json
import random
import subprocess
from pathlib import Path

import httpx
import pytest

from minutehand.cli.__main__ import run
from minutehand.cli.doctor.checks import format_step
from minutehand.cli.lists import last_sign
from minutehand.cli.overview import list_fields
from minutehand.cli.show import print_explanation
from minutehand.node import node_binary
from minutehand.project import FILE, VARIABLE
from minutehand.terminal.connection import (
    CommandFailed,
    Connection,
    load_values,
    parse_response,
    read_env_file,
)
from minutehand.terminal.output import Output, format_duration
from tests.support.paths import ROOT


def test_brackets_and_escapes_of_strangers_are_only_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command prints brackets and control characters of other users' texts literally."""
    output = Output()

    output.hint("Which one? [yes, no] [/dim]")
    output.value({}, text="[/red] \x1b]0;title\x9c")
    output.table([{"error": "a\x1b[2J"}], {"error": "ERROR"}, empty="none")
    output.write("cancel \u202egnp.a\u2066b\u2069\u2028c\n")

    printed = capsys.readouterr()
    assert printed.err == "Which one? [yes, no] [/dim]\n"
    assert printed.out.splitlines()[0] == "[/red] ␛]0;title\ufffd"
    assert "a␛[2J" in printed.out
    assert printed.out.endswith("cancel \ufffdgnp.a\ufffdb\ufffd\ufffdc\n")


@pytest.mark.parametrize(
    ("waiting", "line"),
    [(1, "It waits."), (12, "Other jobs of its workspace that wait for the same reason: 11.")],
)
def test_a_job_is_not_one_of_the_others_that_wait(
    capsys: pytest.CaptureFixture[str], waiting: int, line: str
) -> None:
    """The database counts the explained job too."""
    held = {"waiting": waiting, "more": False}

    print_explanation(Output(), {"held_by": held, "next": []}, "It waits.")

    assert capsys.readouterr().out.splitlines()[-1] == line


def test_only_a_silent_job_is_printed_with_its_calls(capsys: pytest.CaptureFixture[str]) -> None:
    calls = ["a.py:1 run", "b.py:2 read"]
    place = {"place": "a.py:1", "code": "read()", "stack": calls}
    for data in ({"silent": "4 min", "stack": []}, place, {"silent": "4 min", **place}):
        print_explanation(Output(), {"data": data, "next": []}, "It runs.")

    calls_with_code = ["  a.py:1 run", "    read()", "  b.py:2 read"]
    lines = ["It runs."] * 3 + ["Its calls, the innermost last:", *calls_with_code]
    assert capsys.readouterr().out.splitlines() == lines


def test_only_a_worker_that_is_not_alive_has_ended() -> None:
    """A live worker, and one whose key expired, may have ended only its latest run."""
    at = "2026-01-01T00:00:00Z"
    worker = {"seen_at": at, "ended_at": at, "state": "gone", "process_end": ""}

    assert last_sign(worker).startswith("last run ended")
    assert last_sign(worker | {"state": "alive"}).startswith("seen")
    assert ", its key expired" in last_sign(worker | {"key_expired_at": at})


@pytest.mark.parametrize(
    ("words", "command", "fix"),
    [
        ("Check its key:", "minutehand doctor -e", "Check its key: minutehand doctor -e"),
        ("Check it.", "minutehand doctor", "Check it."),
        ("Look:", "minutehand ls", "minutehand ls  # Look:"),
        ("Look.", None, "Look."),
    ],
)
def test_a_step_of_the_doctor_is_whole(words: str, command: str | None, fix: str) -> None:
    assert format_step({"words": words, "command": command}) == fix


@pytest.mark.parametrize("content", [b"", b"<html>soon</html>", b'{"jobs": ['])
def test_a_response_without_json_is_a_sentence(content: bytes) -> None:
    """If the API's response is no JSON, the command fails with the URL and the status."""
    request = httpx.Request("GET", "https://api/api/jobs")

    assert parse_response(httpx.Response(204, request=request)) is None
    with pytest.raises(CommandFailed, match="https://api/api/jobs responded 200"):
        parse_response(httpx.Response(200, content=content, request=request))
    for status, sqlstate, hint in ((500, "57014", None), (404, "42883", "No function matches.")):
        body = {"code": sqlstate, "message": "canceling statement", "hint": hint}
        with pytest.raises(CommandFailed) as failed:
            parse_response(httpx.Response(status, json=body, request=request))
        assert "minutehand doctor" in str(failed.value.fix)


def test_a_token_that_no_header_can_carry_is_a_sentence() -> None:
    """A token with a character that no HTTP header may contain is rejected with a sentence."""
    with pytest.raises(CommandFailed, match="ASCII characters"):
        _ = Connection({}, given_token="x\N{SNOWMAN}").token


def test_only_an_operator_has_the_secret_key() -> None:
    with pytest.raises(CommandFailed, match="SECRET_KEY is not set") as failed:
        Connection({}).rpc("pause_jobs", {}, as_operator=True)
    assert "let an operator" in str(failed.value.fix)


def test_a_named_file_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of `--env-file` have precedence over variables of the shell."""
    monkeypatch.chdir(tmp_path)  # a local stack of the checkout would have precedence
    file = tmp_path / "prod.env"
    file.write_text("# a comment\nexport API_URL='https://api'\n\nSUPABASE_URL=https://x=y\n")
    environ = {"API_URL": "http://other", "SUPABASE_URL": "http://other", "HOME": "/"}

    assert read_env_file(file) == {"API_URL": "https://api", "SUPABASE_URL": "https://x=y"}
    assert load_values(file, environ)["API_URL"] == "https://api"
    # Windows editors write a byte order mark
    file.write_text("NEXT_PUBLIC_SUPABASE_URL=https://x\r\n", "utf-8-sig")
    assert load_values(file, environ)["SUPABASE_URL"] == "https://x"
    assert load_values(None, environ)["API_URL"] == "http://other"
    without_api = {"SUPABASE_URL": "https://x", "MINUTEHAND_PROJECT": str(tmp_path)}
    assert load_values(None, without_api) == without_api  # as before the first deploy
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local" / "env").write_text("API_URL=http://local\nSUPABASE_URL=http://supabase\n")
    with_api = {"API_URL": "http://mine", "MINUTEHAND_PROJECT": str(tmp_path)}
    assert load_values(None, with_api)["API_URL"] == "http://mine"
    printed = {"API_URL": "http://supabase", "MINUTEHAND_PROJECT": str(tmp_path)}
    assert load_values(None, printed)["API_URL"] == "http://local", "the local stack's API"
    with pytest.raises(CommandFailed, match="must be a file"):
        load_values(tmp_path / "missing", environ)


def test_a_duration_is_the_consoles() -> None:
    """The command and the console print equal texts for each duration."""
    rng = random.Random(90)
    edges = [0, 68.5, 999.5, 1250, 59_949, 59_950, 59_999, 3_599_500, 3_600_000, 86_399_000, 10**9]
    durations = edges + [round(10 ** rng.uniform(0, 9), 1) for _ in range(500)]
    script = f"""import {{ duration }} from "{ROOT}/infra/console/lib/format.js";
console.log(JSON.stringify({json.dumps(durations)}.map(duration)));"""

    done = subprocess.run(
        [node_binary(), "--input-type=module", "-e", script], check=True, capture_output=True
    )

    assert [format_duration(value) for value in durations] == json.loads(done.stdout)


def test_the_fields_of_a_payload_have_their_types() -> None:
    """The command lists a payload's fields with types from a JSON schema of any client."""
    schema = {
        "required": ["size"],
        "properties": {
            "size": {"$ref": "#/$defs/Size"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "A note"},
            "count": {"type": ["integer", "null"]},
            "data": {},
            "extra": True,
        },
    }
    assert dict(list_fields(schema)) == {
        "size": "Size, required",
        "note": "string or null. A note",
        "count": "integer or null",
        "data": "any",
        "extra": "any",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("apps = [", "must be TOML: "),
        ('apps = "work"', "apps in "),
        ('schemas = "app"', " is unknown"),
    ],
)
def test_an_invalid_project_file_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    problem: str,
) -> None:
    """Every command reports in one line which option of minutehand.toml is wrong."""
    (tmp_path / FILE).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)

    with pytest.raises(SystemExit, match="1"):
        run()

    printed = capsys.readouterr().err
    assert (problem in printed, printed.count("\n")) == (True, 1)
