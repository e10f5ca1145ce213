"""`make truth` against the local stack: its parts ask whatever project they are given."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.stack
LEFT = """
  select to_regclass('public.notes'), to_regproc('public.notes_changed'),
    to_regclass('public.rt_rights')
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # a whole run of pytest within
@pytest.mark.parametrize(
    ("part", "test"),
    [
        ("realtime", "test_a_row_trigger_broadcasts"),
        ("integration", "test_a_watch_continues_where"),
    ],
)
def test_a_part_runs_against_a_project(stack: RunningStack, part: str, test: str) -> None:
    """The same tests as locally, over the servers of the project that is named; nothing stays."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    told = subprocess.run(
        [
            *(sys.executable, "-m", "infra.truth", "--url", stack.supabase_url),
            *("--part", part, "-k", test),
        ],
        cwd=ROOT,
        env={**inherited, **stack.values},
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-2000:]
    assert " passed" in told.stdout
    assert f"{part}: nothing unexpected" in told.stdout
    with stack.connect() as sql:
        assert sql.execute(LEFT).fetchone() == (None, None, None)
