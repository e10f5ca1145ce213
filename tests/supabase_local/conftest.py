"""A project with only the Data API, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from infra.bench.scratch import scratch_settings
from infra.truth.requests import DataApi
from tests.support.project import Project
from tests.support.renewed import Renewed


@pytest.fixture
def project(renewed: Renewed) -> Project:
    """A project with only the Data API."""
    return Project(scratch_settings(renewed.gateway.url), renewed)


@pytest.fixture
def place(project: Project) -> DataApi:
    """The project in the form that `make truth` uses."""
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
    """The Data API as the service."""
    settings = project.settings
    key = {"apikey": settings.supabase_secret_key or ""}
    url = f"{settings.supabase_url}/rest/v1"
    with httpx.Client(base_url=url, headers=key, timeout=30) as client:
        yield client
