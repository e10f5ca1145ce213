"""The local Data API answers as PostgREST did, but for what is listed; and `make truth` says so."""

from __future__ import annotations

import pytest

from infra.truth.requests import Place, allowed, compare, reason_of
from tests.support.project import Project


@pytest.fixture
def place(project: Project) -> Place:
    """The project, as `make truth` knows one."""
    settings = project.settings
    return Place(
        rest_url=f"{settings.supabase_url}/rest/v1",
        jwt_secret=settings.supabase_jwt_secret or "",
        publishable_key=settings.supabase_publishable_key,
        secret_key=settings.supabase_secret_key or "",
        schema=settings.schema_name,
    )


def test_only_listed_answers_differ_and_each_of_them_does(place: Place) -> None:
    """An answer of ours that is not PostgREST's hides a defect until the first hosted project."""
    found = compare(place)

    assert [each for each in found if reason_of(each.name) is None] == []
    assert {reason_of(each.name) for each in found} == set(allowed().values())
