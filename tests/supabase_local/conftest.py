"""Fixtures of this folder: a project of which only the Data API runs."""

from collections.abc import Iterator

import httpx
import pytest

from infra.bench.scratch import scratch_settings
from infra.truth.requests import DataApi
from tests.support.project import Project
from tests.support.renewed import Renewed


@pytest.fixture
def project(renewed: Renewed) -> Project:
    """A project of which only the Data API runs."""
    return Project(scratch_settings(renewed.gateway.url), renewed)


@pytest.fixture
def place(project: Project) -> DataApi:
    """The project in the form that `make truth` needs for a real project."""
    settings = project.settings
    return DataApi(
        rest_url=f"{settings.supabase_url}/rest/v1",
        jwt_secret=settings.supabase_jwt_secret or "",
        publishable_key=settings.supabase_publishable_key,
        secret_key=settings.supabase_secret_key or "",
        schema=settings.schema_name,
    )


@pytest.fixture
def rest(project: Project) -> Iterator[httpx.Client]:
    """An HTTP client of the Data API with the service's key."""
    settings = project.settings
    key = {"apikey": settings.supabase_secret_key or ""}
    url = f"{settings.supabase_url}/rest/v1"
    with httpx.Client(base_url=url, headers=key) as client:
        yield client
