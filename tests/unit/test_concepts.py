"""The page of concepts and the SQL schemas define each term in the same words."""

import re

from minutehand.docs import PAGES
from tests.support.paths import ROOT

DEFINITION = r"^- (.+\n(?:  .+\n)*)"
TERM = re.compile(r"(An? [\w ]+?) is (?:an?|the) .*")


def definitions(text: str) -> set[str]:
    """Return the list items of a text, without marks and the schema's name."""
    items = (" ".join(item.split()) for item in re.findall(DEFINITION, text, re.M))
    return {re.sub(r"`|\bqueue\.", "", item) for item in items}


def test_the_page_defines_no_term_of_the_engine_in_another_sense() -> None:
    """A term that both the page and the schema define has one definition."""
    schema = (ROOT / "supabase/schemas/01_foundation.sql").read_text()
    head = re.sub(r"^-- ?", "", schema.partition("\n\n")[0], flags=re.M)
    [page] = [page for page in PAGES if page.topic == "concepts"]

    of_engine, of_page = (
        {found[1]: found[0] for item in definitions(text) if (found := TERM.match(item))}
        for text in (head, page.text)
    )

    terms = of_engine.keys() & of_page.keys()
    assert terms >= {"A fence", "A person"}
    assert {term for term in terms if of_engine[term] != of_page[term]} == set()
