"""The page of concepts and the head of the schemas define a term by the same words."""

from __future__ import annotations

import re

from minutehand.docs import PAGES
from tests.support.paths import ROOT

DEFINITION = r"^- (.+\n(?:  .+\n)*)"


def definitions(text: str) -> set[str]:
    """Return the items of a text, one line each, without marks and the name of the schema."""
    items = (" ".join(item.split()) for item in re.findall(DEFINITION, text, re.M))
    return {re.sub(r"`|\bqueue\.", "", item) for item in items}


def test_the_page_defines_each_term_of_the_engine_as_the_schemas_do() -> None:
    """A reader must not learn two meanings of a word."""
    schema = (ROOT / "supabase/schemas/01_foundation.sql").read_text("utf-8")
    head = re.sub(r"^-- ?", "", schema.partition("\n\n")[0], flags=re.M)
    first_list = re.search(rf"(?:{DEFINITION})+", head, re.M)
    [page] = [page for page in PAGES if page.topic == "concepts"]

    assert first_list
    terms = definitions(first_list[0])
    assert len(terms) > 10
    assert terms - definitions(page.text) == set()


def test_the_comment_of_jobs_defines_a_job_as_the_page_does() -> None:
    """The Data API and the console's readers see this comment.

    The comment of workspaces cannot change, because a project may have replaced that table.
    """
    schema = (ROOT / "supabase/schemas/02_jobs.sql").read_text("utf-8")
    [page] = [page for page in PAGES if page.topic == "concepts"]

    comments = re.findall(r"comment on table public\.jobs is\s+E?'([^\\']+)", schema)

    assert len(comments) == 1
    assert set(comments) - definitions(page.text) == set()
