"""The wake-up hint is sent as Lambda expects it, shared by concurrent calls, and fails none."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from minutehand.aws.extra_workers import start_extra_workers
from minutehand.aws.wake import LambdaWaker
from minutehand.config import Settings
from minutehand.log import request_context
from tests.unit.aws.conftest import Service


@pytest.fixture
def settings(settings: Settings, service: Service) -> Settings:
    """Settings with the address of the fake service."""
    return settings.model_copy(update={"aws_endpoint_url": service.url})


@pytest.fixture
def waker(settings: Settings) -> LambdaWaker:
    return LambdaWaker(settings, timeout_seconds=30)


async def test_the_worker_is_invoked_asynchronously(waker: LambdaWaker, service: Service) -> None:
    """An Event invoke returns immediately and has the id of the request."""
    with request_context("request-4711"):
        await waker.wake()

    [(path, headers, body)] = service.asked
    assert path == "/2015-03-31/functions/minutehand-test-worker/invocations"
    assert headers["X-Amz-Invocation-Type"] == "Event"
    assert "/eu-central-1/lambda/aws4_request," in headers["Authorization"]
    assert json.loads(body) == {"source": "minutehand.wake", "request_id": "request-4711"}


async def test_extra_workers_that_are_refused_are_left_to_the_next_tick(
    settings: Settings, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A 429 is normal, because the account limits concurrent runs."""
    assert await start_extra_workers(settings, 3) == 3
    sources = [json.loads(body)["source"] for _, _, body in service.asked]
    assert sources == ["minutehand.extra_worker"] * 3

    service.answer = (429, b"")
    assert await start_extra_workers(settings, 2) == 0
    assert [record.__dict__["refused"] for record in caplog.records] == [2]


async def test_a_crowd_shares_one_invoke_that_starts_after_its_commits(
    waker: LambdaWaker, service: Service
) -> None:
    """A call during an invoke may have committed after that worker's lease."""
    service.gate.clear()
    first = asyncio.ensure_future(waker.wake())
    await asyncio.to_thread(service.arrived.wait, 60)

    crowd = []
    for _ in range(5):  # later calls arrive while earlier calls still wait
        crowd += [asyncio.ensure_future(waker.wake()) for _ in range(10)]
        await asyncio.sleep(0.01)
    service.gate.set()
    await asyncio.gather(first, *crowd)
    await waker.wake()

    assert len(service.asked) == 3


@pytest.mark.parametrize("status", [429, 404, 500])
async def test_a_refused_invoke_is_a_warning_and_nothing_more(
    waker: LambdaWaker, service: Service, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is committed; the minute tick will find it."""
    service.answer = (status, b"")

    with caplog.at_level(logging.WARNING):
        await waker.wake()

    [record] = caplog.records
    assert record.__dict__["event"] == "wake.lost"
    assert record.__dict__["worker_function"] == "minutehand-test-worker"
    assert record.__dict__["reason"].startswith(f"AwsError: lambda responded {status}")
    assert len(service.asked) == 1
