"""The local Data API answers as PostgREST did, but for what is listed; and `make truth` says so."""

from __future__ import annotations

from infra.truth.requests import Place, allowed, compare, reason_of


def test_only_listed_answers_differ_and_each_of_them_does(place: Place) -> None:
    """An answer of ours that is not PostgREST's hides a defect until the first hosted project."""
    found = compare(place)

    assert [each for each in found if reason_of(each.name) is None] == []
    assert {reason_of(each.name) for each in found} == set(allowed().values())
