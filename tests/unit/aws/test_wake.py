"""Invocations of the worker's Lambda function.

Concurrent calls share one invocation, and a failed one raises no error.
"""

import asyncio
import json
import logging
import threading

import pytest

from minutehand.aws.extra_workers import start_extra_workers
from minutehand.aws.wake import LambdaWaker
from minutehand.config import Settings
from minutehand.log import request_context
from tests.unit.aws.conftest import Service


@pytest.fixture
def settings(service: Service) -> Settings:
    """Settings whose AWS endpoint is the local service."""
    return Settings(
        supabase_url="https://project.example.test",
        supabase_publishable_key="sb_publishable_test",
        aws_region="eu-central-1",
        aws_endpoint_url=service.url,
        worker_function_name="minutehand-test-worker",
    )


@pytest.fixture
def waker(settings: Settings) -> LambdaWaker:
    return LambdaWaker(settings, timeout_seconds=30)


async def test_the_worker_is_invoked_asynchronously(waker: LambdaWaker, service: Service) -> None:
    """The worker is invoked asynchronously, and the event contains the request's id."""
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
    """Extra workers that AWS rejects with 429 are logged and not requested again."""
    assert await start_extra_workers(settings, 3) == 3
    sources = [json.loads(body)["source"] for _, _, body in service.asked]
    assert sources == ["minutehand.extra_worker"] * 3

    service.answer = (429, b"")
    assert await start_extra_workers(settings, 2) == 0
    assert [record.__dict__["refused"] for record in caplog.records] == [2]


async def test_a_crowd_shares_one_invoke_that_starts_after_its_commits(
    waker: LambdaWaker, service: Service
) -> None:
    """Fifty concurrent wake calls share one invocation.

    It starts after the call that came before them has ended. A later call gets its own.
    """
    service.gate.clear()
    first = asyncio.ensure_future(waker.wake())
    await asyncio.to_thread(service.arrived.wait, 60)

    crowd = []
    for _ in range(5):  # more calls arrive while the first is in flight
        crowd += [asyncio.ensure_future(waker.wake()) for _ in range(10)]
        await asyncio.sleep(0.01)
    held, service.gate = service.gate, threading.Event()
    service.arrived.clear()
    held.set()
    await asyncio.to_thread(service.arrived.wait, 60)
    late = asyncio.ensure_future(waker.wake())  # the shared run may not find this caller's job
    await asyncio.sleep(0)
    service.gate.set()
    await asyncio.gather(first, *crowd, late)

    assert len(service.asked) == 3


@pytest.mark.parametrize("status", [429, 404, 500])
async def test_a_refused_invoke_is_a_warning_and_nothing_more(
    waker: LambdaWaker, service: Service, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """If AWS rejects an invocation, a warning is logged and no error is raised.

    The next minute's run finds the job.
    """
    service.answer = (status, b"")

    with caplog.at_level(logging.WARNING):
        await waker.wake()

    [record] = caplog.records
    assert record.__dict__["event"] == "wake.lost"
    assert record.__dict__["worker_function"] == "minutehand-test-worker"
    assert record.__dict__["reason"].startswith(f"AwsError: lambda responded {status}")
    assert len(service.asked) == 1
