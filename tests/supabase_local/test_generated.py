"""A thousand requests of PostgREST's grammar, each answered by what it means."""

from __future__ import annotations

from collections import Counter

from infra.truth import generated, grammar
from infra.truth.requests import Place
from tests.support.project import Project


def test_every_generated_request_is_answered_by_what_it_means(
    project: Project, place: Place
) -> None:
    """Postgres is asked in SQL of another hand; errors have the codes of the documentation."""
    with project.database.connect() as owner:
        assert [*generated.wrong_answers(place, owner)] == []


def test_the_thousand_are_of_each_kind() -> None:
    """A generator that makes one kind alone holds little."""
    asked = grammar.requests()
    kinds = Counter(
        "error" if one.fails else "form" if one.means is None else one.method for one in asked
    )

    assert len(asked) == 1000
    assert min(kinds[kind] for kind in ("error", "form", "GET", "POST", "PATCH", "DELETE")) >= 15
    assert len({one.fails for one in asked if one.fails}) >= 50
