"""How a route of events answers: a page as JSON, or a stream while this process has room for it.

The feed decides what is read; minutehand.web.sse, how it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

from fastapi import Request

from minutehand.clock import Clock
from minutehand.tasks import end_tasks
from minutehand.web.caller import Caller, token_of
from minutehand.web.errors import ApiError, unavailable
from minutehand.web.services import Services
from minutehand.web.sse import (
    Batch,
    EventStream,
    Feed,
    Pace,
    Reader,
    Stream,
    disconnected,
)

T = TypeVar("T")

#: Streams of one process; a client that comes back later may meet another one.
MAX_STREAMS: Final = 5_000
#: Longest wait for a first event in an app's buffered answer: the `jobs` function has 20 s in all.
BUFFERED_SECONDS: Final = 12.0
#: API Gateway's timeout for a function.
GATEWAY_SECONDS: Final = 30.0
#: Longer than any guest session: the database ends it, and the stream's checks find that.
LONGEST_GUEST_SESSION: Final = timedelta(days=31)


def asked_at(request: Request, clock: Clock) -> float:
    """When the gateway took the request, on the monotonic clock; now, where no gateway says.

    A gateway's timeout begins there, and a cold start may have used seconds of it.
    """
    event = request.scope.get("aws.event") or {}
    epoch_ms = event.get("requestContext", {}).get("timeEpoch")
    age = clock.now().timestamp() - epoch_ms / 1000 if isinstance(epoch_ms, int) else 0.0
    # two machines' clocks: an age that no open request can have says nothing
    return clock.monotonic() - (age if 0 < age < GATEWAY_SECONDS else 0.0)


def buffered_pace(services: Services) -> Pace:
    """An app's pace: the `jobs` function must answer sooner than `status`."""
    wait = min(services.pace.buffered_wait, BUFFERED_SECONDS)
    return replace(services.pace, buffered_wait=wait)


class Opening:
    """A stream from its request to its first byte, counted as its reader's from the beginning.

    Readers who open streams and leave would otherwise pile up first reads without a limit. The
    response that `stream` returns keeps the place until it ends; without one, the end of the
    block gives it back.

    Args:
        guest: Whose stream it is where there is no caller, such as `session:<id>`.

    Raises:
        ApiError: 503, this process has no room for another stream; 429 `rate_limited`: the
            reader has as many open as one may have.
        QueueError: 429 `rate_limited`: the caller opens them too fast, counted where each holds
            an invocation while it is open.
    """

    def __init__(
        self, request: Request, services: Services, caller: Caller | None, *, guest: str
    ) -> None:
        self._request = request
        self._services = services
        self._caller = caller
        self._holder = str(caller.user_id) if caller is not None else guest
        self._streams = False

    async def __aenter__(self) -> Self:
        services, caller = self._services, self._caller
        if services.limits.streams >= MAX_STREAMS:
            raise unavailable("This server has no capacity for another stream")
        services.limits.hold_stream(self._holder)
        if caller is not None and not services.pace.streaming:
            try:
                await services.queue_of(caller).open_stream()
            except BaseException:
                self._release()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._streams:
            self._release()

    async def read(self, reading: Coroutine[Any, Any, T]) -> T:
        """Read what the stream begins with, for as long as its reader waits for it.

        Raises:
            ApiError: 499, the reader has left; the read is cancelled.
        """
        task = asyncio.ensure_future(reading)
        leaving = asyncio.ensure_future(disconnected(self._request.receive))
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ApiError(499, "client_closed_request", "The client closed the request")
            return task.result()
        finally:
            await end_tasks([task, leaving])

    def stream(
        self,
        feed: Feed,
        first: Batch,
        *,
        began_at: float,
        pace: Pace,
        is_bare: bool = False,
    ) -> EventStream:
        """Return the response that sends `feed`, from what was read `first`.

        Args:
            began_at: When the request came, on the monotonic clock.
            is_bare: Send the feed's events alone, see `Stream`.
        """
        services, caller = self._services, self._caller
        expires_at = caller.expires_at if caller else services.clock.now() + LONGEST_GUEST_SESSION
        reader = Reader(token=token_of(caller), expires_at=expires_at, began_at=began_at)
        stream = Stream(
            feed,
            services.hub,
            reader=reader,
            pace=pace,
            clock=services.clock,
            is_bare=is_bare,
        )
        self._streams = True
        return EventStream(
            stream.chunks(first),
            stalled_after=services.pace.stalled_after,
            on_end=self._release,
        )

    def _release(self) -> None:
        self._services.limits.release_stream(self._holder)
