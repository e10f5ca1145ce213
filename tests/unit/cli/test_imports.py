"""What a command loads, counted in modules and not in time: it starts as fast as these."""

from __future__ import annotations

import json
import subprocess
import sys

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


VERBS = (
    "enqueue", "ls", "show", "watch", "logs", "explain", "types", "stats", "cancel", "retry",
    "answer", "pause", "schedules", "doctor", "serve", "token",
)  # fmt: skip


def loaded_by(*lines: tuple[str, ...]) -> list[set[str]]:
    """The modules loaded once each command line has run, one after the other in one process."""
    script = (
        "import json, sys\n"
        "from contextlib import redirect_stdout, suppress\n"
        "from minutehand.cli.entry import run\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['minutehand', *line]\n"
        "    with suppress(SystemExit), redirect_stdout(None):\n"
        "        run()\n"
        "    print(json.dumps(list(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [set(json.loads(line)) for line in done.stdout.splitlines()]


def test_a_verb_that_asks_the_api_loads_no_more_than_it_needs() -> None:
    """Its help runs through the same imports as a call."""
    after = loaded_by(*((verb, "--help") for verb in VERBS))

    assert len(after) == len(VERBS)
    assert "minutehand.terminal.connection" in after[0]
    heavy = {verb: set(HEAVY) & loaded for verb, loaded in zip(VERBS, after, strict=True)}
    assert {verb: found for verb, found in heavy.items() if found} == {}
