"""Fixtures: a fake AWS by moto, and settings that use it."""

from collections.abc import Iterator

import pytest

from minutehand.config import Settings
from tests.support.fake_aws import fake_aws


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """The address of a fake AWS with the parameter store SSM."""
    with fake_aws("ssm") as endpoint:
        yield endpoint


@pytest.fixture
def settings(aws: str) -> Settings:
    return Settings(
        supabase_url="https://project.example.test",
        supabase_publishable_key="sb_publishable_test",
        aws_endpoint_url=aws,
        aws_region="eu-central-1",
    )
