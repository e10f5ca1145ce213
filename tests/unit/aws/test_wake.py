"""The wake-up hint: sent as Lambda expects it, shared by a crowd, never in the way."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from minutehand.aws.extra_workers import start_extra_workers
from minutehand.aws.wake import LambdaWaker
from minutehand.config import Settings
from minutehand.log import request_context


class LambdaApi(ThreadingHTTPServer):
    """Lambda's own API; it may be slow or refuse."""

    def __init__(self) -> None:
        self.invokes: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Event()
        self.status = 202
        super().__init__(("127.0.0.1", 0), _Asked)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Asked(BaseHTTPRequestHandler):
    server: LambdaApi

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.invokes.append(
            {
                "path": self.path,
                "type": self.headers["X-Amz-Invocation-Type"],
                "scope": self.headers["Authorization"].split("/", 2)[2].partition(",")[0],
                "body": json.loads(body),
            }
        )
        self.server.arrived.set()
        self.server.gate.wait(60)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def lambda_api() -> Iterator[LambdaApi]:
    with LambdaApi() as made:
        yield made
        made.gate.set()
        made.shutdown()


@pytest.fixture
def settings(settings: Settings, lambda_api: LambdaApi) -> Settings:
    """Settings that point at it."""
    url = f"http://127.0.0.1:{lambda_api.server_port}"
    return settings.model_copy(update={"aws_endpoint_url": url})


@pytest.fixture
def waker(settings: Settings) -> LambdaWaker:
    return LambdaWaker(settings, timeout_seconds=30)


async def test_the_worker_is_invoked_asynchronously(
    waker: LambdaWaker, lambda_api: LambdaApi
) -> None:
    """An Event invoke returns at once; the request's id travels with it."""
    with request_context("request-4711"):
        await waker.wake()

    assert lambda_api.invokes == [
        {
            "path": "/2015-03-31/functions/minutehand-test-worker/invocations",
            "type": "Event",
            "scope": "eu-central-1/lambda/aws4_request",
            "body": {
                "source": "minutehand.wake",
                "reason": "enqueue",
                "request_id": "request-4711",
            },
        }
    ]


async def test_extra_workers_that_are_refused_are_left_to_the_next_tick(
    settings: Settings, lambda_api: LambdaApi, caplog: pytest.LogCaptureFixture
) -> None:
    """A 429 is normal: it is the account's bound on concurrent runs."""
    assert await start_extra_workers(settings, 3) == 3
    sources = [each["body"]["source"] for each in lambda_api.invokes]
    assert sources == ["minutehand.extra_worker"] * 3

    lambda_api.status = 429
    assert await start_extra_workers(settings, 2) == 0
    assert [record.__dict__["refused"] for record in caplog.records] == [2]


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
    assert record.__dict__["reason"].startswith(f"AwsError: lambda responded {status}")
    assert len(lambda_api.invokes) == 1
