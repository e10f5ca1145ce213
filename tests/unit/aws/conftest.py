"""moto's AWS on a port of its own, and settings that point at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minutehand.aws.clients import client
from minutehand.config import Settings
from tests.unit.aws.fake_aws import fake_aws


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The address of a fake AWS."""
    with fake_aws("ssm") as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield endpoint


@pytest.fixture
def settings(aws: str) -> Settings:
    settings = Settings(
        supabase_url="https://project.example.test",
        supabase_publishable_key="sb_publishable_test",
        aws_endpoint_url=aws,
        aws_region="eu-central-1",
        uploads_bucket="uploads-of-tests",
        worker_function_name="minutehand-test-worker",
    )
    s3 = client(settings, "s3")
    # moto's state is the process's: another file of tests may have left buckets of its own
    if "uploads-of-tests" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(
            Bucket="uploads-of-tests",
            CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
        )
    return settings
