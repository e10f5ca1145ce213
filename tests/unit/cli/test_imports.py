"""What a command loads, counted in modules and not in time: it starts as fast as these."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Each costs a tenth of a second or more, and none is needed to ask the API something.
HEAVY = (
    "boto3",
    "fastapi",
    "moto",
    "psycopg",
    "supabase",
    "uvicorn",
    "minutehand.queue.models",
    "minutehand.worker",
    "minutehand.web",
    "minutehand.deploy",
    "minutehand.local",
    "minutehand.functions",
)


def loaded_by(*arguments: str) -> set[str]:
    """The modules loaded once the command line has run."""
    script = (
        "import sys, atexit\n"
        f"sys.argv = ['minutehand', *{list(arguments)!r}]\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n"
        "from minutehand.cli.entry import run\n"
        "run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    return set(done.stderr.splitlines())


@pytest.mark.parametrize(
    "verb",
    ["enqueue", "ls", "show", "watch", "logs", "explain", "types", "stats", "cancel", "retry",
     "answer", "redrive", "pause", "schedules"],
)  # fmt: skip
def test_a_verb_that_asks_the_api_loads_no_more_than_it_needs(verb: str) -> None:
    """Its help runs through the same imports as a call."""
    loaded = loaded_by(verb, "--help")

    assert "minutehand.terminal.connection" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_the_version_is_printed_before_anything_is_loaded() -> None:
    """Prompts and scripts ask for it at every turn."""
    loaded = loaded_by("--version")

    assert {"typer", "rich", "httpx", "pydantic"} & loaded == set()
