"""The local Data API responds as PostgREST 16 and 14 do, except for listed differences."""

import dataclasses
from collections.abc import Iterator

import pytest

from infra.bench.scratch import Gateway
from infra.truth.requests import DataApi, compare, find_reason, listed_reasons
from supabase_local.ports import reserve_port
from tests.support.project import Project


@pytest.fixture(params=["16", "14"])
def versioned(
    request: pytest.FixtureRequest, project: Project, place: DataApi
) -> Iterator[DataApi]:
    """The project behind one Data API process for each PostgREST version."""
    gateway = Gateway(project.database.url, reserve_port(), version=request.param)
    gateway.start()
    yield dataclasses.replace(place, rest_url=f"{gateway.url}/rest/v1")
    gateway.stop()


def test_only_listed_answers_differ_and_each_of_them_does(versioned: DataApi) -> None:
    """Each response equals the recorded one of PostgREST, or is listed as a difference."""
    found = compare(versioned)

    assert [each for each in found if find_reason(each.name) is None] == []
    assert {find_reason(each.name) for each in found} == set(listed_reasons().values())
