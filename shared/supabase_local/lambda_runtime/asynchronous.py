"""Asynchronous invocations: accepted at once, run soon, repeated, and at last sent to a queue.

Follows https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html: function
errors are repeated after one and then two minutes, throttles with growing pauses until the event is
too old. `pace` shortens these pauses for tests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from minutehand.tasks import end_tasks
from supabase_local.lambda_runtime.function import Function, TooManyRequests
from supabase_local.lambda_runtime.invocation import Invocation, Outcome

logger = logging.getLogger(__name__)

RETRY_SECONDS = (60.0, 120.0)
THROTTLE_FIRST, THROTTLE_MOST = 1.0, 300.0

Deliver = Callable[[str, str], Awaitable[None]]


class AsynchronousQueue:
    """Holds accepted events in memory; what Lambda stores durably is lost here with the process."""

    def __init__(self, deliver: Deliver, *, pace: float = 1.0) -> None:
        self._deliver = deliver
        self._pace = pace
        self._running: set[asyncio.Task[None]] = set()

    def accept(self, function: Function, invocation: Invocation) -> None:
        """Take an event; the caller is answered 202 before anything runs."""
        task = asyncio.create_task(self._carry(function, invocation))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def drain(self) -> None:
        """Wait until every accepted event has ended one way or another."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def stop(self) -> None:
        """Forget what is still waiting."""
        await end_tasks(self._running)

    async def _carry(self, function: Function, invocation: Invocation) -> None:
        config = function.config
        accepted = time.monotonic()
        tries = 0
        throttled = 0
        outcome: Outcome | None = None
        while True:
            try:
                outcome = await function.invoke(invocation)
            except TooManyRequests:
                pause = min(THROTTLE_FIRST * 2**throttled, THROTTLE_MOST)
                throttled += 1
            else:
                tries += 1
                if outcome.ok:
                    return
                if tries > config.max_retries:
                    condition = "RetriesExhausted"
                    break
                pause = RETRY_SECONDS[min(tries - 1, 1)]
            pause *= self._pace
            if time.monotonic() - accepted + pause > config.max_event_age:
                condition = "EventAgeExceeded"
                break
            await asyncio.sleep(pause)
        logger.error(
            "asynchronous invocation failed for good",
            extra={"event": "invoke.failed", "function": config.name, "condition": condition},
        )
        if config.on_failure is not None:
            record = failure_record(config.arn, invocation, outcome, condition, tries)
            await self._deliver(config.on_failure, json.dumps(record))


def failure_record(
    arn: str, invocation: Invocation, outcome: Outcome | None, condition: str, tries: int
) -> dict[str, Any]:
    """The record AWS sends to an on-failure destination, field by field."""
    now = datetime.now(UTC)
    record: dict[str, Any] = {
        "version": "1.0",
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z",
        "requestContext": {
            "requestId": invocation.request_id,
            "functionArn": f"{arn}:$LATEST",
            "condition": condition,
            "approximateInvokeCount": tries,
        },
        "requestPayload": json.loads(invocation.payload or b"null"),
    }
    if outcome is not None:
        record["responseContext"] = {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": "Unhandled",
        }
        record["responsePayload"] = outcome.json()
    return record
