"""Fixtures: a fake AWS by moto, and settings that use it."""

from collections.abc import Iterator

import pytest

from minutehand.config import Settings
from tests.support.fake_aws import fake_aws


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """Settings whose AWS endpoint is a fake AWS with the parameter store SSM."""
    with fake_aws("ssm") as endpoint:
        yield Settings(
            supabase_url="https://project.example.test",
            supabase_publishable_key="sb_publishable_test",
            aws_endpoint_url=endpoint,
            aws_region="eu-central-1",
        )
