"""What the pages of `minutehand docs` print can be typed as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from minutehand.docs import PAGES, Names, render
from minutehand.install.rewrite import Schemas
from tests.support.engine import Engine
from tests.support.paths import ROOT
from tests.support.renewed import Renewed
from tests.support.stacks import RunningStack

#: pg-boss's table, as far as its page reads it.
PGBOSS = """
create schema pgboss;
create table pgboss.job
  (id uuid default gen_random_uuid(), name text, state text, data jsonb, start_after timestamptz);
insert into pgboss.job (name, state, data) values ('greet', 'created', '{"name": "Ada"}')
"""
#: Theirs need a hosted project's extensions.
ELSEWHERE = {"container"}


def blocks(text: str, language: str) -> list[str]:
    """The code of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(
    "topic",
    [page.topic for page in PAGES if blocks(page.text, "sql") and page.topic not in ELSEWHERE],
)
def test_the_sql_of_a_page_runs(renewed: Renewed, topic: str) -> None:
    """As an operator, block after block."""
    engine = Engine(renewed, renewed.session())
    engine.register("jobs.hello")
    engine.run(PGBOSS)
    [page] = [page for page in PAGES if page.topic == topic]

    for block in blocks(render(page.text, Names(Schemas("public"))), "sql"):
        engine.run(block)


@pytest.mark.usefixtures("acme_key")
def test_the_calls_over_http_run(stack: RunningStack, tmp_path: Path) -> None:
    """By curl and jq, against the running stack."""
    (tmp_path / ".local").symlink_to(stack.folder)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    [page] = [page for page in PAGES if page.topic == "http"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}

    done = subprocess.run(
        ["bash", "-ec", "\n".join(blocks(page.text, "sh"))],
        cwd=tmp_path,
        env={**environ, "HOME": str(tmp_path), "MINUTEHAND_PROJECT": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert '"credits"' in done.stdout
    assert done.stdout.endswith('{"more":false,"count":0,"cursor":null}')
