"""The local Data API responds as PostgREST did, except for listed differences."""

from __future__ import annotations

from infra.truth.requests import DataApi, compare, find_reason, listed_reasons


def test_only_listed_answers_differ_and_each_of_them_does(place: DataApi) -> None:
    """A response that differs from PostgREST's hides a defect until the first hosted project."""
    found = compare(place)

    assert [each for each in found if find_reason(each.name) is None] == []
    assert {find_reason(each.name) for each in found} == set(listed_reasons().values())
