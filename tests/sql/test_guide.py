"""The guide in supabase/README.md: every statement runs, and does what is said there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minutehand.docs import render, sql_blocks
from minutehand.install.rewrite import Schemas
from tests.support.engine import ACME, ADA, EVE, Engine

SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}},
    "additionalProperties": False,
}
ORDER = "insert into public.orders (workspace_id, customer) values (%s, 'Grace')"


def run_the_guide(engine: Engine, repository: Path) -> list[Any]:
    """The first value of each statement's answer, in the guide's order."""
    text = render((repository / "supabase" / "README.md").read_text("utf-8"), Schemas())
    engine.register("jobs.hello", payload_schema=SCHEMA, schema_version=1)
    answers = []
    for block in sql_blocks(text):
        cursor = engine.connection.execute(block)
        while True:
            if cursor.description is not None:
                answers.append(cursor.fetchone()[0])  # type: ignore[index]
            if not cursor.nextset():
                break
    return answers


def test_every_statement_of_the_guide_runs(engine: Engine, repository: Path) -> None:
    """Four jobs by three functions, one of them for tomorrow, and each kind of setting."""
    answers = run_the_guide(engine, repository)

    assert len(answers) == 10
    leased = [lease["job"]["payload"]["name"] for lease in engine.lease(10)]
    assert sorted(leased) == ["Ada", "Ada", "Grace"]
    assert engine.one("select count(*) from public.jobs") == 4


def test_the_guides_trigger_lets_members_alone_enqueue(engine: Engine, repository: Path) -> None:
    """A trigger that runs as its owner must not become a way into another's workspace."""
    run_the_guide(engine, repository)
    engine.run("grant insert on public.orders to authenticated")
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
        eve.run(ORDER, ACME)
    with engine.member(ADA) as ada:
        ada.run(ORDER, ACME)

    assert refused.value.diag.message_hint == "workspace_not_found"
    made = "select user_id::text from public.jobs where idempotency_key like 'order-%'"
    assert engine.rows(f"{made} order by created_at") == [None, ADA]
    assert engine.one("select count(*) from public.orders") == 2


def test_every_name_in_the_picture_of_a_jobs_life_is_a_function(
    engine: Engine, repository: Path
) -> None:
    """A reader searches for an arrow's word and finds the function that makes the change."""
    text = (repository / "shared/minutehand/pages/promises.md").read_text("utf-8")
    picture = text.split("## The life of a job")[1].split("```")[1]
    named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", picture))

    known = engine.rows(
        "select distinct proname::text from pg_proc where pronamespace = 'public'::regnamespace"
        " and obj_description(oid, 'pg_proc') is not null order by proname"
    )

    assert len(named) >= 7
    assert named - set(known) == set()
