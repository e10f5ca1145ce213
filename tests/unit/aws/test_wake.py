"""The wake-up hint: sent as Lambda expects it, shared by a crowd, never in the way."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from minutehand.aws.wake import LambdaWaker
from minutehand.config import Settings
from minutehand.log import request_context


class LambdaApi:
    """boto3's client of Lambda; it may be slow or refuse."""

    def __init__(self) -> None:
        self.invokes: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Event()
        self.status = 202

    def invoke(self, *, Payload: bytes, **call: Any) -> None:
        self.invokes.append({**call, "body": json.loads(Payload)})
        self.arrived.set()
        self.gate.wait(60)
        if self.status != 202:
            answer: Any = {"ResponseMetadata": {"HTTPStatusCode": self.status}}
            raise ClientError(answer, "Invoke")


@pytest.fixture
def lambda_api() -> Iterator[LambdaApi]:
    made = LambdaApi()
    yield made
    made.gate.set()


@pytest.fixture
def waker(lambda_api: LambdaApi, settings: Settings) -> LambdaWaker:
    return LambdaWaker(settings, make_client=lambda: lambda_api, timeout_seconds=30)


async def test_the_worker_is_invoked_asynchronously(
    waker: LambdaWaker, lambda_api: LambdaApi
) -> None:
    """An Event invoke returns at once; the request's id travels with it."""
    with request_context("request-4711"):
        await waker.wake()

    assert lambda_api.invokes == [
        {
            "FunctionName": "minutehand-test-worker",
            "InvocationType": "Event",
            "body": {
                "source": "minutehand.wake",
                "reason": "enqueue",
                "request_id": "request-4711",
            },
        }
    ]


async def test_a_crowd_shares_one_invoke_that_starts_after_its_commits(
    waker: LambdaWaker, lambda_api: LambdaApi
) -> None:
    """Who comes while an invoke is under way may have committed after its lease."""
    lambda_api.gate.clear()
    first = asyncio.ensure_future(waker.wake())
    await asyncio.to_thread(lambda_api.arrived.wait, 60)

    crowd = []
    for _ in range(5):  # also those who come when others wait already
        crowd += [asyncio.ensure_future(waker.wake(reason="redrive")) for _ in range(10)]
        await asyncio.sleep(0.01)
    lambda_api.gate.set()
    await asyncio.gather(first, *crowd)
    await waker.wake()

    reasons = [invoke["body"]["reason"] for invoke in lambda_api.invokes]
    assert reasons == ["enqueue", "redrive", "enqueue"]


@pytest.mark.parametrize("status", [429, 404, 500])
async def test_a_refused_invoke_is_a_warning_and_nothing_more(
    waker: LambdaWaker, lambda_api: LambdaApi, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is committed; the minute tick will find it."""
    lambda_api.status = status

    with caplog.at_level(logging.WARNING):
        await waker.wake()

    [record] = caplog.records
    assert record.__dict__["event"] == "wake.lost"
    assert record.__dict__["worker_function"] == "minutehand-test-worker"
    assert record.__dict__["reason"] not in ("", "Exception")
    assert len(lambda_api.invokes) == 1
