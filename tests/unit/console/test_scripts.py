"""The console's modules that need no page, under Node's own test runner."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from minutehand.node import node_binary
from tests.support.paths import ROOT

HERE = Path(__file__).resolve().parent
CONSOLE = ROOT / "infra" / "console"


#: From below: what no page needs, the outside, what pages share, a page a file, the shell.
ROOMS = ("lib/jobs/", "lib/", "api.js", "parts/", "views/", "app.js")
IMPORT = re.compile(r"""(?:from|import\() ?"(\.[^"]+)\"""")


def room_of(file: Path) -> int:
    """How far up a module is."""
    name = file.relative_to(CONSOLE).as_posix()
    return next(rank for rank, room in enumerate(ROOMS) if name.startswith(room))


def test_no_module_of_the_console_imports_from_above() -> None:
    """And no view another one: what two of them need is a part."""
    wrong = []
    for file in sorted(CONSOLE.rglob("*.js")):
        if file.is_relative_to(CONSOLE / "npm"):
            continue
        for found in IMPORT.findall(file.read_text("utf-8")):
            other = (file.parent / found).resolve()
            if not other.is_relative_to(CONSOLE) or not other.exists():
                continue  # an app's
            own = room_of(file)
            if room_of(other) > own or room_of(other) == own == ROOMS.index("views/"):
                wrong.append(f"{file.relative_to(CONSOLE)} imports {found}")

    assert wrong == []


@pytest.mark.parametrize("file", sorted(HERE.glob("*.test.mjs")), ids=lambda file: file.stem)
def test_the_javascript_tests_pass(file: Path) -> None:
    """What needs no browser is tested without one."""
    done = subprocess.run(
        # one process, which `--test` would double; timers of supabase-js would keep it running
        [node_binary(), "--test-force-exit", "--test-timeout=60000", str(file)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
